"""How the tests start upstream's training script on the miniature, and what a run leaves behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import wan_video

from pcpo_overlay.tools.ab.plan import free_port

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
MINIATURE = ROOT / "pcpo_overlay" / "tools" / "miniature"
TIMEOUT_S = 600


@dataclass(frozen=True)
class Trainer:
    """An upstream's training script and the miniature at its smallest."""

    clone: str
    script: str
    config: str
    small: dict[str, Any]
    #: Whether it needs a process group for one process too: train_sd3.py reaches into DDP's wrapper where beta > 0.
    always_distributed: bool = False
    #: What writes the model that it reads into a folder, where that is none of the package's.
    build: Callable[[Path], None] | None = None
    #: Epochs before the first that is trained; an override of ``num_epochs`` counts from there.
    idle: int = 0
    #: Variables that its launcher sets.
    env: Mapping[str, str] = field(default_factory=dict)

    def arguments(self, overrides: dict[str, Any]) -> list[str]:
        return [f"--config.{k}={v}" for k, v in {**self.small, **overrides}.items()]


#: Sampling and training use the same batch size, so that the network's output is reproduced bit for bit wherever it can
#: be. 2 epochs of 8 samples, 2 optimizer steps an epoch, 5 denoising steps.
DDPO = Trainer(
    clone="ddpo-pytorch",
    script="scripts/train.py",
    config=str(MINIATURE / "ddpo_config.py"),
    small={
        "use_lora": True,
        "num_epochs": 2,
        "seed": 7,
        "sample.num_steps": 5,
        "sample.batch_size": 4,
        "sample.num_batches_per_epoch": 2,
        "train.batch_size": 4,
        "train.gradient_accumulation_steps": 1,
        "train.learning_rate": 1e-3,
        "per_prompt_stat_tracking.min_count": 100,
        "save_freq": 1000,
    },
)
#: LoRA, guidance and KL term as upstream has them. 2 epochs of 8 samples of 4 prompts, 2 optimizer steps an epoch, 5
#: denoising steps of which 4 are trained; one evaluation before and one after, on each of the ten prompts once.
FLOW_GRPO = Trainer(
    clone="flow_grpo",
    script="scripts/train_sd3.py",
    config=f"{MINIATURE / 'flow_grpo_config.py'}:jpeg_compressibility",
    small={
        "num_epochs": 2,
        "seed": 7,
        "sample.num_steps": 5,
        "sample.eval_num_steps": 3,
        "sample.test_batch_size": 10,
        "dataset": str(HERE / "prompts"),
        "train.beta": 0.04,
        "sample.train_batch_size": 4,
        "sample.num_image_per_prompt": 2,
        "sample.num_batches_per_epoch": 2,
        "train.batch_size": 4,
        "train.gradient_accumulation_steps": 1,
        "train.learning_rate": 1e-3,
        "save_freq": 1000,
        "eval_freq": 1000,
    },
    always_distributed=True,
)
#: Every script of flow_grpo's that PCPO is patched into, by what follows ``train_``; settings that differ are the
#: miniature's config's own, but for what is here.
FLOW_TRAINERS = {
    "sd3": FLOW_GRPO,
    "sd3_fast": replace(
        FLOW_GRPO,
        script="scripts/train_sd3_fast.py",
        # three of the first four steps are drawn with noise and trained
        small={**FLOW_GRPO.small, "sample.sde_window_range": "(0,4)"},
    ),
    "sd3_GRPO_Guard": replace(FLOW_GRPO, script="scripts/train_sd3_GRPO_Guard.py"),
    "flux": replace(FLOW_GRPO, script="scripts/train_flux.py"),
    "flux_fast": replace(
        FLOW_GRPO,
        script="scripts/train_flux_fast.py",
        small={**FLOW_GRPO.small, "sample.sde_window_range": "(0,4)"},
    ),
    "flux_kontext": replace(
        FLOW_GRPO,
        script="scripts/train_flux_kontext.py",
        small={**FLOW_GRPO.small, "dataset": str(HERE / "edits")},
    ),
    "qwenimage": replace(FLOW_GRPO, script="scripts/train_qwenimage.py", config=str(HERE / "qwen_config.py")),
    "qwenimage_edit": replace(
        FLOW_GRPO,
        script="scripts/train_qwenimage_edit.py",
        config=str(HERE / "qwen_config.py"),
        small={**FLOW_GRPO.small, "dataset": str(HERE / "edits")},
    ),
    # evaluates and saves before an epoch that is not its first
    "wan2_1": replace(
        FLOW_GRPO,
        script="scripts/train_wan2_1.py",
        config=str(HERE / "wan_config.py"),
        small={**FLOW_GRPO.small, "num_epochs": 4, "eval_freq": 3, "save_freq": 3},
        build=wan_video.build,
        idle=2,
    ),
    # picture by picture, so half as many; two of three steps are trained; with what accelerate_configs/fsdp.yaml says
    "bagel": replace(
        FLOW_GRPO,
        script="scripts/train_bagel.py",
        config=str(HERE / "bagel_config.py"),
        small={
            **FLOW_GRPO.small,
            "sample.num_steps": 4,
            "sample.train_batch_size": 2,
            "train.batch_size": 2,
            "eval_freq": 1,
        },
        env={
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": "1",
            "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
            "FSDP_BACKWARD_PREFETCH": "BACKWARD_PRE",
            "FSDP_FORWARD_PREFETCH": "true",
            "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
            "FSDP_USE_ORIG_PARAMS": "true",
        },
    ),
}
# What the tests of DDPO alone use.
CONFIG = DDPO.config
arguments = DDPO.arguments


@dataclass(frozen=True)
class Run:
    """A finished run: what ``record.py`` saved on every rank, and the run folder that PCPO wrote, if any."""

    ranks: list[dict[str, Any]]
    folder: Path
    stderr: str

    @property
    def record(self) -> dict[str, Any]:
        return self.ranks[0]

    @property
    def run_json(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        return loaded

    def metrics(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [r for r in map(json.loads, lines) if r["kind"] == kind]


def recorded(
    trainer: Trainer,
    folder: Path,
    config: Path | str | None = None,
    args: Sequence[str] = (),
    overrides: dict[str, Any] | None = None,
) -> list[str]:
    """The recorder, the script and its arguments, to be run in a clone; all that is written goes into the folder.

    ``config`` is a config file in place of the miniature's; ``args`` are added as they are.
    """
    outputs = {"logdir": str(folder / "logs")}
    if trainer.clone == FLOW_GRPO.clone:
        outputs["save_dir"] = str(folder / "saved")
    return [
        str(HERE / "record.py"),
        str(folder / "record"),
        trainer.script,
        f"--config={config or trainer.config}",
        *trainer.arguments({**outputs, **(overrides or {})}),
        *args,
    ]


def ranks(procs: int) -> list[dict[str, str]]:
    """What torchrun tells each of so many processes, without the seconds that it takes to start."""
    world = {"WORLD_SIZE": str(procs), "LOCAL_WORLD_SIZE": str(procs)}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **world, **meeting} for rank in range(procs)]


def environment(clone: Path, **extra: str) -> dict[str, str]:
    """The subprocess's environment: one thread (bits depend on the number), no network, no wandb."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PCPO", "ACCELERATE", "WANDB"))}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(clone)]),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "CUDA_VISIBLE_DEVICES": "",
        **extra,
    }
