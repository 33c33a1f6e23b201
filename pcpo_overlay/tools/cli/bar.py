"""A progress bar for work within one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A rich progress bar on stderr; the yielded function takes the steps done and, if any, the loss."""
    from pcpo_overlay.tools.miniature import require

    require("rich")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, loss="")
        smooth = float("nan")

        def report(done: int, loss: float | None = None) -> None:
            nonlocal smooth
            if loss is not None:
                smooth = loss if smooth != smooth else 0.98 * smooth + 0.02 * loss
                progress.update(task, completed=done, loss=f"loss {smooth:.4f}")
            else:
                progress.update(task, completed=done)

        yield report
