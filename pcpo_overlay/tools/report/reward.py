"""Chapter: the reward of the training's own samples, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Material, Shown
from pcpo_overlay.tools.report.stats import Curve, Estimate
from pcpo_overlay.tools.report.text import of_arms, over_seeds
from pcpo_overlay.tools.runs.arms import Arm

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


@dataclass(frozen=True)
class Reward:
    """An arm's training reward, on the moving average: at its end with the extremes over seeds, and where all are."""

    final_epoch: int | None
    final: float | None
    final_low: float | None
    final_high: float | None
    at_last_common_epoch: float | None
    best: float | None
    curve: Curve


def describe(arm: Arm, measured: Arm, material: Material) -> Reward:
    """The training reward of an arm."""
    curve = stats.curve(arm.runs, "reward_mean", material.window)
    smoothed = stats.moving_average(measured.mean("reward_mean"), material.window)
    if not len(smoothed):
        return Reward(None, None, None, None, None, None, curve)
    last = int(smoothed.index[-1])
    ends = [stats.moving_average(run.series("reward_mean"), material.window)[last] for run in measured.runs]
    shared = smoothed.get(material.last_common)
    final, low, high, best = map(float, (smoothed[last], min(ends), max(ends), smoothed.max()))
    return Reward(last, final, low, high, None if shared is None else float(shared), best, curve)


def tables(shown: Shown, reward: Sequence[Reward], last_common: int | None) -> list[tuple[str, str]]:
    """Title and Markdown."""
    shared = (
        "at the last common epoch" if last_common is None else f"at epoch {last_common + 1} (last common)"
    )
    ends = [Estimate(held.final, held.final_low, held.final_high) for held in reward]
    columns = {
        "final": [over_seeds(e, arm.seeds, shown.reward) for e, arm in zip(ends, shown.arms, strict=True)],
        shared: [shown.reward(held.at_last_common_epoch) for held in reward],
        "best": [shown.reward(held.best) for held in reward],
    }
    return [("Training reward", f"{of_arms(shown.names, columns)}\n\nAll on the moving average.")]


def figures(shown: Shown, reward: Sequence[Reward], levels: list[float]) -> dict[str, Any]:
    """Reward by epoch, with the thresholds of the speed-up table."""
    if not any(arm.curve.epoch for arm in reward):
        return {}
    figure = palette.new_figure(7, 4.6)
    axes = figure.subplots()
    draw.curves(axes, shown, [arm.curve for arm in reward], "", raw=True)
    for level in levels:
        axes.axhline(level, color=palette.NEUTRAL, linewidth=0.6, linestyle=":")
    axes.set_ylabel("training reward")
    small = f"{draw.caption(shown)}; thin lines: each epoch's mean over seeds"
    small += "; grey: thresholds" if levels else ""
    small += "; the arms' samplers differ, so this does not compare them" if shown.samplers_differ else ""
    return {"reward": draw.finished(figure, axes, "Reward of the training's own samples", small)}
