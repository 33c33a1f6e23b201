"""Showing how the runs come along: a bar per run on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Protocol

from pcpo_overlay.tools.ab.plan import Planned
from pcpo_overlay.tools.runs.tail import MetricsTail


class Display(Protocol):
    """What the runner tells a display."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def started(self, index: int) -> None:
        """Run number ``index`` of the plan was started."""

    def epoch(self, index: int, metrics: MetricsTail) -> None:
        """It finished an epoch."""

    def ended(self, index: int, told: str, metrics: MetricsTail) -> None:
        """It ended; ``told`` is a word or two on how."""

    def say(self, text: str) -> None:
        """Show a line of text."""


def make_display(plan: list[Planned], epochs: int | None) -> Display:
    """The display that fits where stdout goes."""
    if sys.stdout.isatty():
        try:
            return Bars(plan, epochs)
        except ImportError:
            pass  # without rich the plain lines say the same
    return Lines(plan, epochs)


def reward_text(metrics: MetricsTail) -> str:
    """The last reward, with a placeholder before the first."""
    return "-" if metrics.reward is None else f"{metrics.reward:.4g}"


class Lines:
    """A line per event."""

    def __init__(self, plan: list[Planned], epochs: int | None) -> None:
        self._plan, self._epochs = plan, epochs

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout.flush()

    def _head(self, index: int) -> str:
        return f"[{index + 1}/{len(self._plan)}] {self._plan[index].name}"

    def started(self, index: int) -> None:
        self.say(f"{self._head(index)}: started, output in {self._plan[index].folder}")

    def epoch(self, index: int, metrics: MetricsTail) -> None:
        total = metrics.total or self._epochs
        of = f"/{total}" if total else ""
        seconds = f", {metrics.seconds:.1f} s" if metrics.seconds is not None else ""
        self.say(f"{self._head(index)}: epoch {metrics.epochs}{of}, reward {reward_text(metrics)}{seconds}")

    def ended(self, index: int, told: str, metrics: MetricsTail) -> None:
        self.say(f"{self._head(index)}: {told}")

    def say(self, text: str) -> None:
        print(text, flush=True)


class Bars:
    """A bar per run."""

    def __init__(self, plan: list[Planned], epochs: int | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._progress: Any = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("reward {task.fields[reward]}"),
            Remaining(),
            TextColumn("{task.fields[told]}"),
        )
        self._tasks = [
            self._progress.add_task(p.name, total=epochs, start=False, reward="-", told="waiting")
            for p in plan
        ]

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, index: int) -> None:
        self._progress.start_task(self._tasks[index])
        self._progress.update(self._tasks[index], told="running")

    def epoch(self, index: int, metrics: MetricsTail) -> None:
        self._show(index, metrics, "running")

    def ended(self, index: int, told: str, metrics: MetricsTail) -> None:
        self._show(index, metrics, told)
        self._progress.stop_task(self._tasks[index])

    def _show(self, index: int, metrics: MetricsTail, told: str) -> None:
        update: dict[str, Any] = {"completed": metrics.epochs, "reward": reward_text(metrics), "told": told}
        if metrics.total:
            update["total"] = metrics.total
        self._progress.update(self._tasks[index], **update)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
