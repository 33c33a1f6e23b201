"""Write patch files and their entry in the lock together: all that is new waits in one file until it is in place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from .atomic import write_atomically
from .context import Context
from .errors import ExitCode
from .gitio import decode, encode
from .lockfile import Upstream, check_patch_file, load, render
from .record import MALFORMED, damaged, read_json
from .stages import stage


def _waiting(ctx: Context) -> Path:
    return ctx.lock.path.with_name(f".{ctx.lock.path.name}.new")


def _guard(ctx: Context) -> AbstractContextManager[None]:
    """One run at a time writes a lock, whichever upstream it is about."""
    return ctx.exclusive(ctx.lock.path.with_name(f".{ctx.lock.path.name}.lock"), str(ctx.lock.path))


def save(ctx: Context, changed: Upstream, patches: Mapping[str, bytes]) -> None:
    """Replace an upstream's entry and its patch files; a run that dies leaves the old ones, or is finished by the next.

    ``patches`` are contents by their names in the lock; patch files that ``changed`` no longer lists go.
    Raises Fault: BUSY, or UNWRITABLE.
    """
    try:
        with _guard(ctx):
            _put_in_place(ctx)  # of a run that died since this one began
            lock = load(ctx.lock.path)  # as it is now: another entry may have changed since
            gone = {e.file for e in lock.get(changed.name).patches} - {e.file for e in changed.patches}
            files = {**{file: decode(data) for file, data in patches.items()}, **dict.fromkeys(gone)}
            upstreams = tuple(changed if u.name == changed.name else u for u in lock.upstreams)
            new = {"lock": render(replace(lock, upstreams=upstreams)), "patches": files}
            write_atomically(_waiting(ctx), json.dumps(new).encode())
            stage("lock-begun")
            _put_in_place(ctx)
    except OSError as error:
        raise ExitCode.UNWRITABLE.fault(
            f"cannot write {ctx.lock.path.name} and the patches: {error}"
        ) from None


def finish(ctx: Context) -> bool:
    """Put into place what a killed run left waiting; whether there was anything."""
    if not _waiting(ctx).exists():
        return False
    with _guard(ctx):
        return _put_in_place(ctx)


def _put_in_place(ctx: Context) -> bool:
    waiting, root = _waiting(ctx), ctx.lock.root
    new = read_json(waiting)
    if new is None:
        return False
    try:
        lock, patches = str(new["lock"]), dict(new["patches"])
    except MALFORMED as error:
        raise damaged(waiting, error) from None
    for file in patches:
        check_patch_file(root, file, str(waiting))
    for file, text in patches.items():
        if text is None:
            (root / file).unlink(missing_ok=True)
        else:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(root / file, encode(text))
        stage("patch-written")
    write_atomically(ctx.lock.path.resolve(), lock.encode())
    stage("lock-written")
    waiting.unlink()
    return True
