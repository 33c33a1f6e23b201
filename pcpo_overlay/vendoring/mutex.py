"""One run at a time per clone, and a second one that can say who it waits for."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import filelock

from .atomic import remove, write_atomically
from .errors import ExitCode, Fault


def _holder(path: Path) -> str:
    """Who holds a lock, in words, from the note they left; notes can be stale or missing."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return f"pid {note['pid']} on {note['host']} since {note['since']} ({note['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "a run that left no note"


@contextmanager
def exclusive(lock: Path, what: str, command: str, wait: float, say: Callable[[str], None]) -> Iterator[None]:
    """Hold ``lock`` for the block. The operating system frees it when the process dies, however it dies.

    Args:
        lock: lock file; a note on the holder goes beside it as ``<lock>.holder``.
        what: what is locked, for messages.
        wait: seconds to wait for another run before giving up.

    Raises:
        Fault: BUSY after ``wait`` seconds, UNWRITABLE where no lock file can be made.
    """
    note = lock.with_name(lock.name + ".holder")
    handle = filelock.FileLock(str(lock))
    try:
        try:
            handle.acquire(timeout=0)
        except filelock.Timeout:
            say(f"{what} is held by {_holder(note)}; waiting up to {wait:g} s (--wait)")
            try:
                handle.acquire(timeout=wait)
            except filelock.Timeout:
                raise Fault(
                    ExitCode.BUSY,
                    f"{what} is still held by {_holder(note)} after {wait:g} s; nothing was done",
                ) from None
    except (OSError, NotImplementedError) as error:
        raise Fault(ExitCode.UNWRITABLE, f"cannot make the lock file {lock}: {error}") from None
    try:
        who = {
            "pid": os.getpid(),
            "host": platform.node(),
            "since": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "command": command,
        }
        try:
            write_atomically(note, json.dumps(who).encode())
        except OSError as error:
            raise Fault(ExitCode.UNWRITABLE, f"cannot write {note}: {error.strerror}") from None
        yield
    finally:
        remove(note)
        handle.release()
