"""Chapter: wall-clock time and memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw
from pcpo_overlay.tools.report.arms import Shown
from pcpo_overlay.tools.report.chapter import Chapter, Column, Measures, against_baseline, over_all
from pcpo_overlay.tools.report.text import spelled, three

DEFINITIONS = {
    "seconds": "Median over all epochs of all seeds of an arm, by the clock, so other load on the machine counts; "
    "ratio: against the baseline's median.",
    "peak memory": "Highest of an arm's runs: the allocator's peak on a GPU, the process's resident peak on a CPU. "
    "tape: the largest part of it that PCPO's record of a rollout took.",
}


_PARTS = {"sampling": "sampling", "training": "training", "total": "epoch"}
CHAPTER = Chapter(
    "Time and memory",
    "",
    {
        name: column
        for part, told in _PARTS.items()
        for name, column in (
            (f"{part}_median_s", Column(f"{told}, s", over_all(f"seconds_{part}", statistics.median))),
            (f"{part}_ratio", Column("ratio", against_baseline(f"seconds_{part}"), three)),
        )
    }
    | {
        "peak_memory_bytes": Column(
            "peak memory, MiB", over_all("peak_memory_bytes", max), spelled("{:.0f}", 2**20)
        ),
        "tape_bytes": Column("tape, MiB", over_all("tape_bytes", max), spelled("{:.1f}", 2**20)),
    },
)


def figures(shown: Shown, measured: Sequence[Measures]) -> dict[str, Any]:
    """Median wall-clock seconds of an epoch, sampling and training."""
    pairs = zip(shown.arms, measured, strict=True)
    arms = [(arm, own, total) for arm, own in pairs if (total := own.mean("total_median_s")) is not None]
    if not arms:
        return {}
    figure = palette.new_figure(7, max(2.6, 1.7 + 0.55 * len(arms)))
    axes = figure.subplots()
    for y, (arm, own, total) in enumerate(arms):
        left = 0.0
        for part, colour in zip(("sampling", "training"), palette.PARTS, strict=True):
            seconds, told = own.mean(f"{part}_median_s") or 0.0, None if y else part
            axes.barh(y, seconds, left=left, color=colour, edgecolor="white", height=0.6, label=told)
            left += seconds
        ratio = None if arm is shown.arms[shown.baseline] else own.mean("total_ratio")
        told = f" {total:.3g} s" + ("" if ratio is None else f" ({ratio:.2f}x)"[:14])
        axes.text(max(left, total), y, told, va="center")
    axes.set_yticks(range(len(arms)), [arm.legend for arm, *_ in arms])
    axes.invert_yaxis()
    # Room for the text: set by hand, since text beyond the axes would squeeze them.
    axes.set_xlim(0, 1.35 * max(total for *_, total in arms) or 1)
    palette.plain(axes, xlabel="median seconds per epoch", grid="x")
    small = f"x: against {shown.names[shown.baseline]}"
    return {"time": draw.finished(figure, axes, "Wall-clock time of an epoch", small)}
