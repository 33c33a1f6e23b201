"""Folders that a command writes: complete or not at all, and never in the place of what is not its own."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pcpo_overlay.tools.faults import Fault, told

#: A file in every folder made here: the command that made it, and the files that it wrote.
MARKER = ".pcpo-made.json"


class FolderError(Fault):
    """A folder that is not the command's to write; the message names it, what it holds and what to do."""


def absolute(path: Path) -> Path:
    """The path with ``~`` and links followed.

    Raises:
        FolderError: there is no such user, or the links go round in a circle.
    """
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: of older Pythons about a circle
        raise FolderError(f"{path}: {told(error)}") from None


def made_by(folder: Path, command: str) -> bool:
    """Whether a command made this folder, and did so to the end."""
    return _files_of(folder, command) is not None


def check_writable(folder: Path, command: str) -> None:
    """Refuse a folder that :func:`written` would refuse, before the work that is to fill it.

    A folder may be written that is not there, or is empty, or that the same command made and nobody added to.

    Raises:
        FolderError: any other.
    """
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise FolderError(f"{folder} is there already and is no folder; choose another name")
        return
    own = _files_of(folder, command)
    if own is None:
        foreign = sorted(path.name for path in folder.iterdir())
    else:
        foreign = sorted(set(_files(folder)) - own - {MARKER})
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise FolderError(
            f"{folder} is there already and holds what `{command}` did not make ({foreign[0]}{more}); "
            "move it away or choose another folder"
        )


@contextmanager
def written(folder: Path, command: str) -> Iterator[Path]:
    """A new folder to fill, which at the end takes the place of ``folder``; after an error nothing has changed.

    Args:
        folder: what is to be written; its parents are made.
        command: as the user types it.

    Raises:
        FolderError: ``folder`` is not this command's to write.
    """
    check_writable(folder, command)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        scratch.chmod(0o755)  # mkdtemp's is for the owner alone
        yield scratch
        made = {"command": command, "files": sorted(_files(scratch))}
        (scratch / MARKER).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        check_writable(folder, command)  # again: filling it may have taken an hour
        if folder.is_dir():
            shutil.rmtree(folder)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _files(folder: Path) -> Iterator[str]:
    """Everything but folders, by its path within ``folder``."""
    return (
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


def _files_of(folder: Path, command: str) -> frozenset[str] | None:
    """What a command says that it wrote here; None where it did not."""
    try:
        made = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return frozenset(made["files"]) if made["command"] == command else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
