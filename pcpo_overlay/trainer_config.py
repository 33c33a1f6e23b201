"""What a run was asked for, from the trainer's settings in ``run.json``: each upstream has its own names and counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: DanceGRPO's trainers that run more iterations than ``--max_train_steps``: passes, and how many more in each.
_PASSES_AND_MORE = {
    "dancegrpo_wan_2_1": (1, 1),
    "dancegrpo_qwenimage": (1, 2),
    "dancegrpo_qwenimage_edit": (3, 2),
}


def planned_epochs(run: Mapping[str, Any]) -> int | None:
    """Epochs that were asked for; None where the trainer's settings do not say, or say no end."""
    trainer, upstream = run.get("trainer"), str(run.get("upstream"))
    if not isinstance(trainer, Mapping):
        return None
    if "num_epochs" in trainer:
        given = trainer["num_epochs"]
        more = 1 if upstream == "dancegrpo_sd" else 0  # it counts from 0 to the number, and includes it
        return given + more if isinstance(given, int) and given + more > 0 else None
    given = trainer.get("max_train_steps")
    if not isinstance(given, int):
        return None
    passes, more = _PASSES_AND_MORE.get(upstream, (1, 0))
    return passes * (given + more)


def samples_per_epoch(run: Mapping[str, Any]) -> int | None:
    """The batch size as the paper means it, samples of all ranks in an epoch; None where ``run.json`` does not say."""
    trainer, hardware = run.get("trainer"), run.get("hardware")
    if not isinstance(trainer, Mapping):
        return None
    sample = trainer.get("sample")
    settings = {**trainer, **sample} if isinstance(sample, Mapping) else trainer
    batch = settings.get("train_batch_size", settings.get("batch_size"))
    # DanceGRPO's prompts times images of each; the others' batches
    many = "num_generations" if str(run.get("upstream")).startswith("dancegrpo_") else "num_batches_per_epoch"
    ranks = hardware.get("world_size", 1) if isinstance(hardware, Mapping) else 1
    factors = (batch, settings.get(many), ranks)
    if not all(isinstance(count, int) for count in factors):
        return None
    return int(factors[0] * factors[1] * factors[2])
