"""One run at a time per clone, and a second one that can say who it waits for."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import filelock

from .atomic import read_regular, write_atomically
from .errors import ExitCode, Fault
from .gitio import inherited


def _holder(path: Path) -> str:
    """Who holds a lock, in words, from the note they left; notes can be stale or missing."""
    try:
        note = json.loads(read_regular(path))
        return f"pid {note['pid']} on {note['host']} since {note['since']} ({note['command']})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "a run that left no note"


@dataclass(frozen=True)
class Patience:
    """How to wait for another run: so many seconds, saying so; ``command`` is for the note that others read."""

    seconds: float
    command: str
    say: Callable[[str], None]


@contextmanager
def exclusive(lock: Path, what: str, patience: Patience) -> Iterator[None]:
    """Hold ``lock`` for the block. The operating system frees it when the process and its git are dead.

    Args:
        lock: lock file; a note on the holder goes beside it as ``<lock>.holder``.
        what: what is locked, for messages.

    Raises:
        Fault: BUSY after the seconds of ``patience``, UNWRITABLE where no lock file can be made.
    """
    note = lock.with_name(lock.name + ".holder")
    try:
        handle = filelock.FileLock(str(lock))
        try:
            handle.acquire(timeout=0)
        except filelock.Timeout:
            patience.say(f"{what} is held by {_holder(note)}; waiting up to {patience.seconds:g} s (--wait)")
            try:
                handle.acquire(timeout=patience.seconds)
            except filelock.Timeout:
                raise Fault(
                    ExitCode.BUSY,
                    f"{what} is still held by {_holder(note)} after {patience.seconds:g} s; nothing was done",
                ) from None
    except (OSError, NotImplementedError) as error:
        raise Fault(ExitCode.UNWRITABLE, f"cannot make the lock file {lock}: {error}") from None
    descriptor = getattr(handle._context, "lock_file_fd", None)
    inherited.update([] if descriptor is None else [descriptor])
    try:
        who = {
            "pid": os.getpid(),
            "host": platform.node(),
            "since": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "command": patience.command,
        }
        write_atomically(note, json.dumps(who).encode())
        yield
    finally:
        note.unlink(missing_ok=True)
        inherited.clear()
        handle.release()
