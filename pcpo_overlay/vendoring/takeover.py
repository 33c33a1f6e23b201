"""Clones that version 0.1.0 patched, read as a record of today's: its stamp, its notes of ``--into``, its journal.

That version had git write the work tree and staged the hooks; what it staged is unstaged when the record is written.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .atomic import look
from .errors import ExitCode, Fault
from .gitio import Clone, Entry, Scratch, blob_oid
from .patchfile import sha256
from .paths import link_on_the_way, safe_relative
from .record import STAMP, Known, Record, hex40, read_json, write_record

UNDO, JOURNAL = "pcpo-overlay.undo.json", "pcpo-overlay.journal"


def read(clone: Clone, repo: Scratch, head: Mapping[str, Entry]) -> Record | None:
    """What the older version put in, or None.

    Raises:
        Fault: UNSAFE_PATH where a name leads outside the clone, FAILED for notes that cannot be read, WRONG_COMMIT
            where it was interrupted while HEAD was to move.
    """
    notes = {file: read_json(clone.git_dir / file) for file in (UNDO, JOURNAL)}
    try:
        stamp: dict[str, Any] = read_json(clone.git_dir / STAMP) or {}
    except Fault:  # an unreadable stamp always counted as none
        stamp = {}
    if not stamp and not any(notes.values()):
        return None
    try:
        journal, undo = notes[JOURNAL], (notes[UNDO] or {"files": {}})["files"]
        files = {path: (str(digest), b"") for path, digest in stamp.get("files", {}).items()}
        files |= {path: ("", base64.b64decode(item["after"])) for path, item in undo.items()}
        if journal:
            if journal["head"] not in (None, clone.head):
                raise Fault(
                    ExitCode.WRONG_COMMIT,
                    f"{clone.work_tree}: an older version was interrupted while it moved the pin. Copy your edits, "
                    "move the folder away, and clone again.",
                )
            sides = [repo.entries(hex40(journal[key])) for key in ("from_tree", "to_tree")]
            for path in {p for p in {**sides[0], **sides[1]} if sides[0].get(p) != sides[1].get(p)}:
                oids = [side[path].oid for side in sides if path in side and side[path] != head.get(path)]
                files[path] = ("", repo.objects(oids)[oids[0]] or b"")
        known = {safe_relative(p, str(clone.git_dir)): _known(clone, repo, head, p, *files[p]) for p in files}
        if journal:  # nothing is complete
            known = {p: replace(k, older=(*k.older, sha256(k.after))) for p, k in known.items()}
        known |= {p: Known(base64.b64decode(undo[p]["before"]), known[p].after) for p in undo}
        names = [hex40(stamp.get(key, "0" * 40)) for key in ("commit", "base_tree", "patched_tree")]
        return Record(str(stamp.get("name")), names[0], names[1], names[2], known, taken_over=True)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Fault(
            ExitCode.FAILED, f"{clone.git_dir}/pcpo-overlay.*: cannot be read ({error}); move them away"
        ) from None


def _known(
    clone: Clone, repo: Scratch, head: Mapping[str, Entry], path: str, digest: str, after: bytes
) -> Known:
    """A touched file from what was put in: its content, or the sha256 of that, to be found on disk or in the index."""
    staged = [entry.oid for entry in repo.index().get(path, [])]
    found = [after, *(data or b"" for data in repo.objects(staged).values())]
    now = None if link_on_the_way(clone.work_tree, path) else look(clone.work_tree / path)
    base = repo.objects([head[path].oid])[head[path].oid] if path in head else None
    found += [] if now is None else [now.data]
    after = after or next((data for data in found if sha256(data) == digest), b"")
    base = base or b""
    older = [] if after else [digest]
    if (
        now is not None
        and now.data not in (base, after)
        and (base.startswith(now.data) or after.startswith(now.data))
    ):
        older.append(sha256(now.data))  # git died while it wrote the file
    return Known(base, after or base, tuple(older))


def migrate(clone: Clone, repo: Scratch, record: Record, head: Mapping[str, Entry]) -> None:
    """Write a record of today's, and put HEAD's entries where the index holds hooks that the older version staged."""
    staged = repo.index()
    ours = {blob_oid(known.after) for known in record.files.values()}
    back = {path: head.get(path) for path in record.files if any(e.oid in ours for e in staged.get(path, []))}
    if back:
        repo.set_index(back, {"GIT_INDEX_FILE": str(clone.git_dir / "index")})
    write_record(clone.git_dir, record)
    for name in (UNDO, JOURNAL):
        (clone.git_dir / name).unlink(missing_ok=True)
