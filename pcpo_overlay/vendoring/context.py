"""What every command is given, and one run at a time: the second one waits, and can say for whom."""

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
from .errors import ExitCode
from .gitio import inherited
from .lockfile import Lock, Upstream


def _holder(note: Path) -> str:
    """Who holds a lock, in words, from the note they left; notes can be stale or missing."""
    try:
        by = json.loads(read_regular(note))
        return f"pid {by['pid']} on {by['host']} since {by['since']} ({by['command']})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "a run that left no note"


@dataclass(frozen=True)
class Context:
    """The lock, where clones go or (``into``) the one the user has, where they come from, how to wait and to talk.

    ``command`` is the command line as typed, for the note that waiting runs read.
    """

    lock: Lock
    dest: Path
    into: Path | None
    mirror: Path | None
    wait: float
    command: str
    say: Callable[[str], None]

    def path(self, upstream: Upstream) -> Path:
        return self.into or self.dest / upstream.name

    @property
    def merge(self) -> bool:
        """Whether hooks may be merged into files that the user edited: only where the user named the clone."""
        return self.into is not None

    @contextmanager
    def exclusive(self, lock: Path, what: str) -> Iterator[None]:
        """Hold the file ``lock`` for the block. The system frees it when the process and its git are dead.

        Raises Fault: BUSY when ``wait`` seconds are over, UNWRITABLE where no lock file can be made.
        """
        note = lock.with_name(lock.name + ".holder")
        try:
            handle = filelock.FileLock(str(lock))
            try:
                handle.acquire(timeout=0)
            except filelock.Timeout:
                self.say(f"{what} is held by {_holder(note)}; waiting up to {self.wait:g} s (--wait)")
                handle.acquire(timeout=self.wait)
        except filelock.Timeout:
            raise ExitCode.BUSY.fault(
                f"{what} is still held by {_holder(note)} after {self.wait:g} s; nothing was done"
            ) from None
        except (OSError, NotImplementedError) as error:
            raise ExitCode.UNWRITABLE.fault(f"cannot make the lock file {lock}: {error}") from None
        descriptor = getattr(handle._context, "lock_file_fd", None)
        descriptors = set() if descriptor is None else {descriptor}
        inherited.update(descriptors)
        try:
            since = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            who = {"pid": os.getpid(), "host": platform.node(), "since": since, "command": self.command}
            write_atomically(note, json.dumps(who).encode())
            yield
        finally:
            note.unlink(missing_ok=True)
            inherited.difference_update(descriptors)
            handle.release()
