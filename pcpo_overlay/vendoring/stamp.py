"""What the overlay leaves in a clone's git directory: the stamp, and the pin it put the clone at.

The stamp (``pcpo-overlay.json``) says which commit and which trees the clone holds, and the sha256 of each
patched file. The overlay copies it into ``run.json`` at run start. It exists while the hooks are in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .atomic import remove, write_atomically

STAMP = "pcpo-overlay.json"
PIN = "pcpo-overlay.pin"


@dataclass(frozen=True)
class Stamp:
    """``files`` maps each patched file to the sha256 of its patched content."""

    name: str
    commit: str
    base_tree: str
    patched_tree: str
    files: Mapping[str, str]


def read_stamp(git_dir: Path) -> Stamp | None:
    """The stamp, or None where there is none or it cannot be read as one."""
    try:
        raw = json.loads((git_dir / STAMP).read_text(encoding="utf-8"))
        files = {str(path): str(digest) for path, digest in raw["files"].items()}
        return Stamp(raw["name"], raw["commit"], raw["base_tree"], raw["patched_tree"], files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_stamp(git_dir: Path, stamp: Stamp | None) -> None:
    """Put the stamp there in one step; None removes it."""
    if stamp is None:
        remove(git_dir / STAMP)
    else:
        write_atomically(git_dir / STAMP, (json.dumps(asdict(stamp), indent=2) + "\n").encode())


def read_pin(git_dir: Path) -> str | None:
    """The commit ``apply.py`` last put the clone at; while HEAD is still there, it may be moved again."""
    try:
        return (git_dir / PIN).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def write_pin(git_dir: Path, commit: str) -> None:
    if read_pin(git_dir) != commit:
        write_atomically(git_dir / PIN, f"{commit}\n".encode())
