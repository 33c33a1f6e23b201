"""Which relative paths are safe to write to."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import ExitCode, Fault

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def safe_name(name: str, where: str) -> str:
    """``name`` if it can be one folder's name inside the destination.

    Raises:
        Fault: UNSAFE_PATH for anything with a separator, a leading dot or ``..``.
    """
    if not _NAME.fullmatch(name) or name.endswith((".lock", ".git")):
        raise Fault(
            ExitCode.UNSAFE_PATH,
            f"{where}: name {name!r} is not a plain folder name, so it could point outside the destination",
        )
    return name


def safe_relative(path: str, where: str) -> str:
    """``path`` if it stays below the folder it is relative to, in git's spelling (``a/b.py``).

    Raises:
        Fault: UNSAFE_PATH for absolute paths, ``..``, ``.git``, backslashes, drives and control characters.
    """
    parts = path.split("/")
    bad = (
        not path
        or "\\" in path
        or ":" in path
        or any(ord(c) < 32 or ord(c) == 127 for c in path)
        or any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)
    )
    if bad:
        raise Fault(ExitCode.UNSAFE_PATH, f"{where}: path {path!r} points outside its folder; refused")
    return path


def no_symlink_on_the_way(root: Path, path: str) -> bool:
    """Whether ``root/path`` can be written without following a symbolic link below ``root``."""
    here = root
    for part in path.split("/"):
        here = here / part
        if here.is_symlink():
            return False
    return True
