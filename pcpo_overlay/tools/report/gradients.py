"""Chapter: gradient statistics before clipping, by epoch and early against late (the paper's Figure 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw
from pcpo_overlay.tools.report.arms import Shown
from pcpo_overlay.tools.report.chapter import Chapter, Column, Measures, end

DEFINITIONS = {
    "gradient norm": "2-norm of the gradient over all trained parameters, before clipping; mean over the optimizer "
    "steps of an epoch.",
    "mean and variance of |grad|": "Over the entries of the first layer's gradient, mean over the optimizer steps of "
    "an epoch (paper, Figure 11). early and late are the first and last 5 epochs, fewer where they would overlap.",
}
CHAPTER = Chapter(
    "Gradients",
    "mean and variance: of |grad| of the first layer.",
    {
        f"{key}_{when}": Column(f"{name}, {when}", end(key, which))
        for key, name in (("grad_norm", "norm"), ("grad_abs_mean", "mean"), ("grad_abs_var", "variance"))
        for which, when in enumerate(("early", "late"))
    },
    "Gradients before clipping",
    {
        "grad_norm": "gradient norm",
        "grad_abs_mean": r"mean of $|\mathrm{grad}|$, first layer",
        "grad_abs_var": r"variance of $|\mathrm{grad}|$, first layer",
    },
)


def figures(shown: Shown, arms: Sequence[Measures]) -> dict[str, Any]:
    """Each number by epoch, and below it early against late."""
    keys = CHAPTER.recorded(arms)
    if not keys:
        return {}
    rows = 0.9 + 0.35 * len(shown.arms)
    figure = palette.new_figure(max(3.9 * len(keys), 5), 3.9 + rows)
    grid = figure.subplots(2, len(keys), squeeze=False, height_ratios=[3, rows])
    for column, key in enumerate(keys):
        above, below = grid[0][column], grid[1][column]
        draw.curves(above, shown, [arm.curves[key] for arm in arms], CHAPTER.curves[key])
        ends = [[arm.numbers[f"{key}_{when}"] for when in ("early", "late")] for arm in arms]
        held = [[None if e.mean is None else e for e in own] for own in ends]
        draw.dots(below, shown, ["first epochs", "last epochs"], held)
        palette.plain(below, xlabel=CHAPTER.curves[key], grid="x")
        below.xaxis.get_major_locator().set_params(nbins=4)
        below.xaxis.set_major_formatter("{x:.3g}")
        above.yaxis.set_major_formatter("{x:.3g}")
        if column:
            below.set_yticklabels([])
    return {"gradients": draw.finished(figure, grid[0][0], CHAPTER.heading, draw.caption(shown))}
