"""Chapter: epochs to reach a reward of the training itself, and the speed-ups (the paper's Tables 1 and 10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pcpo_overlay.tools.report import levels, stats
from pcpo_overlay.tools.report.arms import Material, Shown
from pcpo_overlay.tools.report.stats import Estimate
from pcpo_overlay.tools.report.text import epochs, estimated, or_dash, percent, table
from pcpo_overlay.tools.runs.arms import common

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Epochs to reach a training reward"
BY_SEED = f"{TITLE}, seed by seed"
DEFINITIONS = {
    "thresholds": "Unless given with --thresholds: four levels evenly spaced strictly between the highest of the arms' "
    "rewards in the first epoch and the lowest of the arms' best smoothed rewards. The rule treats all arms alike: no "
    "arm starts at a level, and every arm reaches every level.",
    "speed-up": "100 * (baseline's epochs / this arm's epochs - 1) percent, as in the paper's Tables 1 and 10 (260 "
    "against 131 epochs is 98.5%). Negative: slower than the baseline. Epochs are those run until the moving average "
    "of the seed-mean reward first stands at the threshold, that epoch included. 'never': not within the epochs run.",
    "bootstrap interval": "In square brackets at epochs and speed-ups: the range of the same number over 95% of all "
    "resamples of the seeds with replacement (percentile bootstrap), given from 3 seeds on; for a speed-up both arms "
    "take the same seeds, and it has none where a resample of either arm never arrives. With so few seeds it is "
    "narrower than a 95% interval should be; it says how much hangs on single seeds.",
}
NO_LEVELS = "No threshold: at least one arm's smoothed reward never rose above where an arm started."


@dataclass(frozen=True)
class SeedReached:
    """One run at one level; the speed-up is against the baseline's run of the same seed."""

    run: str
    seed: int | None
    epochs: int | None
    speedup_percent: float | None


@dataclass(frozen=True)
class ArmReached(levels.Reached):
    """One arm at one level; the baseline has no speed-up."""

    speedup_percent: Estimate
    seeds: list[SeedReached]


@dataclass(frozen=True)
class Level:
    """A level of reward, and each arm there."""

    reward: float
    arms: list[ArmReached]


@dataclass(frozen=True)
class Speed:
    """The chapter's numbers."""

    chosen_from_data: bool
    levels: list[Level]


def describe(material: Material) -> Speed:
    """Epochs to each level: on the moving average of the seed-mean curve, and on each seed's own."""
    rewards = [arm.mean("reward_mean") for arm in material.arms]
    smoothed = [stats.moving_average(curve, material.window) for curve in rewards]
    chosen = material.thresholds
    if chosen is None:
        starts = [reward.iloc[0] for reward in rewards if len(reward)]
        chosen = stats.levels(starts, [curve.max() for curve in smoothed if len(curve)])
    own = [
        [stats.moving_average(run.series("reward_mean"), material.window) for run in arm.runs]
        for arm in material.arms
    ]
    held = [Level(float(level), _arms(float(level), material, smoothed, own)) for level in chosen]
    return Speed(material.thresholds is None, held)


def _arms(
    level: float, material: Material, smoothed: Sequence[pd.Series], own: Sequence[Sequence[pd.Series]]
) -> list[ArmReached]:
    place, seeds = material.baseline, [[run.seed for run in arm.runs] for arm in material.arms]
    reached = [stats.epochs_to_reach(curve, level) for curve in smoothed]
    by_seed = [[stats.epochs_to_reach(curve, level) for curve in curves] for curves in own]
    resampled = [_resampled(curves, level) for curves in own]
    twins = {s: e for s, e in zip(seeds[place], by_seed[place], strict=True) if seeds[place].count(s) == 1}
    arms = []
    for n, arm in enumerate(material.arms):
        interval = stats.bootstrap(reached[n], len(arm.runs), resampled[n].fillna(math.inf))
        speedup, against = Estimate(), {}
        if n != place:
            against = twins
            speedup = Estimate(stats.speedup_percent(reached[place], reached[n]))
            if seeds[n] == seeds[place]:  # each resample takes the same seeds of both arms
                both = 100 * (resampled[place] / resampled[n] - 1)
                speedup = stats.bootstrap(speedup.mean, len(arm.runs), both)
        of_seeds = [
            SeedReached(run.name, run.seed, e, stats.speedup_percent(against.get(run.seed), e))
            for run, e in zip(arm.runs, by_seed[n], strict=True)
        ]
        arms.append(ArmReached(arm.label, interval, speedup, of_seeds))
    return arms


def _resampled(smoothed: Sequence[pd.Series], level: float) -> pd.Series:
    """Epochs to reach a level by resample of an arm's seeds, NaN for never.

    As of the arm itself: of the moving average of the mean over a resample's seeds. Both are linear, so the seeds are
    smoothed first and once.
    """
    import pandas as pd

    drawn, held = [chosen for chosen, _ in stats.resamples(len(smoothed))], common(smoothed)
    if not drawn or held.empty:
        return pd.Series(math.nan, range(len(drawn)))
    values = held.to_numpy()
    sums = sum(values[:, list(seeds)] for seeds in zip(*drawn, strict=True))
    there = pd.DataFrame(sums >= level * len(smoothed), index=held.index + 1)
    return there.idxmax().where(there.any())


def tables(shown: Shown, speed: Speed) -> dict[str, str]:
    """Markdown by title."""
    own_sampler = "\n\nThe arms draw with different samplers: these rewards do not compare them."
    note = _interval_note(shown, speed) + (own_sampler if shown.samplers_differ else "")
    made = {TITLE: speedup_table(shown, speed) + note}
    if any(arm.seeds > 1 for arm in shown.arms):
        made[BY_SEED] = _seed_table(shown, speed)
    return made


def speedup_table(shown: Shown, speed: Speed) -> str:
    """Thresholds down, arms across: epochs, and the speed-up against the baseline."""
    if not speed.levels:
        return NO_LEVELS
    cells = (
        [(estimated(arm.epochs, epochs), estimated(arm.speedup_percent, percent)) for arm in level.arms]
        for level in speed.levels
    )
    return levels.table("reward", shown, speed.levels, cells)


def _interval_note(shown: Shown, speed: Speed) -> str:
    """What the brackets are, and why there are none where there are too few seeds."""
    few = [arm.name for arm in shown.arms if arm.seeds < stats.LEAST_SEEDS]
    if not speed.levels:
        return ""
    if len(few) == len(shown.arms):
        return f"\n\nNo bootstrap intervals: they take {stats.LEAST_SEEDS} seeds an arm."
    told = f"; none for {', '.join(few)}, with fewer than {stats.LEAST_SEEDS} seeds" if few else ""
    return f"\n\nIn brackets: bootstrap interval of 95% over seeds{told}."


def _seed_table(shown: Shown, speed: Speed) -> str:
    if not speed.levels:
        return NO_LEVELS

    def cell(held: SeedReached) -> str:
        speedup = held.speedup_percent
        return epochs(held.epochs) + ("" if speedup is None else f" ({percent(speedup)})")

    rows = []
    for n, arm in enumerate(shown.arms):
        for by_level in zip(*(level.arms[n].seeds for level in speed.levels), strict=True):
            rows.append([arm.name, or_dash(by_level[0].seed), *map(cell, by_level)])
    made = table(["arm", "seed", *levels.names(speed.levels)], rows, left=1)
    return f"{made}\n\nIn brackets: the speed-up against the baseline's run of the same seed."
