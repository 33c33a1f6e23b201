"""What a run was asked for, from the trainer's settings in ``run.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcpo_overlay.trainers import TRAINERS


def planned_epochs(run: Mapping[str, Any]) -> int | None:
    """Epochs that were asked for; None where ``run.json`` does not say, or says no end."""
    trainer, settings = TRAINERS.get(str(run.get("upstream"))), run.get("trainer")
    if trainer is None or not isinstance(settings, Mapping):
        return None
    return trainer.planned_epochs(settings)


def samples_per_epoch(run: Mapping[str, Any]) -> int | None:
    """The batch size as the paper means it, samples of all ranks in an epoch; None where ``run.json`` does not say."""
    trainer, settings = TRAINERS.get(str(run.get("upstream"))), run.get("trainer")
    hardware = run.get("hardware")
    if trainer is None or not isinstance(settings, Mapping):
        return None
    ranks = hardware.get("world_size", 1) if isinstance(hardware, Mapping) else 1
    return trainer.samples_per_epoch(settings, ranks) if isinstance(ranks, int) else None
