"""Times of several arms side by side, so that what a busy machine does to one it does to the others."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


def alternate(
    arms: Mapping[str, Callable[[], float]], rounds: int, rng: random.Random
) -> dict[str, list[float]]:
    """Measure every arm once a round, in an order drawn anew for each round.

    Args:
        arms: by name, what measures once and returns seconds.
        rounds: how often.

    Returns:
        by name, (rounds,) seconds; those of one index belong together.
    """
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name in rng.sample(list(arms), len(arms)):
            times[name].append(arms[name]())
    return times


@dataclass(frozen=True)
class Ratio:
    """Median of the ratios of pairs, with its confidence interval.

    Attributes:
        median: of the pairs' ratios.
        low, high: an interval for the median at :data:`CONFIDENCE`, or all the pairs span where they are under six.
        pairs: how many.
    """

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]"

    def against(self, goal: float) -> str:
        """``met``, ``within noise`` where only part of the interval is above the goal, or ``MISSED``."""
        if self.median <= goal:
            return "met"
        return "within noise" if self.low <= goal else "MISSED"


def interval_ranks(n: int) -> tuple[int, int]:
    """Ranks, from 0, of the order statistics that hold the median of any distribution at :data:`CONFIDENCE`."""
    below = 0.0
    rank = -1
    while True:
        below += math.comb(n, rank + 1) / 2**n
        if 1 - 2 * below < CONFIDENCE:
            break
        rank += 1
    rank = max(rank, 0)
    return rank, n - 1 - rank


def ratio_of(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """The ratio of two arms, pair by pair.

    Raises:
        ValueError: no pairs, or arms of different lengths.
    """
    if len(numerator) != len(denominator) or not numerator:
        raise ValueError(f"{len(numerator)} and {len(denominator)} times do not make pairs")
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    low, high = interval_ranks(len(ratios))
    return Ratio(statistics.median(ratios), ratios[low], ratios[high], len(ratios))
