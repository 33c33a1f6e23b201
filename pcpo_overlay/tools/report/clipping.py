"""Chapter: how much of the training is outside the clip range, and how much gives no gradient."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Material, Shown
from pcpo_overlay.tools.report.chapter import Chapter, Column, Measures, on_policy, over_all
from pcpo_overlay.tools.runs.run import Run

DEFINITIONS = {
    "fraction outside": "Share of sample-timesteps with |rho - 1| > the clip range (upstream's clipfrac).",
    "fraction masked": "Share of sample-timesteps that give no gradient: outside on the side the advantage points to.",
    "on-policy": "The same in the first optimizer step of each epoch, whose samples the current weights drew: "
    "rho should be 1 there.",
}
_FRACTIONS = ("fraction_outside", "fraction_masked")
CHAPTER = Chapter(
    "Clipping",
    "Mean over all epochs and seeds.",
    {
        "fraction_outside": Column("outside", over_all("fraction_outside")),
        "fraction_masked": Column("masked", over_all("fraction_masked")),
        "on_policy_fraction_outside": Column("outside, on-policy", on_policy("fraction_outside")),
        "on_policy_fraction_masked": Column("masked, on-policy", on_policy("fraction_masked")),
    },
    "What clipping meets: shares of the sample-timesteps",
    {
        "fraction_outside": r"outside the clip range: $|\rho-1|>\xi$",
        "fraction_masked": "masked: no gradient",
    },
)


@dataclass(frozen=True)
class Timesteps:
    """Clip statistics per timestep, from noise to image, each sample counted once."""

    timestep: list[float]
    count: list[float]
    fraction_outside: list[float]
    fraction_masked: list[float]


@dataclass(frozen=True)
class EarlyLate:
    """The timesteps of an arm over its first and its last epochs."""

    early: Timesteps
    late: Timesteps


def by_timestep(material: Material) -> list[EarlyLate]:
    """The clip statistics of each arm by timestep."""
    return [EarlyLate(_timesteps(arm.runs, 0), _timesteps(arm.runs, 1)) for arm in material.measured]


def _timesteps(runs: Sequence[Run], when: int) -> Timesteps:
    """Over the first (0) or the last (1) epochs of every run."""
    import pandas as pd

    held = []
    for run in runs:
        window = set(stats.early_late(line["epoch"] for line in run.epochs)[when])
        held += run.per_timestep(("timestep", "count", *_FRACTIONS), window)
    table = pd.DataFrame(held, columns=["timestep", "count", *_FRACTIONS], dtype="float64")
    table[[*_FRACTIONS]] = table[[*_FRACTIONS]].mul(table["count"], axis=0)
    sums = table[table["count"] > 0].groupby("timestep").sum().sort_index(ascending=False)
    fractions = (sums[key] / sums["count"] for key in _FRACTIONS)
    return Timesteps(sums.index.tolist(), sums["count"].tolist(), *(held.tolist() for held in fractions))


def figures(shown: Shown, arms: Sequence[Measures], timesteps: Sequence[EarlyLate]) -> dict[str, Any]:
    """Both fractions by epoch, and by timestep early and late."""
    drawn = {"clipping": CHAPTER.figure(shown, arms, sharey=True)}
    if any(arm.early.timestep for arm in timesteps):
        drawn["timesteps"] = _timesteps_figure(shown, timesteps)
    return drawn


def _timesteps_figure(shown: Shown, timesteps: Sequence[EarlyLate]) -> Any:
    figure = palette.new_figure(10, 6.6)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    panels = itertools.product(zip(_FRACTIONS, ("outside", "masked"), strict=True), ("early", "late"))
    for axes, ((key, name), when) in zip(grid.flat, panels, strict=True):
        for arm, clipped in zip(shown.arms, timesteps, strict=True):
            held: Timesteps = getattr(clipped, when)
            axes.plot(
                held.timestep, getattr(held, key), color=arm.look.colour, linestyle=arm.look.line,
                marker=arm.look.marker, markersize=2.5, linewidth=1.2, label=arm.legend,
            )  # fmt: skip
        palette.plain(axes, f"{name}, {'first' if when == 'early' else 'last'} epochs")
    for axes in grid[1]:
        axes.set_xlabel("timestep (noise to image)")
    for axes in grid[:, 0]:
        axes.set_ylabel("share of samples")
    grid[0][0].invert_xaxis()
    return draw.finished(figure, grid[0][0], "What clipping meets, timestep by timestep")
