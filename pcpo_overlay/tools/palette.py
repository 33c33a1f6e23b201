"""One look per arm for every figure of the project: the same arm has the same colour, marker and line everywhere.

Colours are Okabe and Ito's, told apart with every common colour vision; markers and lines differ too, for arms that lie
on top of each other and for print.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools.faults import require
from pcpo_overlay.tools.runs.labels import BASELINE, names


@dataclass(frozen=True)
class Look:
    """How an arm is drawn: matplotlib's colour, marker and line style."""

    colour: str
    marker: str
    line: str


#: By what people read, see :func:`names`.
_KNOWN = {
    BASELINE: Look("#555555", "o", "-"),
    "log": Look("#009E73", "s", "--"),
    "match": Look("#CC79A7", "^", "-."),
    "full": Look("#0072B2", "D", "-"),
    "full,variance=paper": Look("#E69F00", "v", "--"),
    "full,variance=native": Look("#56B4E9", "D", "--"),
    "full,weights=uniform": Look("#D55E00", "P", "-."),
    "full,precision=match": Look("#56B4E9", "X", ":"),
    "GRPO-Guard": Look("#000000", "*", ":"),
}
_OTHERS = (
    Look("#882255", "X", "--"),
    Look("#999933", "p", "-."),
    Look("#AA4499", "h", "--"),
    Look("#44AA99", "<", "-."),
    Look("#8C510A", ">", ":"),
)
#: What belongs to no arm: grids, intervals of time, thresholds.
NEUTRAL = "#999999"
#: Two parts of one bar, none of them an arm's.
PARTS = ("#BBBBBB", "#DDCC77")


def look(label: str) -> Look:
    """The look of an arm that has one of its own, by its label or its name for people."""
    return _KNOWN[name(label)]


def name(label: str) -> str:
    """What people read for one arm by itself."""
    return names([label])[label]


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """The look of each arm of a comparison, by its label; arms without one of their own share out the rest in order."""
    named = names(labels)
    others = sorted(name for name in named.values() if name not in _KNOWN)
    rest = {name: _OTHERS[n % len(_OTHERS)] for n, name in enumerate(others)}
    return {held: _KNOWN.get(name) or rest[name] for held, name in named.items()}


def require_matplotlib() -> None:
    """Raise an ImportError that names the extra, where matplotlib is missing."""
    require("matplotlib.figure", "the figures need")


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches; it draws without a display, and changes nothing global."""
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def plain(axes: Any, title: str = "", xlabel: str = "", ylabel: str = "", grid: str = "both") -> None:
    """The frame that all axes share: a light grid, no lines above and to the right, a title on the left."""
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis=grid, alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def legend_below(figure: Any, axes: Any) -> None:
    """One legend for the whole figure, of what these axes name."""
    handles, told = axes.get_legend_handles_labels()
    if told:
        # About 13 characters an inch at this size, and 5 for each line's sample.
        columns = int(figure.get_figwidth() * 13 / (max(map(len, told)) + 5))
        figure.legend(
            handles, told, loc="outside lower center", ncols=max(1, min(columns, len(told))), frameon=False,
            fontsize="small",
        )  # fmt: skip
