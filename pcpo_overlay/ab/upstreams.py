"""What the A/B command has to know about an upstream's training script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pcpo_overlay

#: The package's own folder; the miniatures' config files are in it.
PACKAGE = Path(pcpo_overlay.__file__).resolve().parent
#: Stands in a launch command for a port that is free when the run starts.
PORT = "{port}"


@dataclass(frozen=True)
class Upstream:
    """One upstream as ``ab`` runs it.

    Attributes:
        name: short name, as on the command line and in ``run.json``.
        clone: its name in ``vendor.lock``, and of its folder in ``vendor/``.
        script: the training script, relative to the clone.
        config: the miniature's config file, used unless the user brings one.
        flags: the script's flags that ``ab`` sets itself: seed, number of epochs, checkpoint interval.
        folders: the script's flags that name a folder to write to, with the place below the run folder.
        launch: options of ``accelerate launch``, from the clone's folder; :data:`PORT` for a port.
        cpu_launch: further ones where there is no CUDA.
        cpu_environment: variables for the launcher and the script where there is no CUDA.
        wrapper: for a script whose loop is endless: the config file that wraps the user's, as ``WRAPPER:FILE[:NAME]``,
            and gives it a number of epochs. None where the script takes one by itself.
    """

    name: str
    clone: str
    script: str
    config: Path
    flags: Mapping[str, str]
    folders: Mapping[str, str]
    launch: tuple[str, ...]
    cpu_launch: tuple[str, ...] = ()
    cpu_environment: Mapping[str, str] = field(default_factory=dict)
    wrapper: Path | None = None


_DDPO = Upstream(
    name="ddpo",
    clone="ddpo-pytorch",
    script="scripts/train.py",
    config=PACKAGE / "miniature" / "ddpo_config.py",
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
    config=PACKAGE / "miniature" / "flow_grpo_config.py",
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
    wrapper=PACKAGE / "configs" / "flow_grpo.py",
)  # fmt: skip

UPSTREAMS = {upstream.name: upstream for upstream in (_DDPO, _FLOW_GRPO)}
