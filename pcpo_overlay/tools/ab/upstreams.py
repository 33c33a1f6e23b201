"""How ``ab`` starts an upstream's training script, on the miniature or on the user's own model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pcpo_overlay
from pcpo_overlay.trainers import TRAINERS, Trainer

#: The package's own folder; the miniatures' config files are in it.
PACKAGE = Path(pcpo_overlay.__file__).resolve().parent
#: Launchers, as modules of the very Python that runs the command.
ACCELERATE = ("-m", "accelerate.commands.launch")
TORCHRUN = ("-m", "torch.distributed.run")
#: Stands in a launch command for a port that is free when the run starts.
PORT = "{port}"
#: The same for the number of a node among a run's, and for the address of the first.
NODE, HEAD = "{node}", "{head}"


@dataclass(frozen=True)
class Upstream:
    """One training script as ``ab`` starts it.

    Attributes:
        trainer: the script.
        config: the miniature's config file, used unless the user brings one. Where it ends in ``.sh`` the script takes
            none: it is a launch script, and so is the user's, whose ``torchrun`` line has the arguments.
        animals: the config file of the miniature that draws animals, where there is one.
        folders: the script's flags that name a folder to write to, with the place below the run folder.
        launch: options of the launcher, from the clone's folder; :data:`PORT` for a port.
        launcher: the arguments of Python that start it.
        cpu_launch: further ones where there is no CUDA.
        cpu_environment: variables for the launcher and the script where there is no CUDA.
        wrapper: for a script whose loop is endless: the config file that wraps the user's, as ``WRAPPER:FILE[:NAME]``,
            and gives it a number of epochs. None where the script takes one by itself.
        in_workplace: whether the script reads and writes at paths relative to where it runs, so that each run needs a
            folder of its own.
        runner: a file that takes the script and its arguments, and starts it on the miniature. None where the script
            itself does.
    """

    trainer: Trainer
    config: Path
    folders: Mapping[str, str]
    launch: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ACCELERATE
    cpu_launch: tuple[str, ...] = ()
    cpu_environment: Mapping[str, str] = field(default_factory=dict)
    wrapper: Path | None = None
    in_workplace: bool = False
    runner: Path | None = None
    animals: Path | None = None

    @property
    def name(self) -> str:
        """Short name of the trainer, in ``run.json``."""
        return self.trainer.name

    @property
    def clone(self) -> str:
        """Name of its upstream in ``vendor.lock``, and of its folder in ``vendor/``."""
        return self.trainer.upstream

    @property
    def script(self) -> str:
        """The training script, relative to the clone."""
        return self.trainer.script

    @property
    def has_launch_script(self) -> bool:
        """Whether a launch script takes the place of a config file."""
        return self.config.suffix == ".sh"


_MINIATURE = PACKAGE / "tools" / "miniature"
_DDPO = Upstream(
    trainer=TRAINERS["ddpo"],
    config=_MINIATURE / "ddpo_config.py",
    folders={"--config.logdir": "logs"},
    # One process, said in full so that the launcher does not warn. The mixed precision is only the launcher's
    # default: upstream's config names its own.
    launch=(
        "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
    ),
    cpu_launch=("--cpu",),
    animals=_MINIATURE / "animals" / "ddpo_config.py",
)  # fmt: skip
_FLOW_GRPO = Upstream(
    trainer=TRAINERS["flow_grpo"],
    config=_MINIATURE / "flow_grpo_config.py",
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
_SD = Upstream(
    trainer=TRAINERS["dancegrpo_sd"],
    config=_MINIATURE / "dancegrpo" / "sd_config.py",
    folders={"--config.logdir": "logs"},
    launch=("--standalone", "--nproc_per_node=1"),
    launcher=TORCHRUN,
    in_workplace=True,
    runner=_MINIATURE / "dancegrpo" / "run.py",
    animals=_MINIATURE / "animals" / "dancegrpo_sd_config.py",
)
_FLUX = Upstream(
    trainer=TRAINERS["dancegrpo_flux"],
    config=_MINIATURE / "dancegrpo" / "flux.sh",
    folders={"--output_dir": "checkpoints"},
    launcher=TORCHRUN,
    in_workplace=True,
    runner=_MINIATURE / "dancegrpo" / "run.py",
)
_FLUX_LORA = replace(
    _FLUX, trainer=TRAINERS["dancegrpo_flux_lora"], config=_MINIATURE / "dancegrpo" / "flux_lora.sh"
)

#: DanceGRPO's trainers by what ``--trainer`` calls them.
DANCEGRPO = {"sd": _SD, "flux": _FLUX, "flux_lora": _FLUX_LORA}
#: flow_grpo's likewise; the first is the one without ``--trainer``.
FLOW_GRPO = {
    "sd3": _FLOW_GRPO,
    **{
        name: replace(_FLOW_GRPO, trainer=TRAINERS[f"flow_grpo_{trainer}"])
        for name, trainer in (
            ("sd3_fast", "sd3_fast"),
            ("sd3_GRPO_Guard", "sd3_guard"),
            ("flux", "flux"),
            ("flux_fast", "flux_fast"),
        )
    },
}
#: What ``--trainer`` chooses from.
CHOICES: Mapping[str, Mapping[str, Upstream]] = {"dancegrpo": DANCEGRPO, "flow_grpo": FLOW_GRPO}
#: By the trainer's name.
UPSTREAMS = {upstream.name: upstream for upstream in (_DDPO, *FLOW_GRPO.values(), *DANCEGRPO.values())}
#: What the command line calls an upstream.
NAMES = (_DDPO.name, _FLOW_GRPO.name, "dancegrpo")
