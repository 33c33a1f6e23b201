"""A chapter of numbers that every epoch records: a table of some, curves of some. Its columns and titles are given."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Material, Shown
from pcpo_overlay.tools.report.stats import Curve, Estimate
from pcpo_overlay.tools.report.text import Told, estimated, number, of_arms
from pcpo_overlay.tools.runs.run import Run

#: A number of an arm, from its runs.
Measure = Callable[[Sequence[Run], Material], Estimate]
#: Of one value or more.
Reduce = Callable[[list[float]], float]


@dataclass(frozen=True)
class Measures:
    """The numbers of an arm by name, None where its runs have none, and its curves by epoch."""

    numbers: dict[str, Estimate]
    curves: dict[str, Curve]

    def mean(self, name: str) -> float | None:
        """The mean of a number."""
        return self.numbers[name].mean


@dataclass(frozen=True)
class Column:
    """A number of a chapter, and its column in the table.

    Attributes:
        head: of the column; what has none is for ``report.json`` alone.
        shown: prints it; None does as a reward.
        optional: whether the column is left out where no arm has the number.
        ends: whether the table gives the lowest and the highest seed too.
    """

    head: str
    of: Measure
    shown: Told | None = number
    optional: bool = False
    ends: bool = False


@dataclass(frozen=True)
class Chapter:
    """What a chapter is made of.

    Attributes:
        title, note: of the table.
        columns: by the number's name.
        heading, curves: of the figure, and its panels' titles by what an epoch records; drawn is what is there.
        log: whether the panels are logarithmic.
    """

    title: str
    note: str
    columns: Mapping[str, Column]
    heading: str = ""
    curves: Mapping[str, str] = field(default_factory=dict)
    log: bool = False

    def describe(self, material: Material) -> list[Measures]:
        """The arms: numbers of their runs as far as they are measured, curves of the whole."""
        return [
            Measures(
                {name: column.of(measured.runs, material) for name, column in self.columns.items()},
                {key: stats.curve(arm.runs, key, material.window) for key in self.curves},
            )
            for arm, measured in zip(material.arms, material.measured, strict=True)
        ]

    def cells(
        self, shown: Shown, arms: Sequence[Measures], heads: Mapping[str, str] | None = None
    ) -> list[list[str]]:
        """The table's columns, head first; ``heads`` take the place of their own."""
        columns = []
        for name, column in self.columns.items():
            told, held = column.shown or shown.reward, [arm.numbers[name] for arm in arms]
            if column.head and not (column.optional and all(e.mean is None for e in held)):
                ends = [column.ends and arm.seeds > 1 for arm in shown.arms]
                cells = [
                    estimated(e if wide else Estimate(e.mean), told)
                    for e, wide in zip(held, ends, strict=True)
                ]
                columns.append([(heads or {}).get(name, column.head), *cells])
        return columns

    def table(
        self, shown: Shown, arms: Sequence[Measures], note: str = "", heads: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Markdown by its title; ``note`` is added to the chapter's."""
        made = of_arms(shown.names, self.cells(shown, arms, heads))
        return {self.title: "\n\n".join(filter(None, [made, self.note + note]))}

    def recorded(self, arms: Sequence[Measures]) -> list[str]:
        """The curves that any arm has."""
        return [key for key in self.curves if any(arm.curves[key].epoch for arm in arms)]

    def figure(self, shown: Shown, arms: Sequence[Measures], **options: Any) -> Any:
        """The curves, two panels a row; None where nothing was recorded."""
        keys = self.recorded(arms)
        if not keys:
            return None
        rows = (len(keys) + 1) // 2
        figure = palette.new_figure(10, 0.9 + 3.5 * rows)
        panels = list(figure.subplots(rows, 2, squeeze=False, **options).flat)
        for n, (axes, key) in enumerate(zip(panels, keys, strict=False)):
            held = [arm.curves[key] for arm in arms]
            draw.curves(axes, shown, held, f"({'abcdef'[n]}) {self.curves[key]}", log=self.log)
        for axes in panels[len(keys) :]:
            axes.set_axis_off()
        zeros = "; zeros are not drawn" if self.log else ""
        return draw.finished(figure, panels[0], self.heading, draw.caption(shown) + zeros)


def _over(runs: Sequence[Run], key: str, reduce: Reduce) -> float | None:
    held = [value for run in runs for value in run.series(key)]
    return reduce(held) if held else None


def over_all(key: str, reduce: Reduce = statistics.fmean) -> Measure:
    """Mean, or what else is given, over every epoch of every run."""
    return lambda runs, _: Estimate(_over(runs, key, reduce))


def against_baseline(key: str) -> Measure:
    """The median over every epoch of every run against the baseline's."""
    return lambda runs, material: Estimate(
        stats.ratio(*(_over(held, key, statistics.median) for held in (runs, material.reference)))
    )


def on_policy(key: str, minus: float = 0.0) -> Measure:
    """The mean over the first optimizer steps of the epochs, less a number."""
    return lambda runs, _: Estimate(stats.mean(v - minus for run in runs for v in run.on_policy(key)))


def by_run(of: Callable[[Run, Material], float | None]) -> Measure:
    """The mean over runs of a number of each, with the extremes."""
    return lambda runs, material: stats.spread(of(run, material) for run in runs)


def end(key: str, which: int) -> Measure:
    """The mean over the first (0) or the last (1) epochs of each run, then over runs with the extremes."""
    return by_run(lambda run, _: stats.at_end(run.series(key), which))
