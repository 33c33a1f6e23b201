"""Which names, relative paths and object names may be used: those of locks, patches and records are not trusted."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import ExitCode

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
HEX40 = re.compile(r"[0-9a-f]{40}")


def _controls(text: str) -> bool:
    return any(ord(c) < 32 or ord(c) == 127 for c in text)


def safe_name(name: str, where: str) -> str:
    """``name`` if it can be one folder's or patch file's name. Raises Fault: UNSAFE_PATH."""
    if not _NAME.fullmatch(name) or name.endswith((".lock", ".git")):
        raise ExitCode.UNSAFE_PATH.fault(
            f"{where}: name {name!r} is not made of letters, digits, '.', '_' and '-' only, so it could point "
            "outside its folder"
        )
    return name


def safe_relative(path: str, where: str) -> str:
    """``path`` if it stays below the folder it is relative to, in git's spelling. Raises Fault: UNSAFE_PATH."""
    if not stays_inside(path) or _controls(path) or any(c in path for c in '\\:"'):
        raise ExitCode.UNSAFE_PATH.fault(f"{where}: path {path!r} points outside its folder; refused")
    return path


def stays_inside(path: str) -> bool:
    """Whether a path of a tree stays below the top folder and out of ``.git``."""
    return all(part not in ("", ".", "..") and part.lower() != ".git" for part in path.split("/"))


def link_on_the_way(root: Path, path: str) -> str | None:
    """The first part of ``root/path`` below ``root`` that is a symbolic link or, but for the last, no folder."""
    parts = path.split("/")
    for n in range(1, len(parts) + 1):
        here = root.joinpath(*parts[:n])
        if here.is_symlink() or (n < len(parts) and os.path.lexists(here) and not here.is_dir()):
            return "/".join(parts[:n])
    return None


def argument(path: Path, option: str) -> Path:
    """A path from the command line, made absolute.

    Raises Fault: USAGE for control characters, which git's own files and messages cannot hold on one line.
    """
    if _controls(str(path)):
        raise ExitCode.USAGE.fault(f"{option} {str(path)!r}: a path with control characters cannot be used")
    return path.absolute()
