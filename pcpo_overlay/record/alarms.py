"""What looks wrong in the metrics of a run, in words: each alarm is raised once, and none stops a run."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

#: A gradient norm explodes at this many times the median of the last optimizer steps, of at least so many.
EXPLODES, NORMS, LEAST_NORMS = 10.0, 100, 5
#: The reward falls if its mean over so many epochs is below the best such mean, or the first epoch's, by this many
#: standard deviations of an epoch's rewards, the larger of the two.
FALLS, WINDOW = 1.0, 5


class Alarms:
    """Watches the records of a run; each method gives the alarms that a record raises, by name, with their words."""

    def __init__(self) -> None:
        self._raised: set[str] = set()
        self._norms: deque[float] = deque(maxlen=NORMS)
        self._rewards: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        # mean and spread of the rewards in the best window so far; before there is one, in the first epoch, since a
        # policy can collapse at its first update
        self._best: tuple[float, float] | None = None

    @property
    def count(self) -> int:
        """How many were raised so far."""
        return len(self._raised)

    def of_step(self, record: Mapping[str, Any], where: str = "") -> dict[str, str]:
        """An optimizer step was recorded; ``where`` says more about what is not finite."""
        found, at = {}, f"epoch {record['epoch']}, optimizer step {record['step']}"
        if record["nonfinite"]:
            found["nonfinite"] = (
                f"{record['nonfinite']} non-finite log ratios or losses in {at}{where}; the run goes on, later ones "
                "are only counted (`nonfinite` in the metrics)"
            )
        norm = record.get("grad_norm")
        if norm is not None and math.isfinite(norm):
            known = len(self._norms)
            usual = sorted(self._norms)[known // 2] if known >= LEAST_NORMS else math.inf
            # Steps without any advantage have a norm of 0, and are no measure.
            if norm > EXPLODES * usual > 0:
                found["gradient"] = (
                    f"the gradient norm is {norm:.3g} in {at}, {norm / usual:.0f} times its median of {usual:.3g}; a "
                    "smaller learning rate, or a smaller max_grad_norm, holds it back"
                )
            self._norms.append(norm)
        return self._new(found)

    def of_epoch(self, record: Mapping[str, Any]) -> dict[str, str]:
        """An epoch was recorded."""
        found = {}
        if record.get("groups_without_spread") == 1:
            found["spread"] = (
                f"in epoch {record['epoch']} the rewards of every group are equal: every advantage is 0, and nothing "
                "is learned from it"
            )
        mean, spread = record.get("reward_mean"), record.get("reward_std")
        if mean is not None and spread is not None and math.isfinite(mean) and math.isfinite(spread):
            self._rewards.append((mean, spread))
            self._best = self._best or (mean, spread)
        if len(self._rewards) == WINDOW and self._best is not None:
            now, spread = (sum(column) / WINDOW for column in zip(*self._rewards, strict=True))
            self._best = max(self._best, (now, spread))
            best, usual = self._best[0], max(spread, self._best[1])
            if best - now > FALLS * usual:
                found["reward"] = (
                    f"the reward has fallen: {now:.4g} over the last {WINDOW} epochs up to {record['epoch']}, "
                    f"{best:.4g} at its best, with a standard deviation of {usual:.3g} within an epoch"
                )
        return self._new(found)

    def _new(self, found: dict[str, str]) -> dict[str, str]:
        new = {name: words for name, words in found.items() if name not in self._raised}
        self._raised |= new.keys()
        return new
