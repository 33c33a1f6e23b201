"""A chapter of numbers that every epoch records: a table of some, curves of some. Its columns and titles are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Arm, Shown
from pcpo_overlay.tools.report.stats import Curve, Estimate
from pcpo_overlay.tools.report.text import number, table
from pcpo_overlay.tools.runs.run import Run

#: A number of an arm, from its runs and the baseline's.
Measure = Callable[[Sequence[Run], Sequence[Run]], Estimate]


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
    """A column of a chapter's table; one that is ``optional`` is left out where no arm has the number."""

    head: str
    of: Measure
    shown: Callable[[float | None], str] = number
    optional: bool = False


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

    def describe(self, arm: Arm, measured: Arm, baseline: Arm, window: int) -> Measures:
        """An arm: numbers of its runs as far as ``measured`` goes, against such a baseline; curves of the whole."""
        numbers = {name: column.of(measured.runs, baseline.runs) for name, column in self.columns.items()}
        return Measures(numbers, {key: arm.curve(key, window) for key in self.curves})

    def table(self, shown: Shown, arms: Sequence[Measures], note: str = "") -> tuple[str, str]:
        """Title and Markdown; ``note`` is added to the chapter's."""
        columns = {
            name: column
            for name, column in self.columns.items()
            if not column.optional or any(arm.mean(name) is not None for arm in arms)
        }
        rows = [
            [told.name, *(column.shown(arm.mean(name)) for name, column in columns.items())]
            for told, arm in zip(shown.arms, arms, strict=True)
        ]
        text = table(["arm", *(column.head for column in columns.values())], rows, left=1)
        return self.title, "\n\n".join(filter(None, [text, self.note + note]))

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
        draw.heading(
            figure, self.heading, draw.caption(shown) + ("; zeros are not drawn" if self.log else "")
        )
        palette.legend_below(figure, panels[0])
        return figure


def every(key: str) -> Measure:
    """The mean over every epoch of every run."""
    return lambda runs, _: Estimate(stats.mean(v for run in runs for v in run.series(key)))


def on_policy(key: str, minus: float = 0.0) -> Measure:
    """The same over the first optimizer steps of the epochs, less a number."""
    return lambda runs, _: Estimate(stats.mean(v - minus for run in runs for v in run.on_policy(key)))


def highest(key: str) -> Measure:
    """The highest of every epoch of every run."""
    return lambda runs, _: Estimate(max((v for run in runs for v in run.series(key)), default=None))


def median(key: str) -> Measure:
    """The median over every epoch of every run."""
    return lambda runs, _: Estimate(_median(runs, key))


def against(key: str) -> Measure:
    """That median against the baseline's."""
    return lambda runs, baseline: Estimate(stats.ratio(_median(runs, key), _median(baseline, key)))


def _median(runs: Iterable[Run], key: str) -> float | None:
    return stats.median(v for run in runs for v in run.series(key))


def end(key: str, which: int) -> Measure:
    """The mean over the first (0) or the last (1) epochs of each run, then over runs with the extremes."""

    def of(runs: Sequence[Run], _: Sequence[Run]) -> Estimate:
        held = [run.series(key) for run in runs]
        return stats.spread(stats.mean(s[stats.early_late(s.index)[which]]) for s in held)

    return of
