"""Write patch files and their entry in the lock together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from .atomic import read_regular, write_atomically
from .errors import ExitCode, Fault
from .lockfile import Lock, Upstream, load, render
from .mutex import Patience, exclusive
from .stages import stage


def _waiting(file: Path) -> Path:
    return file.with_name(f".{file.name}.new")


def save(lock: Lock, changed: Upstream, files: Mapping[str, bytes], patience: Patience) -> None:
    """Replace an upstream's entry together with its patch files, so that dying in between leaves the old or the new.

    The new files wait under other names until the lock is written; from then on :func:`finish` moves them into place,
    here or at the start of the next run. One run at a time does this, whichever upstream it is about.

    Args:
        files: content of each patch file of ``changed``, by its name in the lock.

    Raises:
        Fault: BUSY, or UNWRITABLE.
    """
    try:
        with _guard(lock, patience):
            for stale in (lock.root / "patches" / changed.name).glob(".*.patch.new"):
                stale.unlink(missing_ok=True)
            for file, data in files.items():
                path = lock.root / file
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists() or read_regular(path) != data:
                    write_atomically(_waiting(path), data)
                stage("patch-written")
            after = load(lock.path).with_upstream(
                changed
            )  # as it is now: another entry may have changed since
            write_atomically(lock.path.resolve(), render(after).encode())
            stage("lock-written")
            _move(after)
            kept = {entry.file for entry in changed.patches}
            for entry in lock.get(changed.name).patches:
                if entry.file not in kept:
                    (lock.root / entry.file).unlink(missing_ok=True)
    except OSError as error:
        raise Fault(ExitCode.UNWRITABLE, f"cannot write {lock.path.name} and the patches: {error}") from None


def _guard(lock: Lock, patience: Patience) -> AbstractContextManager[None]:
    return exclusive(lock.path.with_name(f".{lock.path.name}.lock"), str(lock.path), patience)


def finish(lock: Lock, patience: Patience) -> list[str]:
    """Move into place what a killed run left waiting beside the patch files; returns the names of these."""
    files = [lock.root / entry.file for upstream in lock.upstreams for entry in upstream.patches]
    if not any(_waiting(file).exists() for file in files):
        return []
    with _guard(lock, patience):
        return _move(load(lock.path))


def _move(lock: Lock) -> list[str]:
    """Move into place the patch files that the lock lists and that wait beside; returns their names."""
    done: list[str] = []
    for upstream in lock.upstreams:
        for entry in upstream.patches:
            waiting = _waiting(lock.root / entry.file)
            try:
                if hashlib.sha256(read_regular(waiting)).hexdigest() == entry.sha256:
                    waiting.replace(lock.root / entry.file)
                    done.append(entry.file)
            except FileNotFoundError:  # the usual case, or another run was faster
                continue
    return done
