"""``evaluation.jsonl`` of a run folder: one line per policy, all of them drawn with the same settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcpo_overlay.files import write_atomically
from pcpo_overlay.record.run_folder import jsonable
from pcpo_overlay.tools.evaluate import EvaluationError

FORMAT = 1
FILE = "evaluation.jsonl"
#: Where lines go that were drawn with other settings than the latest.
SUPERSEDED = "evaluation.superseded.jsonl"


def digest(settings: dict[str, Any]) -> str:
    """SHA-256 of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def sort_out(
    records: Sequence[dict[str, Any]], wanted: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Those drawn with the settings of this digest, and the others."""
    kept = [r for r in records if r.get("digest") == wanted]
    return kept, [r for r in records if r.get("digest") != wanted]


def write(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Replace the records, atomically, in the order of training."""
    ordered = sorted(records, key=lambda r: (r["epoch"], r["checkpoint"]))
    write_atomically(folder / FILE, _lines(ordered))


def set_aside(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Append records to those set aside earlier; nothing is deleted. One that is there already is not repeated."""
    path = folder / SUPERSEDED
    if path.exists() and not path.is_file():
        raise EvaluationError(f"{path} is no file; move it away")
    before = path.read_bytes() if path.exists() else b""
    known = set(before.splitlines())
    new = [line for line in _lines(records).splitlines() if line not in known]
    write_atomically(path, before + b"".join(line + b"\n" for line in new))


def _lines(records: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(jsonable(record)) + "\n" for record in records).encode()
