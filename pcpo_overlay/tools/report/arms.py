"""What the chapters of a comparison are made of, and how its arms are told and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pcpo_overlay.tools.faults import Fault
from pcpo_overlay.tools.palette import Look, looks
from pcpo_overlay.tools.report import stats, text
from pcpo_overlay.tools.runs.arms import Arm
from pcpo_overlay.tools.runs.labels import names
from pcpo_overlay.tools.runs.run import Run


class ReportError(Fault):
    """The report cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Material:
    """What a chapter is made of: arms whole, for curves, and ``measured`` as far as their numbers go.

    ``baseline`` is the place of the arm that the others are held against, ``thresholds`` the levels of reward where
    they were given, ``window`` that of the moving average, ``last_common`` the last epoch that every arm has.
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

    @property
    def reference(self) -> list[Run]:
        """The baseline's, as far as they are measured."""
        return self.measured[self.baseline].runs


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

    def reward(self, value: float | None) -> str:
        """With as many digits as tell the thresholds apart."""
        return text.reward(value, self.digits)


def shown_arms(seeds: dict[str, int]) -> list[ShownArm]:
    """How the arms with these labels and numbers of seeds are told and drawn."""
    named, drawn = names(seeds), looks(seeds)
    return [ShownArm(label, named[label], n, drawn[label]) for label, n in seeds.items()]


def choose_baseline(arms: Sequence[Arm], wanted: str | None = None) -> Arm:
    """The arm the others are held against: ``wanted`` if given, by label or name, else ``observe``, else the first.

    The first is one of mode ``observe`` wherever there is one, since arms are in the order of the ladder.

    Raises:
        ReportError: no arm has the wanted label.
    """
    by_label = {arm.label: arm for arm in arms}
    if wanted is None:
        return by_label.get("observe", arms[0])
    named = {name: by_label[label] for label, name in names(by_label).items()} | by_label
    if wanted not in named:
        raise ReportError(f"no run is labelled {wanted!r}; the labels here are {', '.join(by_label)}")
    return named[wanted]
