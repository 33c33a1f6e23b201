"""Chapter: the reward of the training's own samples, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Material, Shown
from pcpo_overlay.tools.report.chapter import Chapter, Column, Measures
from pcpo_overlay.tools.report.stats import Estimate
from pcpo_overlay.tools.runs.arms import common
from pcpo_overlay.tools.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

DEFINITIONS = {
    "epoch": "One round of sampling and the training on its samples, counted from 1 in tables and figures and from 0 "
    "in the JSON's curves. The training reward of an epoch is that of its samples, drawn before its training, with "
    "the arm's own sampler.",
    "arm": "All runs of one mode with the same options; `baseline` is upstream's own objective (mode `observe`), and "
    "options that all arms have are left out of the names. A curve of an arm is the mean over its seeds, at the epochs "
    "every seed has; bands and square brackets give the lowest and highest seed, not a standard deviation.",
    "moving average": "Trailing: the mean over an epoch and up to window - 1 before it. Curves are smoothed with it, "
    "and so is the reward before it is held against a threshold.",
}


def _smoothed(runs: Sequence[Run], material: Material) -> pd.Series:
    """The moving average of the mean over seeds."""
    return stats.moving_average(
        common([run.series("reward_mean") for run in runs]).mean(axis=1), material.window
    )


def _final(runs: Sequence[Run], material: Material) -> Estimate:
    """At the last epoch that every seed has, with the extremes of the seeds' own."""
    smoothed = _smoothed(runs, material)
    if smoothed.empty:
        return Estimate()
    last = smoothed.index[-1]
    ends = [_smoothed([run], material)[last] for run in runs]
    return Estimate(smoothed[last], min(ends), max(ends))


CHAPTER = Chapter(
    "Training reward",
    "All on the moving average.",
    {
        "final_epoch": Column("", lambda *of: Estimate(max(_smoothed(*of).index.tolist(), default=None))),
        "final": Column("final", _final, None, ends=True),
        "at_last_common_epoch": Column(
            "at the last common epoch", lambda runs, m: Estimate(_smoothed(runs, m).get(m.last_common)), None
        ),
        "best": Column("best", lambda *of: Estimate(max(_smoothed(*of), default=None)), None),
    },
    curves={"reward_mean": "reward"},
)


def tables(shown: Shown, arms: Sequence[Measures], last_common: int | None) -> dict[str, str]:
    """Markdown by title."""
    heads = (
        {} if last_common is None else {"at_last_common_epoch": f"at epoch {last_common + 1} (last common)"}
    )
    return CHAPTER.table(shown, arms, heads=heads)


def figures(shown: Shown, arms: Sequence[Measures], levels: Sequence[float]) -> dict[str, Any]:
    """Reward by epoch, with the thresholds of the speed-up table."""
    if not CHAPTER.recorded(arms):
        return {}
    figure = palette.new_figure(7, 4.6)
    axes = figure.subplots()
    draw.curves(axes, shown, [arm.curves["reward_mean"] for arm in arms], "", raw=True)
    for level in levels:
        axes.axhline(level, color=palette.NEUTRAL, linewidth=0.6, linestyle=":")
    axes.set_ylabel("training reward")
    small = f"{draw.caption(shown)}; thin lines: each epoch's mean over seeds"
    small += "; grey: thresholds" if levels else ""
    small += "; the arms' samplers differ, so this does not compare them" if shown.samplers_differ else ""
    return {"reward": draw.finished(figure, axes, "Reward of the training's own samples", small)}
