"""What the overlay leaves in a clone's git directory: one record of what was put in, however the clone was reached.

The record is the engine's own: of each touched file the content before and after. It is written before the first
file is changed, so whoever comes after a killed run knows every content that can be found. Beside it lie the stamp
(``pcpo-overlay.json``), which a run copies into ``run.json``, and the pin that ``apply`` put HEAD at.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .atomic import read_regular, write_atomically
from .errors import ExitCode, Fault
from .lockfile import sha256
from .paths import HEX40, safe_relative

RECORD, STAMP, PIN = "pcpo-overlay.record.json", "pcpo-overlay.json", "pcpo-overlay.pin"
#: What reading a file of ours can raise that somebody else wrote.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, zlib.error)


@dataclass(frozen=True)
class Known:
    """A touched file: without hooks (``before``) and with them; the same where the hooks are being taken out.

    ``older`` are sha256 of other contents that may be found while a run is under way; without hooks each is ``before``.
    """

    before: bytes
    after: bytes
    older: tuple[str, ...] = ()

    def holds(self, now: bytes) -> bool:
        """Whether ``now`` is one of the contents that this entry knows."""
        return now in (self.before, self.after) or sha256(now) in self.older


@dataclass(frozen=True)
class Record:
    """``commit`` and ``base_tree`` are what the files lie on, ``patched_tree`` what that tree is with the hooks.

    ``moving_from`` is the commit that a move of the pin, not complete yet, comes from.
    """

    name: str
    commit: str
    base_tree: str
    patched_tree: str
    files: Mapping[str, Known]
    moving_from: str | None = None
    taken_over: bool = field(default=False, compare=False)

    @property
    def complete(self) -> bool:
        return self == self.settled()

    def settled(self) -> Record:
        """The record as it is once every file is in place."""
        files = {path: Known(k.before, k.after) for path, k in self.files.items() if k.before != k.after}
        return replace(self, files=files, moving_from=None)

    def stamp(self) -> dict[str, Any]:
        keys = ("name", "commit", "base_tree", "patched_tree")
        files = {path: sha256(known.after) for path, known in self.files.items()}
        return {**{key: getattr(self, key) for key in keys}, "files": files}


def read_json(path: Path) -> Any:
    """A file of ours as JSON, or None where there is none. Raises Fault: FAILED for one that cannot be read."""
    try:
        return json.loads(read_regular(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: object) -> Fault:
    return ExitCode.FAILED.fault(
        f"{path} cannot be read ({error}); move it away and run the same command again"
    )


def hex40(value: object) -> str:
    """A commit or tree name found in a file. Raises ValueError: it is anything but 40 hexadecimal digits."""
    if not isinstance(value, str) or not HEX40.fullmatch(value):
        raise ValueError(f"{value!r} is no object name")
    return value


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def read_record(git_dir: Path) -> Record | None:
    """What was put into a clone, or None. Every name in it is checked.

    Raises Fault: FAILED where it is damaged, UNSAFE_PATH where it names a file outside the clone.
    """
    path = git_dir / RECORD
    raw = read_json(path)
    if raw is None:
        return None
    try:
        files: dict[str, Known] = {}
        for name, item in raw["files"].items():
            older = tuple(str(digest) for digest in item["older"])
            before, after = _unpack(item["before"]), _unpack(item["after"])
            files[safe_relative(name, str(path))] = Known(before, after, older)
        commit, base_tree, patched_tree = (hex40(raw[key]) for key in ("commit", "base_tree", "patched_tree"))
        moving = None if raw["moving_from"] is None else hex40(raw["moving_from"])
        return Record(str(raw["name"]), commit, base_tree, patched_tree, files, moving)
    except MALFORMED as error:
        raise damaged(path, error) from None


def write_record(git_dir: Path, record: Record | None) -> None:
    """Put the record there in one step; None removes it."""
    if record is None:
        (git_dir / RECORD).unlink(missing_ok=True)
        return
    files = {
        path: {"before": _pack(known.before), "after": _pack(known.after), "older": list(known.older)}
        for path, known in record.files.items()
    }
    raw = {**record.stamp(), "moving_from": record.moving_from, "files": files}
    write_atomically(git_dir / RECORD, json.dumps(raw).encode())


def write_stamp(git_dir: Path, record: Record) -> None:
    """Have the stamp say what the record says; without hooks there is none."""
    if record.files:
        write_atomically(git_dir / STAMP, (json.dumps(record.stamp(), indent=2) + "\n").encode())
    else:
        (git_dir / STAMP).unlink(missing_ok=True)


def read_pin(git_dir: Path) -> str | None:
    """The commit ``apply.py`` last put the clone at; while HEAD is still there, it may be moved again."""
    try:
        return hex40(read_regular(git_dir / PIN).decode("ascii").strip())
    except (OSError, ValueError):
        return None


def write_pin(git_dir: Path, commit: str) -> None:
    write_atomically(git_dir / PIN, f"{commit}\n".encode())
