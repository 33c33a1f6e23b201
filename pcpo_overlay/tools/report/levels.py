"""Epochs to levels of a reward, the training's own or the evaluated one: what the two chapters on it have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, text
from pcpo_overlay.tools.report.arms import Shown
from pcpo_overlay.tools.report.stats import Estimate


@dataclass(frozen=True)
class Reached:
    """An arm at a level: the epochs that it took, None for never."""

    label: str
    epochs: Estimate


class Level(Protocol):
    """A level of reward, and each arm there."""

    @property
    def reward(self) -> float: ...
    @property
    def arms(self) -> Sequence[Reached]: ...


def names(levels: Sequence[Level]) -> list[str]:
    """The rewards, with as many digits as it takes to tell them apart."""
    rewards = [level.reward for level in levels]
    return [text.reward(reward, text.digits_apart(rewards)) for reward in rewards]


def table(
    first: str, shown: Shown, levels: Sequence[Level], cells: Iterable[Sequence[tuple[str, str]]]
) -> str:
    """Levels down, under ``first``, arms across: of each its epochs, and its speed-up but for the baseline's.

    ``cells`` are by level and by arm.
    """

    def across(pairs: Iterable[tuple[str, str]]) -> list[str]:
        return [cell for n, pair in enumerate(pairs) for cell in (pair[:1] if n == shown.baseline else pair)]

    head = [first, *across((name, "speed-up") for name in shown.names)]
    return text.table(head, [[name, *across(row)] for name, row in zip(names(levels), cells, strict=True)])


def panel(
    axes: Any, shown: Shown, levels: Sequence[Level], title: str, reward: str, unit: str = "epochs", *,
    legend: bool = False,
) -> None:  # fmt: skip
    """Epochs to each level, with their intervals."""
    held = [[level.arms[n].epochs for level in levels] for n in range(len(shown.arms))]
    if levels:
        draw.dots(axes, shown, names(levels), held, legend=legend)
    else:
        axes.text(0.5, 0.5, "no threshold: see the table", ha="center", transform=axes.transAxes)
    never = any(e.mean is None for own in held for e in own)
    palette.plain(axes, title, f"{unit} (x: never)" if never else unit, reward, grid="x")
    axes.xaxis.get_major_locator().set_params(integer=True)
