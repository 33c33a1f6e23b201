"""Folders that one process alone works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pcpo_overlay.tools.faults import Fault, told


@contextmanager
def held(lock: Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, whose folder is made if missing, for this process alone.

    Args:
        lock: the file.
        busy: what to say of another process that holds it.
        wait: for it to end, in place of saying so.

    Raises:
        Fault: another process holds it, or the folder cannot be written.
        ImportError: filelock is missing.
    """
    try:
        import filelock
    except ImportError:
        raise ImportError(
            'this command needs filelock; install it with: pip install "pcpo-overlay[ab]"'
        ) from None
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        if lock.is_symlink():  # taking the lock would empty what it points to
            raise Fault(f"{lock} is a link, which no command of this project makes; move it away")
        holder = filelock.FileLock(lock)
        holder.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        raise Fault(f"{busy} (it holds {lock}); wait for it") from None
    except OSError as error:
        raise Fault(f"{lock.parent} cannot be written: {told(error)}") from None
    try:
        yield
    finally:
        holder.release()
