"""Chapter: gradient statistics before clipping, by epoch and early against late (the paper's Figure 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Arm, Shown
from pcpo_overlay.tools.report.stats import Curve, Estimate
from pcpo_overlay.tools.report.text import number, table
from pcpo_overlay.tools.runs.files import printable

DEFINITIONS = {
    "gradient norm": "2-norm of the gradient over all trained parameters, before clipping; mean over the optimizer "
    "steps of an epoch.",
    "mean and variance of |grad|": "Over the entries of the first layer's gradient, mean over the optimizer steps of "
    "an epoch (paper, Figure 11). early and late are the first and last 5 epochs, fewer where they would overlap.",
}
_KEYS = {
    "grad_norm": "gradient norm",
    "grad_abs_mean": r"mean of $|\mathrm{grad}|$, first layer",
    "grad_abs_var": r"variance of $|\mathrm{grad}|$, first layer",
}


@dataclass(frozen=True)
class Statistic:
    """One number of an arm's gradients: over its first and its last epochs, mean and extremes over runs; its curve."""

    early: Estimate
    late: Estimate
    curve: Curve


@dataclass(frozen=True)
class Gradients:
    """An arm's gradients; ``layer`` is the one that the last two are of."""

    layer: str | None
    grad_norm: Statistic
    grad_abs_mean: Statistic
    grad_abs_var: Statistic


def describe(arm: Arm, measured: Arm, window: int) -> Gradients:
    """The gradients of an arm: numbers as far as ``measured`` goes, curves of the whole."""
    layers = {
        printable(line["grad_layer"])
        for run in measured.runs
        for line in run.epochs
        if line.get("grad_layer")
    }

    def statistic(key: str) -> Statistic:
        ends: tuple[list[float | None], list[float | None]] = ([], [])
        for run in measured.runs:
            series = run.series(key)
            for held, epochs in zip(ends, stats.early_late(series.index), strict=True):
                held.append(stats.mean(series[epochs]))
        return Statistic(stats.spread(ends[0]), stats.spread(ends[1]), arm.curve(key, window))

    return Gradients(", ".join(sorted(layers)) or None, *map(statistic, _KEYS))


def tables(shown: Shown, gradients: Sequence[Gradients]) -> list[tuple[str, str]]:
    """Title and Markdown."""
    head = ["arm"] + [f"{n}, {when}" for n in ("norm", "mean", "variance") for when in ("early", "late")]
    rows = []
    for arm, held in zip(shown.arms, gradients, strict=True):
        statistics: list[Statistic] = [getattr(held, key) for key in _KEYS]
        rows.append([arm.name, *(number(end.mean) for s in statistics for end in (s.early, s.late))])
    layers = sorted({held.layer for held in gradients if held.layer})
    told = f" First layer: `{'`, `'.join(layers)}`." if layers else ""
    text = table(head, rows, left=1)
    return [("Gradients", f"{text}\n\nmean and variance: of |grad| of the first layer.{told}")]


def figures(shown: Shown, gradients: Sequence[Gradients]) -> dict[str, Any]:
    """Each number by epoch, and below it early against late."""
    held: dict[str, list[Statistic]] = {key: [getattr(arm, key) for arm in gradients] for key in _KEYS}
    keys = [key for key, own in held.items() if any(statistic.curve.epoch for statistic in own)]
    if not keys:
        return {}
    rows = 0.9 + 0.35 * len(shown.arms)
    figure = palette.new_figure(max(3.9 * len(keys), 5), 3.9 + rows)
    grid = figure.subplots(2, len(keys), squeeze=False, height_ratios=[3, rows])
    for column, key in enumerate(keys):
        draw.curves(grid[0][column], shown, [s.curve for s in held[key]], _KEYS[key])
        grid[0][column].yaxis.set_major_formatter("{x:.3g}")
        ends = [[s.early, s.late if s.late.mean is not None else None] for s in held[key]]
        draw.dots(grid[1][column], shown, ["first epochs", "last epochs"], ends)
        palette.plain(grid[1][column], xlabel=_KEYS[key], grid="x")
        grid[1][column].xaxis.get_major_locator().set_params(nbins=4)
        grid[1][column].xaxis.set_major_formatter("{x:.3g}")
        if column:
            grid[1][column].set_yticklabels([])
    draw.heading(figure, "Gradients before clipping", draw.caption(shown))
    palette.legend_below(figure, grid[0][0])
    return {"gradients": figure}
