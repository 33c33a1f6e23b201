"""Files that are either the old or the new version, whenever the process dies."""

from __future__ import annotations

import errno
import glob
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import ExitCode, Fault
from .stages import stage


def read_regular(path: Path) -> bytes:
    """A regular file's bytes. Raises OSError: it cannot be read, or is something else; a FIFO is not waited for."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def _beside(path: Path, folder: Path) -> str:
    # From there on, since files of one name can be on their way into several folders that are not there yet.
    return f".{'+'.join(path.relative_to(folder).parts)}.pcpo-"


def remove_leftovers(path: Path, folder: Path | None = None) -> None:
    """Delete what killed writes of ``path`` left beside it, or in a ``folder`` above it."""
    folder = folder or path.parent
    for left in folder.glob(f"{glob.escape(_beside(path, folder))}*.tmp"):
        left.unlink(missing_ok=True)


def _write_beside(path: Path, data: bytes, folder: Path, mode: int | None) -> Path:
    """A new file with ``data``, flushed to disk, with the owner and mode of ``path``."""
    old = path.stat() if path.is_file() else None
    handle, name = tempfile.mkstemp(prefix=_beside(path, folder), suffix=".tmp", dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new = temporary.stat()
        if old is not None and (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            os.chown(temporary, old.st_uid, old.st_gid)
        if mode is None:
            mode = 0o644 if old is None else stat.S_IMODE(old.st_mode)
        temporary.chmod(mode)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write_atomically(path: Path, data: bytes, mode: int | None = None, *, shared: bool = False) -> None:
    """Write beside ``path``, flush to disk, rename over it; what a killed write of it left beside it is deleted.

    Args:
        mode: of the file; by default the old file's, else 0644. The owner stays the old file's.
        shared: another process may be writing the same file; nothing that lies beside it is deleted then.
    """
    if not shared:
        remove_leftovers(path)
    temporary = _write_beside(path, data, path.parent, mode)
    try:
        stage("written-beside")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Seen:
    """What stands at a path: a file's bytes, or a symbolic link's target."""

    data: bytes
    link: bool = False


def look(path: Path) -> Seen | None:
    """What stands at ``path``, or None if nothing does.

    Raises Fault: EDITED where something is there that is neither a file nor a link.
    """
    try:
        if path.is_symlink():
            return Seen(os.fsencode(path.readlink()), link=True)
        return Seen(read_regular(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EISDIR, errno.ENXIO):
            raise
        raise Fault(ExitCode.EDITED, f"{path} is in the way: it is not a file; move it away") from None


class Swap:
    """One path's change from ``now`` to ``new``: written aside by the constructor, put in place by :meth:`commit`."""

    def __init__(self, path: Path, now: Seen | None, new: Seen | None, mode: int | None = None) -> None:
        """Write ``new`` aside; nothing is at ``path`` yet.

        Args:
            mode: of the new file; by default that of the file it replaces.
        """
        self.path, self.now = path, now
        self._aside: Path | None = None
        folder = path.parent
        while not folder.is_dir():
            folder = folder.parent
        for parent in path.parents[: len(path.parents) - len(folder.parents)]:
            if parent.is_dir():
                remove_leftovers(path, parent)
        if new is None:
            return
        if new.link:
            self._aside = Path(tempfile.mktemp(prefix=_beside(path, folder), suffix=".tmp", dir=folder))
            self._aside.symlink_to(os.fsdecode(new.data))
        else:
            self._aside = _write_beside(path, new.data, folder, mode)

    def commit(self) -> None:
        """Put the new content in place. Raises Fault: EDITED if what is there is not what was read; it is left."""
        if look(self.path) != self.now:
            raise Fault(
                ExitCode.EDITED,
                f"{self.path} was saved by someone else while this ran, and was left alone; run the same command again",
            )
        if self._aside is None:
            self.path.unlink(missing_ok=True)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._aside.replace(self.path)
        self._aside = None

    def discard(self) -> None:
        """Delete what was written aside and not put in place."""
        if self._aside is not None:
            self._aside.unlink(missing_ok=True)
