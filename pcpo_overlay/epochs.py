"""How many epochs a run was asked for: each upstream counts in its own way."""

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
    """Epochs that ``run.json`` says were asked for; None where its trainer's config does not say, or says no end."""
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
