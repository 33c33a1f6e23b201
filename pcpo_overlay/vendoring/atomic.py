"""Files that are either the old or the new version, whenever the process dies."""

from __future__ import annotations

import glob
import os
import tempfile
from pathlib import Path

from .stages import stage


def write_atomically(path: Path, data: bytes, mode: int | None = None, *, shared: bool = False) -> None:
    """Write beside ``path``, flush to disk, rename over it; what a killed write of it left beside it is deleted.

    Args:
        mode: of the file; by default the old file's, else 0644.
        shared: another process may be writing the same file; nothing that lies beside it is deleted then.
    """
    beside = f".{path.name}.pcpo-"
    if not shared:
        for left in path.parent.glob(f"{glob.escape(beside)}*.tmp"):
            remove(left)
    if mode is None:
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
    handle, temporary = tempfile.mkstemp(prefix=beside, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        stage("written-beside")
        os.chmod(temporary, mode)  # noqa: PTH101
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove(path: Path) -> None:
    """Delete a file that may be gone already."""
    path.unlink(missing_ok=True)
