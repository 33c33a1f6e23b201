"""A chapter of numbers that every epoch records: a table of some, curves of some. Its columns and titles are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Shown
from pcpo_overlay.tools.report.stats import Curve, Estimate
from pcpo_overlay.tools.report.text import number, table
from pcpo_overlay.tools.runs.arms import Arm
from pcpo_overlay.tools.runs.run import Run

#: A number of an arm, from its runs and the baseline's.
Measure = Callable[[Sequence[Run], Sequence[Run]], Estimate]
Reduce = Callable[[Iterable[float]], float | None]


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
        return Measures(numbers, {key: stats.curve(arm.runs, key, window) for key in self.curves})

    def table(self, shown: Shown, arms: Sequence[Measures], note: str = "") -> tuple[str, str]:
        """Title and Markdown; ``note`` is added to the chapter's."""
        columns = [
            [column.head, *(column.shown(arm.mean(name)) for arm in arms)]
            for name, column in self.columns.items()
            if not column.optional or any(arm.mean(name) is not None for arm in arms)
        ]
        head, *rows = zip(["arm", *shown.names], *columns, strict=True)  # "ratio" may head several
        return self.title, "\n\n".join(filter(None, [table(head, rows, left=1), self.note + note]))

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
    return reduce(value for run in runs for value in run.series(key))


def over_all(key: str, reduce: Reduce = stats.mean) -> Measure:
    """Mean, or what else is given, over every epoch of every run."""
    return lambda runs, _: Estimate(_over(runs, key, reduce))


def against(key: str) -> Measure:
    """The median over every epoch of every run against the baseline's."""
    return lambda runs, baseline: Estimate(
        stats.ratio(_over(runs, key, stats.median), _over(baseline, key, stats.median))
    )


def on_policy(key: str, minus: float = 0.0) -> Measure:
    """The mean over the first optimizer steps of the epochs, less a number."""
    return lambda runs, _: Estimate(stats.mean(v - minus for run in runs for v in run.on_policy(key)))


def end(key: str, which: int) -> Measure:
    """The mean over the first (0) or the last (1) epochs of each run, then over runs with the extremes."""

    def of(runs: Sequence[Run], _: Sequence[Run]) -> Estimate:
        held = [run.series(key) for run in runs]
        return stats.spread(stats.mean(s[stats.early_late(s.index)[which]]) for s in held)

    return of
