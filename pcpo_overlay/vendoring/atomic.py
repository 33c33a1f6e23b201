"""Files that are either the old or the new version, whenever the process dies."""

from __future__ import annotations

import errno
import glob
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import ExitCode
from .paths import link_on_the_way
from .stages import stage


def read_regular(path: Path) -> bytes:
    """A regular file's bytes. Raises OSError: it cannot be read, or is something else; a FIFO is not waited for."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def holds(path: Path, data: bytes) -> bool:
    """Whether a file with this content is there."""
    return path.is_file() and read_regular(path) == data


@dataclass(frozen=True)
class Seen:
    """What stands at a path: a file's bytes, or a symbolic link's target."""

    data: bytes
    link: bool = False


def look(path: Path) -> Seen | None:
    """What stands at ``path``, or None. Raises Fault: EDITED for what is neither a file nor a link."""
    try:
        if path.is_symlink():
            return Seen(os.fsencode(path.readlink()), link=True)
        return Seen(read_regular(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EISDIR, errno.ENXIO):
            raise
        raise ExitCode.EDITED.fault(f"{path} is in the way: it is not a file; move it away") from None


def look_below(root: Path, path: str) -> Seen | None:
    """What stands at ``root/path``; a link on the way, or a file where a folder should be, counts as a link there."""
    link = link_on_the_way(root, path)
    return look(root / path) if link in (None, path) else Seen(os.fsencode(str(link)), link=True)


def _beside(path: Path, folder: Path) -> str:
    # From there on, since files of one name can be on their way into several folders that are not there yet.
    return f".{'+'.join(path.relative_to(folder).parts)}.pcpo-"


def remove_leftovers(path: Path, folder: Path | None = None) -> None:
    """Delete what killed writes of ``path`` left beside it, or in a ``folder`` above it."""
    folder = folder or path.parent
    for left in folder.glob(f"{glob.escape(_beside(path, folder))}*.tmp"):
        left.unlink(missing_ok=True)


def _write_beside(path: Path, data: bytes, folder: Path, mode: int | None = None) -> Path:
    """A new file with ``data``, flushed to disk; owner and (unless given) mode are those of ``path``."""
    old = path.stat() if path.is_file() else None
    handle, name = tempfile.mkstemp(prefix=_beside(path, folder), suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
            new = os.fstat(handle)
        if old is not None and (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            os.chown(name, old.st_uid, old.st_gid)
        Path(name).chmod(mode or (stat.S_IMODE(old.st_mode) if old else 0o644))
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside ``path``, flush to disk, rename over it; a file that holds this already is left alone."""
    remove_leftovers(path)
    if holds(path, data):
        return
    aside = _write_beside(path, data, path.parent)
    try:
        stage("written-beside")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


class Swap:
    """One path's change from ``now`` to ``new``: written aside by the constructor, put in place by :meth:`commit`."""

    def __init__(self, path: Path, now: Seen | None, new: Seen | None, mode: int | None = None) -> None:
        """Write ``new`` aside, with ``mode`` or that of the file it replaces; nothing is at ``path`` yet."""
        self.path, self.now = path, now
        self._aside: Path | None = None
        folder = next(parent for parent in path.parents if parent.is_dir())
        remove_leftovers(path, folder)
        if new is not None and new.link:
            self._aside = Path(tempfile.mktemp(prefix=_beside(path, folder), suffix=".tmp", dir=folder))
            self._aside.symlink_to(os.fsdecode(new.data))
        elif new is not None:
            self._aside = _write_beside(path, new.data, folder, mode)

    def commit(self) -> None:
        """Put the new content in place. Raises Fault: EDITED if what is there is not what was read; it is left."""
        if look(self.path) != self.now:
            raise ExitCode.EDITED.fault(
                f"{self.path} was saved by someone else while this ran, and was left alone; run the same command again"
            )
        if self._aside is None:
            self.path.unlink(missing_ok=True)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._aside.replace(self.path)

    def discard(self) -> None:
        """Delete what was written aside and not put in place."""
        if self._aside is not None:
            self._aside.unlink(missing_ok=True)
