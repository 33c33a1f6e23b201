"""The arms of a comparison: runs that differ in nothing but their seed, and how they are told and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pcpo_overlay.config import MODES
from pcpo_overlay.tools.faults import Fault
from pcpo_overlay.tools.palette import Look, looks
from pcpo_overlay.tools.report import stats
from pcpo_overlay.tools.report.stats import Curve
from pcpo_overlay.tools.runs.labels import names
from pcpo_overlay.tools.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd


class ReportError(Fault):
    """The report cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Arm:
    """Runs of one upstream with one label, one per seed."""

    upstream: str
    label: str
    runs: list[Run]

    @property
    def mode(self) -> str:
        """The mode without its options."""
        return self.label.partition(",")[0]

    def until(self, epoch: int) -> Arm:
        """The same runs as they were after this epoch."""
        return replace(self, runs=[run.until(epoch) for run in self.runs])

    def mean(self, key: str) -> pd.Series:
        """Mean over the seeds by epoch, at the epochs that every seed has."""
        return stats.common([run.series(key) for run in self.runs]).mean(axis=1)

    def values(self, key: str) -> list[float]:
        """Those of every epoch of every run."""
        return [value for run in self.runs for value in run.series(key)]

    def curve(self, key: str, window: int) -> Curve:
        """The curve of a number, empty where no run has it."""
        return stats.curve(
            [(run.name, run.seed) for run in self.runs], [run.series(key) for run in self.runs], window
        )


@dataclass(frozen=True)
class Material:
    """What a chapter is made of.

    Attributes:
        arms: whole, for curves.
        measured: the same as far as their numbers go.
        baseline: the place of the one that the others are held against.
        thresholds: levels of reward, where they were given.
        window: of the moving average, in epochs.
        last_common: the last epoch that every arm has a reward of.
    """

    arms: list[Arm]
    measured: list[Arm]
    baseline: int
    thresholds: Sequence[float] | None
    window: int
    last_common: int | None

    @property
    def runs(self) -> list[Run]:
        """Those of all arms."""
        return [run for arm in self.arms for run in arm.runs]


@dataclass(frozen=True)
class ShownArm:
    """How an arm is told and drawn: its label, its name for people, its number of seeds and its look."""

    label: str
    name: str
    seeds: int
    look: Look

    @property
    def legend(self) -> str:
        """As a legend has it."""
        return f"{self.name} ({self.seeds} seeds)" if self.seeds > 1 else self.name


@dataclass(frozen=True)
class Shown:
    """What tables and figures of one comparison share.

    Attributes:
        upstream: short name.
        arms: in order.
        baseline: the place of the one that the others are held against.
        window: of the moving average, in epochs.
        digits: significant digits of a reward.
        samplers_differ: whether the arms' training rewards are of different samplers.
        lengths_differ: whether some seeds of an arm are longer than others.
    """

    upstream: str
    arms: list[ShownArm]
    baseline: int
    window: int = stats.WINDOW
    digits: int = 4
    samplers_differ: bool = False
    lengths_differ: bool = False

    @property
    def names(self) -> list[str]:
        """Of the arms, for people."""
        return [arm.name for arm in self.arms]


def shown_arms(seeds: dict[str, int]) -> list[ShownArm]:
    """How the arms with these labels and numbers of seeds are told and drawn."""
    named, drawn = names(seeds), looks(seeds)
    return [ShownArm(label, named[label], n, drawn[label]) for label, n in seeds.items()]


def by_upstream(runs: Iterable[Run]) -> dict[str, list[Arm]]:
    """Arms by upstream, in the order of the ablation ladder, then by label; runs by seed."""
    gathered: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        gathered.setdefault((run.upstream, run.label), []).append(run)
    upstreams: dict[str, list[Arm]] = {}
    for (upstream, label), members in sorted(
        gathered.items(), key=lambda item: (item[0][0], _rung(item[0][1]))
    ):
        members.sort(key=lambda run: (run.seed is None, run.seed or 0, str(run.path)))
        upstreams.setdefault(upstream, []).append(Arm(upstream, label, members))
    return upstreams


def _rung(label: str) -> tuple[int, str]:
    mode = label.partition(",")[0]
    return (MODES.index(mode) if mode in MODES else len(MODES), label)


def choose_baseline(arms: Sequence[Arm], wanted: str | None = None) -> Arm:
    """The arm the others are held against: ``wanted`` if given, by label or name, else ``observe``, else the first.

    The first is one of mode ``observe`` wherever there is one, since arms are in the order of the ladder.

    Raises:
        ReportError: no arm has the wanted label.
    """
    by_label = {arm.label: arm for arm in arms}
    if wanted is None:
        return by_label.get("observe", arms[0])
    by_name = {name: by_label[label] for label, name in names(by_label).items()}
    chosen = by_label.get(wanted) or by_name.get(wanted)
    if chosen is None:
        raise ReportError(f"no run is labelled {wanted!r}; the labels here are {', '.join(by_label)}")
    return chosen


def by_batch_size(arms: Sequence[Arm]) -> dict[int | None, list[Arm]]:
    """The arms by samples an epoch, ascending; all together where no label has runs of several sizes."""
    sizes = {arm.label: {run.samples_per_epoch for run in arm.runs} for arm in arms}
    if all(len(held) == 1 for held in sizes.values()):
        return {None: list(arms)}
    ascending = sorted(
        {size for held in sizes.values() for size in held}, key=lambda size: (size is None, size or 0)
    )
    return {
        size: [
            replace(arm, runs=[run for run in arm.runs if run.samples_per_epoch == size])
            for arm in arms
            if size in sizes[arm.label]
        ]
        for size in ascending
    }


def differ_in_sampler(arms: Sequence[Arm]) -> str | None:
    """What a reader has to know where the arms draw with different variances; None where they draw alike."""
    by_variance: dict[str, list[str]] = {}
    named = names(arm.label for arm in arms)
    for arm in arms:
        for variance in sorted({run.variance for run in arm.runs} - {"auto"}):  # it has not been resolved yet
            by_variance.setdefault(variance, []).append(named[arm.label])
    if len(by_variance) < 2:
        return None
    told = "; ".join(f"{variance} in {', '.join(held)}" for variance, held in by_variance.items())
    return (
        f"the arms draw with different samplers (variance {told}), and a training reward is that of an arm's own "
        "sampler: it does not compare them; go by the evaluated reward, which one sampler draws for all"
    )
