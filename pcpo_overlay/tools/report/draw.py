"""What several figures draw alike: curves with their bands, and dots with their intervals. Needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import stats
from pcpo_overlay.tools.report.arms import Shown
from pcpo_overlay.tools.report.stats import Curve, Estimate

#: Up to this many epochs every one gets a marker.
MARKED = 30


def curves(
    axes: Any,
    shown: Shown,
    held: Sequence[Curve],
    title: str,
    *,
    first: int = 1,
    xlabel: str = "epoch",
    raw: bool = False,
    log: bool = False,
    window: int | None = None,
) -> None:
    """The moving average of the mean over seeds, the seeds' lowest to highest as a band, optionally the raw mean.

    Args:
        held: one curve per arm.
        first: the number that the entry 0 of a curve is drawn at.
        xlabel: what the entries are.
        raw: whether to draw the mean before smoothing too.
        log: whether the axis is to be logarithmic.
        window: the moving average's, in entries of the curves; by default the comparison's.
    """
    window = window or shown.window
    for arm, curve in zip(shown.arms, held, strict=True):
        if not curve.epoch:
            continue
        look, x = arm.look, [epoch + first for epoch in curve.epoch]
        if raw:
            axes.plot(x, curve.mean, color=look.colour, linewidth=0.7, alpha=0.45)
        axes.plot(
            x, curve.smoothed, color=look.colour, linestyle=look.line, linewidth=1.8, label=arm.legend,
            marker=look.marker if len(x) <= MARKED else None, markersize=3.5,
        )  # fmt: skip
        if arm.seeds > 1:
            axes.fill_between(x, curve.low, curve.high, color=look.colour, alpha=0.13, linewidth=0)
        _longer_seeds(axes, curve, look.colour, window, first)
    positive = [v for curve in held for v in curve.smoothed if v > 0]
    if log and positive and max(positive) > 1.01 * min(positive):
        axes.set_yscale("log", nonpositive="mask")
    palette.plain(axes, title, xlabel)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _longer_seeds(axes: Any, curve: Curve, colour: str, window: int, first: int) -> None:
    """Seeds that went on after the shortest one of their arm, from where the mean ends, each as a dotted line."""
    import pandas as pd

    for seed in curve.seeds:
        smoothed = stats.moving_average(pd.Series(seed.value, index=pd.Index(seed.epoch)), window)
        beyond = smoothed[smoothed.index >= max(curve.epoch)]
        if len(beyond) > 1:
            axes.plot(beyond.index + first, beyond, color=colour, linewidth=1, linestyle=":")


def caption(shown: Shown, lines: str = "") -> str:
    """What the lines and bands of :func:`curves` are; the lines a moving average, unless it is given."""
    parts = [lines or f"moving average of {shown.window} epochs"]
    if any(arm.seeds > 1 for arm in shown.arms):
        parts.append("band: lowest to highest seed")
    if shown.lengths_differ:
        parts.append("dotted on: seeds longer than their arm's shortest")
    return "; ".join(parts)


def heading(figure: Any, title: str, small: str = "") -> None:
    """A figure's title, and below it in smaller letters how to read it."""
    wide = int(figure.get_figwidth() * 13)
    lines = [*textwrap.wrap(title, wide), *textwrap.wrap(small, wide)]
    figure.suptitle("\n".join(lines), fontsize="medium", x=0.01, ha="left")


def finished(figure: Any, axes: Any, title: str, small: str = "") -> Any:
    """The figure with :func:`heading` and the legend of ``axes`` below."""
    heading(figure, title, small)
    palette.legend_below(figure, axes)
    return figure


def dots(
    axes: Any,
    shown: Shown,
    rows: Sequence[str],
    held: Sequence[Sequence[Estimate | None]],
    *,
    arms: Sequence[int] | None = None,
    legend: bool = False,
) -> None:
    """A row per case from the top, in it a dot per arm with its interval; a cross at the right end for ``never``.

    Args:
        rows: what the rows are.
        held: by arm, then by row; None is not drawn, and a mean of None is ``never``.
        arms: the places of those that ``held`` is of; by default all.
        legend: whether the dots name their arms.
    """
    places = list(range(len(shown.arms))) if arms is None else list(arms)
    ends = [v for own in held for e in own if e is not None for v in (e.mean, e.low, e.high) if v is not None]
    most = max(ends, default=1.0)
    right = most + 0.06 * ((most - min(ends, default=0.0)) or 1.0)
    step = 0.72 / max(len(places), 1)
    for n, (place, own) in enumerate(zip(places, held, strict=True)):
        arm = shown.arms[place]
        dot = {"color": arm.look.colour, "marker": arm.look.marker}
        axes.plot([], [], linestyle="none", label=arm.legend if legend else None, **dot)
        for row, e in enumerate(own):
            y = row + (n - (len(places) - 1) / 2) * step
            if e is None:
                continue
            if e.mean is None:
                axes.plot(right, y, color=arm.look.colour, marker="x", markersize=6)
                continue
            # a mean may differ in the last bit from equal numbers; an end of None is never reached
            low = e.mean if e.low is None else min(e.low, e.mean)
            high = max(e.high, e.mean) if e.high is not None else e.mean if e.low is None else right
            axes.plot([low, high], [y, y], color=arm.look.colour, linewidth=1.4, solid_capstyle="butt")
            axes.plot(e.mean, y, markersize=5, **dot)
    for row in range(1, len(rows)):
        axes.axhline(row - 0.5, color="#dddddd", linewidth=0.8)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.get_major_locator().set_params(nbins=5)
