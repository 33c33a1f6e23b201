"""Clones that version 0.1.0 patched, read as a record of today's: its stamp, its notes of ``--into``, its journal.

That version had git write the work tree and staged the hooks; what it staged is unstaged when the record is written.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

from .atomic import look_below
from .errors import ExitCode, Fault
from .gitio import blob_oid
from .lockfile import sha256
from .paths import safe_relative
from .record import MALFORMED, STAMP, Known, Record, hex40, read_json, write_record
from .site import Site

UNDO, JOURNAL = "pcpo-overlay.undo.json", "pcpo-overlay.journal"


def read(at: Site) -> Record | None:
    """What the older version put in, or None.

    Raises Fault: UNSAFE_PATH where a name leads outside the clone, FAILED for notes that cannot be read, WRONG_COMMIT
    where it was interrupted while HEAD was to move.
    """
    undo, journal = (read_json(at.git_dir / file) for file in (UNDO, JOURNAL))
    try:
        stamp: dict[str, Any] = read_json(at.git_dir / STAMP) or {}
    except Fault:  # an unreadable stamp always counted as none
        stamp = {}
    if not (stamp or undo or journal):
        return None
    try:
        noted = undo["files"] if undo else {}
        put_in = {path: (str(digest), b"") for path, digest in stamp.get("files", {}).items()}
        put_in |= {path: ("", base64.b64decode(item["after"])) for path, item in noted.items()}
        if journal:
            if journal["head"] not in (None, at.head):
                raise ExitCode.WRONG_COMMIT.fault(
                    f"{at.root}: an older version was interrupted while it moved the pin. Copy your edits, "
                    "move the folder away, and clone again."
                )
            start, end = (at.repo.entries(hex40(journal[key])) for key in ("from_tree", "to_tree"))
            for path in {path for path in {**start, **end} if start.get(path) != end.get(path)}:
                sides = [side[path] for side in (start, end) if path in side]
                oid = next(entry.oid for entry in sides if entry != at.entries.get(path))
                put_in[path] = ("", at.repo.objects([oid])[oid] or b"")
        files: dict[str, Known] = {}
        for path, (digest, after) in put_in.items():
            safe_relative(path, str(at.git_dir))
            known = _known(at, path, digest, after)
            if journal:  # nothing is complete
                known = replace(known, older=(*known.older, sha256(known.after)))
            files[path] = known
        files |= {path: Known(base64.b64decode(noted[path]["before"]), files[path].after) for path in noted}
        keys = ("commit", "base_tree", "patched_tree")
        commit, base_tree, patched_tree = (hex40(stamp.get(key, "0" * 40)) for key in keys)
        return Record(str(stamp.get("name")), commit, base_tree, patched_tree, files, taken_over=True)
    except MALFORMED as error:
        words = f"{at.git_dir}/pcpo-overlay.*: cannot be read ({error}); move them away"
        raise ExitCode.FAILED.fault(words) from None


def _known(at: Site, path: str, digest: str, after: bytes) -> Known:
    """A touched file from what was put in: its content, or the sha256 of that, to be found on disk or in the index."""
    head = at.entries.get(path)
    base = (at.repo.objects([head.oid])[head.oid] if head else None) or b""
    seen = look_below(at.root, path)
    now = None if seen is None or seen.link else seen.data
    found = [now, *at.repo.objects(entry.oid for entry in at.index.get(path, [])).values()]
    after = after or next((data for data in found if data is not None and sha256(data) == digest), b"")
    older = [] if after else [digest]
    if now is not None and now not in (base, after) and any(data.startswith(now) for data in (base, after)):
        older.append(sha256(now))  # git died while it wrote the file
    return Known(base, after or base, tuple(older))


def migrate(at: Site, record: Record) -> None:
    """Write a record of today's, and put HEAD's entries where the index holds hooks that the older version staged."""
    ours = {blob_oid(known.after) for known in record.files.values()}
    staged = [path for path, entries in at.index.items() if any(entry.oid in ours for entry in entries)]
    back = {path: at.entries.get(path) for path in staged if path in record.files}
    if back:
        at.repo.set_index(back, at.git_dir / "index")
    write_record(at.git_dir, record)
    for name in (UNDO, JOURNAL):
        (at.git_dir / name).unlink(missing_ok=True)
