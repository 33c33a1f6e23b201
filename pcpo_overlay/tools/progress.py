"""Showing how long work comes along: a bar each on a terminal, a line per event elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, TextIO


class Display(Protocol):
    """What is told of several pieces of work, each by its number."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def started(self, index: int, told: str = "") -> None:
        """It was started; ``told`` is more on that."""

    def step(self, index: int, done: int, total: int | None = None, told: str = "") -> None:
        """So many of its steps are done; ``told`` is what the last one brought."""

    def ended(self, index: int, told: str, done: int | None = None) -> None:
        """It ended, after so many steps where that was not said before; ``told`` is a word or two on how."""

    def say(self, text: str) -> None:
        """Show a line of text."""


def make_display(
    names: Sequence[str], total: int | None = None, step: str = "", stream: TextIO | None = None
) -> Display:
    """The display that fits where it goes.

    Args:
        names: of the pieces of work.
        total: steps of each, where that is known.
        step: what a step is called; without a name, lines tell none.
        stream: None is stdout.
    """
    stream = sys.stdout if stream is None else stream
    if stream.isatty():
        try:
            return Bars(names, total, stream)
        except ImportError:
            pass  # without rich the plain lines say the same
    return Lines(names, total, step, stream)


class Lines:
    """A line per event."""

    def __init__(self, names: Sequence[str], total: int | None, step: str, stream: TextIO) -> None:
        self._names, self._total, self._step, self._stream = names, total, step, stream

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()

    def _tell(self, index: int, text: str) -> None:
        self.say(f"[{index + 1}/{len(self._names)}] {self._names[index]}: {text}")

    def started(self, index: int, told: str = "") -> None:
        if told:
            self._tell(index, f"started, {told}")

    def step(self, index: int, done: int, total: int | None = None, told: str = "") -> None:
        if self._step:
            of = f"/{total or self._total}" if total or self._total else ""
            self._tell(index, f"{self._step} {done}{of}{told and ', '}{told}")

    def ended(self, index: int, told: str, done: int | None = None) -> None:
        self._tell(index, told)

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Bars:
    """A bar each."""

    def __init__(self, names: Sequence[str], total: int | None, stream: TextIO) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress: Any = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}", markup=False),
            TextColumn("{task.fields[state]}", markup=False),
            console=Console(file=stream),
        )
        self._tasks = [
            self._progress.add_task(escape(name), total=total, start=False, told="", state="waiting")
            for name in names
        ]

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, index: int, told: str = "") -> None:
        self._progress.start_task(self._tasks[index])
        self._progress.update(self._tasks[index], state="running")

    def step(self, index: int, done: int, total: int | None = None, told: str = "") -> None:
        of = {} if total is None else {"total": total}
        self._progress.update(self._tasks[index], completed=done, told=told, **of)

    def ended(self, index: int, told: str, done: int | None = None) -> None:
        more = {} if done is None else {"completed": done}
        self._progress.update(self._tasks[index], state=told, **more)
        self._progress.stop_task(self._tasks[index])

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(title: str, total: int, step: str = "") -> Iterator[Callable[..., None]]:
    """One piece of work, shown on stderr; the yielded function takes the steps done and, if any, the loss."""
    smooth = float("nan")

    def report(done: int, loss: float | None = None) -> None:
        nonlocal smooth
        if loss is not None:
            smooth = loss if smooth != smooth else 0.98 * smooth + 0.02 * loss
        display.step(0, done, told="" if loss is None else f"loss {smooth:.4f}")

    with make_display([title], total, step, sys.stderr) as display:
        display.started(0)
        yield report
