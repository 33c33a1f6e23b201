"""Chapter: how much of the training is outside the clip range, and how much gives no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Arm, Shown
from pcpo_overlay.tools.report.stats import Curve
from pcpo_overlay.tools.report.text import number, table
from pcpo_overlay.tools.runs.files import is_number
from pcpo_overlay.tools.runs.run import Run

DEFINITIONS = {
    "fraction outside": "Share of sample-timesteps with |rho - 1| > the clip range (upstream's clipfrac).",
    "fraction masked": "Share of sample-timesteps that give no gradient: outside on the side the advantage points to.",
    "on-policy": "The same in the first optimizer step of each epoch, whose samples the current weights drew: "
    "rho should be 1 there.",
}
_FRACTIONS = ("fraction_outside", "fraction_masked")


@dataclass(frozen=True)
class Timesteps:
    """Clip statistics per timestep, from noise to image, each sample counted once."""

    timestep: list[float]
    count: list[float]
    fraction_outside: list[float]
    fraction_masked: list[float]


@dataclass(frozen=True)
class Clipping:
    """Means over all epochs and seeds of an arm, its curves, and its timesteps in the first and last epochs."""

    fraction_outside: float | None
    fraction_masked: float | None
    on_policy_fraction_outside: float | None
    on_policy_fraction_masked: float | None
    curves: dict[str, Curve]
    early: Timesteps
    late: Timesteps


def describe(arm: Arm, measured: Arm, window: int) -> Clipping:
    """The clipping of an arm: numbers as far as ``measured`` goes, curves of the whole."""
    outside, masked = (stats.mean(measured.values(key)) for key in _FRACTIONS)
    first = [stats.mean(v for run in measured.runs for v in run.on_policy(key)) for key in _FRACTIONS]
    curves = {key: arm.curve(key, window) for key in _FRACTIONS}
    early, late = (_timesteps(measured.runs, when) for when in (0, 1))
    return Clipping(outside, masked, first[0], first[1], curves, early, late)


def _timesteps(runs: Sequence[Run], when: int) -> Timesteps:
    """Over the first (0) or the last (1) epochs of every run."""
    import pandas as pd

    rows: list[tuple[float, ...]] = []
    for run in runs:
        window = set(stats.early_late(line["epoch"] for line in run.epochs)[when])
        for line in run.epochs:
            held = (line.get("per_timestep") or {}) if line["epoch"] in window else {}
            columns = [held.get(key, []) for key in ("timestep", "count", *_FRACTIONS)]
            rows += [row for row in zip(*columns, strict=False) if all(map(is_number, row)) and row[1] > 0]
    table = pd.DataFrame(rows, columns=["timestep", "count", *_FRACTIONS], dtype="float64")
    for key in _FRACTIONS:
        table[key] *= table["count"]
    sums = table.groupby("timestep").sum().sort_index(ascending=False)
    fractions = [(sums[key] / sums["count"]).tolist() for key in _FRACTIONS]
    return Timesteps(sums.index.tolist(), sums["count"].tolist(), *fractions)


def tables(shown: Shown, clipping: Sequence[Clipping]) -> list[tuple[str, str]]:
    """Title and Markdown."""
    head = ["arm", "outside", "masked", "outside, on-policy", "masked, on-policy"]
    rows = [
        [
            arm.name,
            number(held.fraction_outside),
            number(held.fraction_masked),
            number(held.on_policy_fraction_outside),
            number(held.on_policy_fraction_masked),
        ]
        for arm, held in zip(shown.arms, clipping, strict=True)
    ]
    return [("Clipping", table(head, rows, left=1) + "\n\nMean over all epochs and seeds.")]


def figures(shown: Shown, clipping: Sequence[Clipping]) -> dict[str, Any]:
    """Both fractions by epoch, and by timestep early and late."""
    drawn = {}
    if any(arm.curves["fraction_outside"].epoch for arm in clipping):
        figure = palette.new_figure(10, 4.3)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, key, title in (
            (panels[0], "fraction_outside", r"(a) outside the clip range: $|\rho-1|>\xi$"),
            (panels[1], "fraction_masked", "(b) masked: no gradient"),
        ):
            draw.curves(axes, shown, [arm.curves[key] for arm in clipping], title)
        panels[0].set_ylabel("share of sample-timesteps")
        draw.heading(figure, "What clipping meets", draw.caption(shown))
        palette.legend_below(figure, panels[0])
        drawn["clipping"] = figure
    if any(arm.early.timestep for arm in clipping):
        drawn["timesteps"] = _timesteps_figure(shown, clipping)
    return drawn


def _timesteps_figure(shown: Shown, clipping: Sequence[Clipping]) -> Any:
    figure = palette.new_figure(10, 6.6)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for row, (key, name) in enumerate(zip(_FRACTIONS, ("outside", "masked"), strict=True)):
        for column, when in enumerate(("early", "late")):
            axes = grid[row][column]
            for arm, clipped in zip(shown.arms, clipping, strict=True):
                held: Timesteps = getattr(clipped, when)
                axes.plot(
                    held.timestep, getattr(held, key), color=arm.look.colour, linestyle=arm.look.line,
                    marker=arm.look.marker, markersize=2.5, linewidth=1.2, label=arm.legend,
                )  # fmt: skip
            palette.plain(
                axes,
                f"{name}, {'first' if when == 'early' else 'last'} epochs",
                "timestep (noise to image)" if row else "",
                "" if column else "share of samples",
            )
    grid[0][0].invert_xaxis()
    draw.heading(figure, "What clipping meets, timestep by timestep")
    palette.legend_below(figure, grid[0][0])
    return figure
