"""What a run was asked for, from the trainer's settings in ``run.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcpo_overlay.tools.runs.files import is_number
from pcpo_overlay.trainers import TRAINERS, setting


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


def whole(trainer: Mapping[str, Any], path: str, least: int, most: int) -> int:
    """A whole number of the trainer's settings, by its path such as ``sample.num_steps``.

    Raises:
        ValueError: it is none, or out of bounds; the message names it.
    """
    value = setting(trainer, path)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"trainer.{path} is {value!r:.60} in place of a whole number from {least} to {most}")
    return value


def real(trainer: Mapping[str, Any], path: str, least: float, most: float) -> float:
    """A number of the trainer's settings, as :func:`whole`; a NaN of ``run.json`` is read as None."""
    value = setting(trainer, path)
    if not is_number(value) or not least <= value <= most:
        raise ValueError(f"trainer.{path} is {value!r:.60} in place of a number from {least:g} to {most:g}")
    return value
