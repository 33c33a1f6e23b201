"""Chapter: wall-clock time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Arm, Shown
from pcpo_overlay.tools.report.text import number, table

DEFINITIONS = {
    "seconds": "Median over all epochs of all seeds of an arm, by the clock, so other load on the machine counts; "
    "ratio: against the baseline's median.",
    "peak memory": "Highest of an arm's runs: the allocator's peak on a GPU, the process's resident peak on a CPU. "
    "tape: the largest part of it that PCPO's record of a rollout took.",
}


@dataclass(frozen=True)
class Part:
    """Median seconds of a part of an epoch, and against the baseline's."""

    median_s: float | None
    ratio: float | None


@dataclass(frozen=True)
class Cost:
    """What an arm's epochs took."""

    sampling: Part
    training: Part
    total: Part
    peak_memory_bytes: float | None
    tape_bytes: float | None


def describe(arm: Arm, baseline: Arm) -> Cost:
    """Time and memory of an arm, against the baseline's."""
    parts = []
    for name in ("sampling", "training", "total"):
        own, reference = (stats.median(a.values(f"seconds_{name}")) for a in (arm, baseline))
        parts.append(Part(own, stats.ratio(own, reference)))
    peak, tape = (max(arm.values(key), default=None) for key in ("peak_memory_bytes", "tape_bytes"))
    return Cost(parts[0], parts[1], parts[2], peak, tape)


def tables(shown: Shown, cost: Sequence[Cost]) -> list[tuple[str, str]]:
    """Title and Markdown."""
    head = ["arm", "sampling, s", "ratio", "training, s", "ratio", "epoch, s", "ratio"]
    head += ["peak memory, MiB", "tape, MiB"]
    rows = []
    for arm, held in zip(shown.arms, cost, strict=True):
        parts = (held.sampling, held.training, held.total)
        seconds = [cell for part in parts for cell in (number(part.median_s), number(part.ratio, 3))]
        rows.append(
            [arm.name, *seconds, _mebibytes(held.peak_memory_bytes, 0), _mebibytes(held.tape_bytes, 1)]
        )
    return [("Time and memory", table(head, rows, left=1))]


def _mebibytes(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value / 2**20:.{digits}f}"[:24]


def figures(shown: Shown, cost: Sequence[Cost]) -> dict[str, Any]:
    """Median wall-clock seconds of an epoch, sampling and training."""
    arms = [
        (arm, held) for arm, held in zip(shown.arms, cost, strict=True) if held.total.median_s is not None
    ]
    if not arms:
        return {}
    figure = palette.new_figure(7, max(2.6, 1.7 + 0.55 * len(arms)))
    axes = figure.subplots()
    for y, (arm, held) in enumerate(arms):
        left = 0.0
        parts = (("sampling", held.sampling), ("training", held.training))
        for (name, part), colour in zip(parts, palette.PARTS, strict=True):
            if part.median_s is not None:
                axes.barh(
                    y, part.median_s, left=left, color=colour, edgecolor="white", height=0.6,
                    label=name if y == 0 else None,
                )  # fmt: skip
                left += part.median_s
        total = held.total.median_s or 0.0
        of_baseline = arm is not shown.arms[shown.baseline] and held.total.ratio is not None
        told = f" {total:.3g} s" + (f" ({held.total.ratio:.2f}x)"[:14] if of_baseline else "")
        axes.text(max(left, total), y, told, va="center")
    axes.set_yticks(range(len(arms)), [arm.legend for arm, _ in arms])
    axes.invert_yaxis()
    # Room for the text: set by hand, since text beyond the axes would squeeze them.
    axes.set_xlim(0, 1.35 * max(held.total.median_s or 0.0 for _, held in arms) or 1)
    palette.plain(axes, xlabel="median seconds per epoch", grid="x")
    draw.heading(figure, "Wall-clock time of an epoch", f"x: against {shown.names[shown.baseline]}")
    palette.legend_below(figure, axes)
    return {"time": figure}
