"""The report's statistics, as pure functions on pandas series by epoch and on plain numbers."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pcpo_overlay.tools.runs.arms import common
from pcpo_overlay.tools.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

#: Window of the moving average, in epochs, as in the paper's figures.
WINDOW = 5
#: The least number of seeds that a bootstrap interval is given for.
LEAST_SEEDS = 3
#: Share of the resamples that an interval leaves out on either side.
TAIL = 0.025
_EXACT_UP_TO = 6
_DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with two ends: lowest and highest seed, or a bootstrap interval.

    None where there is none; an end of an interval is also None where it is never reached.
    """

    mean: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Curve:
    """One number of an arm by epoch: the seeds' mean where all have it, smoothed, and the smoothed seeds' extremes.

    Attributes:
        epoch: counted from 0.
        seeds: each run's own, over its own epochs, not smoothed.
    """

    epoch: list[int]
    mean: list[float]
    smoothed: list[float]
    low: list[float]
    high: list[float]
    seeds: list[SeedCurve]


@dataclass(frozen=True)
class SeedCurve:
    """One number of one run by epoch."""

    run: str
    seed: int | None
    epoch: list[int]
    value: list[float]


def mean(values: Iterable[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    held = list(values)
    return math.fsum(held) / len(held) if held else None


def ratio(value: float | None, other: float | None) -> float | None:
    """``value / other``; None where that is no number."""
    if value is None or not other or not math.isfinite(value / other):
        return None
    return value / other


def spread(values: Iterable[float | None]) -> Estimate:
    """Mean, lowest and highest of the values that are there."""
    held = [value for value in values if value is not None]
    return Estimate(mean(held), min(held, default=None), max(held, default=None))


def moving_average(series: pd.Series, window: int = WINDOW) -> pd.Series:
    """Trailing mean: at epoch ``e``, over the values at epochs ``e - window + 1 .. e``, at first over what there is.

    Raises:
        ValueError: ``window`` below 1.
    """
    if window < 1:
        raise ValueError(f"the moving average needs a window of at least 1 epoch, got {window}")
    import numpy as np
    import pandas as pd

    epochs, values = series.index.to_numpy(), series.to_numpy()
    # no window is longer than the series, and none too long for 64 bits
    starts = np.searchsorted(epochs, epochs - min(window, int(max(epochs, default=0)) + 1) + 1)
    means = [values[start : end + 1].mean() for end, start in enumerate(starts)]
    return pd.Series(means, index=series.index, dtype="float64")


def curve(runs: Sequence[Run], of: str | Callable[[Run], pd.Series], window: int) -> Curve:
    """The curve of an arm's runs: of what an epoch records, or of a series that is made of a run."""
    many = [run.series(of) if isinstance(of, str) else of(run) for run in runs]
    seeds = [
        SeedCurve(run.name, run.seed, held.index.tolist(), held.tolist())
        for run, held in zip(runs, many, strict=True)
    ]
    held, smoothed = common(many).mean(axis=1), common([moving_average(series, window) for series in many])
    columns = (held, moving_average(held, window), smoothed.min(axis=1), smoothed.max(axis=1))
    means, smooth, low, high = (column.tolist() for column in columns)
    return Curve(held.index.tolist(), means, smooth, low, high, seeds)


def epochs_to_reach(series: pd.Series, threshold: float) -> int | None:
    """How many epochs were run when ``series`` first stood at ``threshold`` or above, that epoch included; or None."""
    there = series.index[series >= threshold]
    return int(there[0]) + 1 if len(there) else None


def speedup_percent(baseline: float | None, other: float | None) -> float | None:
    """``100 * (baseline / other - 1)`` of two epoch counts, as in the paper's Tables 1 and 10.

    260 epochs against 131 give 98.5; negative where ``other`` is slower; None where either never arrived.
    """
    share = ratio(baseline, other)
    return None if share is None else 100.0 * (share - 1.0)


def levels(starts: Sequence[float], tops: Sequence[float], count: int = 4) -> list[float]:
    """Reward thresholds that favour no arm: ``count`` levels evenly spaced strictly between start and top.

    Start is the highest over the arms of their first reward (a mode that changes the sampler starts elsewhere), so
    that no arm is given a level; top is the lowest over the arms of their best smoothed reward, so that every arm
    reaches every level. The top itself is no level: the weaker arm touches it only at the luckiest moment of its
    curve, which would flatter the other.

    Returns:
        Ascending; none where an arm's reward never rose above the start.
    """
    start, top = max(starts, default=0.0), min(tops, default=0.0)
    return [start + (top - start) * k / (count + 1) for k in range(1, count + 1)] if top > start else []


def early_late(epochs: Iterable[int], window: int = WINDOW) -> tuple[list[int], list[int]]:
    """The first and the last ``window`` epochs, equally many; the last are none where there is a single epoch."""
    ordered = sorted(epochs)
    size = min(window, len(ordered) // 2)
    return ordered[: max(size, 1)], ordered[len(ordered) - size :]


def at_end(series: pd.Series, which: int, window: int = WINDOW) -> float | None:
    """The mean over the first (0) or the last (1) ``window`` epochs, as :func:`early_late` has them."""
    return mean(series[early_late(series.index, window)[which]])


def resamples(n: int) -> list[tuple[tuple[int, ...], float]]:
    """Ways to draw ``n`` of ``n`` things with replacement, order aside, each with its probability.

    All of them up to 6 things (462 ways), so that nothing is left to chance; beyond, 2,000 drawn ones, always the same.
    None of fewer than 3, which are too few for an interval.
    """
    if n < LEAST_SEEDS:
        return []
    if n > _EXACT_UP_TO:
        draw = random.Random(0)
        return [(tuple(draw.choices(range(n), k=n)), 1 / _DRAWS) for _ in range(_DRAWS)]
    orders = math.factorial(n)
    return [
        (chosen, orders / math.prod(map(math.factorial, Counter(chosen).values())) / n**n)
        for chosen in itertools.combinations_with_replacement(range(n), n)
    ]


def bootstrap(mean: float | None, seeds: int, by_resample: Sequence[float]) -> Estimate:
    """``mean`` with its percentile bootstrap over seeds: the interval that holds the number of 95% of all resamples.

    Args:
        seeds: how many there are.
        by_resample: the number of each of their :func:`resamples`. Infinite makes an end None, NaN leaves no interval.
    """
    probability = [p for _, p in resamples(seeds)]
    if not probability or any(map(math.isnan, by_resample)):
        return Estimate(mean)
    values, probabilities = zip(*sorted(zip(by_resample, probability, strict=True)), strict=True)
    reached = list(itertools.accumulate(probabilities))
    # an end is the lowest value at or below which its share lies; the probabilities sum to 1 only up to rounding
    ends = (float(values[bisect.bisect_left(reached, share - 1e-12)]) for share in (TAIL, 1 - TAIL))
    return Estimate(mean, *(end if math.isfinite(end) else None for end in ends))


def estimate(values: Sequence[float]) -> Estimate:
    """Mean over seeds, and the bootstrap interval: None of nothing, and with too few seeds."""
    drawn = resamples(len(values))
    means = [math.fsum(values[i] for i in chosen) / len(chosen) for chosen, _ in drawn]
    return bootstrap(mean(values), len(values), means)
