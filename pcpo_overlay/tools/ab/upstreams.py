"""What the A/B command has to know about an upstream's training script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pcpo_overlay

#: The package's own folder; the miniatures' config files are in it.
PACKAGE = Path(pcpo_overlay.__file__).resolve().parent
#: Launchers, as modules of the very Python that runs the command.
ACCELERATE = ("-m", "accelerate.commands.launch")
TORCHRUN = ("-m", "torch.distributed.run")
#: Stands in a launch command for a port that is free when the run starts.
PORT = "{port}"


@dataclass(frozen=True)
class Upstream:
    """One upstream as ``ab`` runs it.

    Attributes:
        name: short name, as on the command line and in ``run.json``.
        clone: its name in ``vendor.lock``, and of its folder in ``vendor/``.
        script: the training script, relative to the clone.
        config: the miniature's config file, used unless the user brings one. Where it ends in ``.sh`` the script takes
            none: it is a launch script, and so is the user's, whose ``torchrun`` line has the arguments.
        flags: the script's flags that ``ab`` sets itself: seed, number of epochs, checkpoint interval.
        folders: the script's flags that name a folder to write to, with the place below the run folder.
        launch: options of the launcher, from the clone's folder; :data:`PORT` for a port.
        launcher: the arguments of Python that start it.
        cpu_launch: further ones where there is no CUDA.
        cpu_environment: variables for the launcher and the script where there is no CUDA.
        wrapper: for a script whose loop is endless: the config file that wraps the user's, as ``WRAPPER:FILE[:NAME]``,
            and gives it a number of epochs. None where the script takes one by itself.
        more_epochs: how many more than its flag says the script runs.
        in_workplace: whether the script reads and writes at paths relative to where it runs, so that each run needs a
            folder of its own.
        runner: a file that takes the script and its arguments, and starts it on the miniature. None where the script
            itself does.
    """

    name: str
    clone: str
    script: str
    config: Path
    flags: Mapping[str, str]
    folders: Mapping[str, str]
    launch: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ACCELERATE
    cpu_launch: tuple[str, ...] = ()
    cpu_environment: Mapping[str, str] = field(default_factory=dict)
    wrapper: Path | None = None
    more_epochs: int = 0
    in_workplace: bool = False
    runner: Path | None = None

    @property
    def has_launch_script(self) -> bool:
        """Whether a launch script takes the place of a config file."""
        return self.config.suffix == ".sh"


_DDPO = Upstream(
    name="ddpo",
    clone="ddpo-pytorch",
    script="scripts/train.py",
    config=PACKAGE / "tools" / "miniature" / "ddpo_config.py",
    flags={
        "seed": "--config.seed",
        "epochs": "--config.num_epochs",
        "save_freq": "--config.save_freq",
    },
    folders={"--config.logdir": "logs"},
    # One process, said in full so that the launcher does not warn. The mixed precision is only the launcher's
    # default: upstream's config names its own.
    launch=(
        "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
    ),
    cpu_launch=("--cpu",),
)  # fmt: skip
_FLOW_GRPO = Upstream(
    name="flow_grpo",
    clone="flow_grpo",
    script="scripts/train_sd3.py",
    config=PACKAGE / "tools" / "miniature" / "flow_grpo_config.py",
    flags={
        "seed": "--config.seed",
        "epochs": "--config.num_epochs",
        "save_freq": "--config.save_freq",
    },
    # upstream adds "checkpoints" to save_dir itself
    folders={"--config.save_dir": "", "--config.logdir": "logs"},
    # as upstream's own scripts/single_node/grpo.sh has it
    launch=(
        "--config_file", "scripts/accelerate_configs/multi_gpu.yaml", "--num_processes=1",
        "--main_process_port", PORT,
    ),
    # --cpu would contradict the config file; the variable reaches both the launcher's choice and the script
    cpu_environment={"ACCELERATE_USE_CPU": "true"},
    wrapper=PACKAGE / "tools" / "launch" / "flow_grpo.py",
)  # fmt: skip


_DANCEGRPO = PACKAGE / "tools" / "miniature" / "dancegrpo"
_SD = Upstream(
    name="dancegrpo_sd",
    clone="DanceGRPO",
    script="fastvideo/train_grpo_sd.py",
    config=_DANCEGRPO / "sd_config.py",
    flags={
        "seed": "--config.seed",
        "epochs": "--config.num_epochs",
        "save_freq": "--config.save_freq",
    },
    folders={"--config.logdir": "logs"},
    launch=("--standalone", "--nproc_per_node=1"),
    launcher=TORCHRUN,
    more_epochs=1,
    in_workplace=True,
    runner=_DANCEGRPO / "run.py",
)
_FLUX = Upstream(
    name="dancegrpo_flux",
    clone="DanceGRPO",
    script="fastvideo/train_grpo_flux.py",
    config=_DANCEGRPO / "flux.sh",
    flags={"seed": "--seed", "epochs": "--max_train_steps", "save_freq": "--checkpointing_steps"},
    folders={"--output_dir": "checkpoints"},
    launcher=TORCHRUN,
    in_workplace=True,
    runner=_DANCEGRPO / "run.py",
)
_FLUX_LORA = replace(
    _FLUX,
    name="dancegrpo_flux_lora",
    script="fastvideo/train_grpo_flux_lora.py",
    config=_DANCEGRPO / "flux_lora.sh",
)

#: By name: as on the command line, but for DanceGRPO's trainers, of which each is an upstream by itself.
UPSTREAMS = {upstream.name: upstream for upstream in (_DDPO, _FLOW_GRPO, _SD, _FLUX, _FLUX_LORA)}
#: DanceGRPO's trainers by what ``--trainer`` calls them.
TRAINERS = {upstream.name.removeprefix("dancegrpo_"): upstream for upstream in (_SD, _FLUX, _FLUX_LORA)}
#: What the command line calls an upstream.
NAMES = (_DDPO.name, _FLOW_GRPO.name, "dancegrpo")
