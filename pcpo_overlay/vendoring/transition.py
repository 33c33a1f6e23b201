"""Move a work tree and its index from one tree to another so that dying half way loses nothing.

``git read-tree -m -u FROM TO`` does the work: it refuses before writing anything if a file it would change is
dirty, and leaves every other edit alone. A journal in the git directory surrounds it. If the process dies in
between, :func:`recover` finds each file that the move concerns either as it was before, as it should be after,
or torn by git's writing (missing, or a beginning of one of the two), and from that finishes or undoes the move.
A file with any other content was edited by someone since; it is named and not touched.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .atomic import remove, write_atomically
from .errors import ExitCode, Fault, GitFailed
from .gitio import Entry, Repo, blob_oid
from .stages import stage
from .stamp import Stamp, write_stamp

JOURNAL = "pcpo-overlay.journal"
_REGULAR = ("100644", "100755")
_SYMLINK = "120000"


@dataclass(frozen=True)
class Change:
    """One file of a move; None means that the file is not there on that side."""

    path: str
    before: Entry | None
    after: Entry | None


@dataclass(frozen=True)
class Move:
    """A move as the journal records it. ``stamp`` is the stamp that belongs to the tree moved to.

    ``skip`` lists files whose content the repository lacks; they are in neither work tree.
    """

    from_tree: str
    to_tree: str
    head: str | None = None
    stamp: Stamp | None = None
    skip: Sequence[str] = ()
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=platform.node)
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"))


def read_journal(git_dir: Path) -> Move | None:
    """The move that is under way or was interrupted, or None."""
    path = git_dir / JOURNAL
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw["stamp"] is not None:
            raw["stamp"] = Stamp(**raw["stamp"])
        return Move(**raw)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Fault(ExitCode.FAILED, f"{path} cannot be read ({error}); remove it to go on") from None


def changes(repo: Repo, move: Move) -> list[Change]:
    """The files that differ between the two trees of a move."""
    listing = repo.run("diff-tree", "-r", "-z", "--no-renames", move.from_tree, move.to_tree)
    records = listing.split(b"\0")
    out: list[Change] = []
    for meta, name in zip(records[0::2], records[1::2], strict=False):
        old_mode, new_mode, old, new, _status = meta.decode().lstrip(":").split(" ")
        path = name.decode("utf-8", "surrogateescape")
        if path in move.skip or not {old_mode, new_mode} <= {*_REGULAR, _SYMLINK, "000000"}:
            continue
        before = None if old_mode == "000000" else Entry(old_mode, old)
        after = None if new_mode == "000000" else Entry(new_mode, new)
        out.append(Change(path, before, after))
    return out


def content(root: Path, path: str) -> bytes | None:
    """A file's bytes, a symbolic link's target, or None if nothing is there."""
    full = root / path
    if full.is_symlink():
        return os.fsencode(full.readlink())
    try:
        return full.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def holds(repo: Repo, path: str, data: bytes | None, entry: Entry | None) -> bool:
    """Whether work tree content is what git would check out for ``entry``, line-ending attributes included."""
    if data is None or entry is None:
        return data is None and entry is None
    if blob_oid(data) == entry.oid:
        return True
    if entry.mode == _SYMLINK or not (repo.work_tree / path).is_file() or b"\r\n" not in data:
        return False
    return repo.text("hash-object", "--", path) == entry.oid


def _prepare_index(repo: Repo, wanted: Mapping[str, Entry | None]) -> None:
    """Make the index hold these entries, and know the files on disk that match them."""
    present = repo.index_entries(list(wanted))
    stale = {
        path: entry
        for path, entry in wanted.items()
        if present.get(path, []) != ([] if entry is None else [entry])
    }
    repo.set_index(stale)
    repo.outcome("update-index", "-q", "--refresh")


def wait_for_index_lock(repo: Repo, *, ours: bool, seconds: float = 3.0) -> None:
    """Let another git finish with the index.

    Args:
        ours: a journal says that a run of ours died, so a lock file that stays is its git's and is removed.

    Raises:
        Fault: BUSY when it is not ours and stays.
    """
    lock = repo.git_dir / "index.lock"
    until = time.monotonic() + seconds
    while lock.exists() and time.monotonic() < until:
        time.sleep(0.05)
    if not lock.exists():
        return
    if not ours:
        raise Fault(
            ExitCode.BUSY,
            f"another git seems to be at work in {repo.work_tree}: {lock} exists. If none is, remove that file.",
        )
    remove(lock)


def run(repo: Repo, move: Move) -> None:
    """Carry out a move; the caller ends it with :func:`finish`.

    The work tree must hold ``move.from_tree`` in every file that changes; other files may be edited.

    Raises:
        Fault: EDITED or FAILED when git refuses or fails; the tree is then as before.
    """
    check_writable(repo, changes(repo, move))
    try:
        write_atomically(repo.git_dir / JOURNAL, json.dumps(asdict(move)).encode())
    except OSError as error:
        raise Fault(ExitCode.UNWRITABLE, f"cannot write to {repo.git_dir}: {error.strerror}") from None
    stage("journal-written")
    try:
        _prepare_index(repo, {change.path: change.before for change in changes(repo, move)})
        stage("index-prepared")
        result = repo.outcome("read-tree", "-m", "-u", move.from_tree, move.to_tree)
        if result.status != 0 and "index.lock" in result.stderr:
            raise GitFailed(["read-tree"], result.status, result.stderr)
    except GitFailed as failed:
        if "index.lock" not in failed.stderr:
            raise
        finish(repo)  # another git came in between, and ours has not touched a file
        raise Fault(
            ExitCode.BUSY, f"another git is at work in {repo.work_tree}; run the same command again"
        ) from None
    if result.status != 0:
        recover(repo, seconds=0.0)
        dirty = "not uptodate" in result.stderr or "would be overwritten" in result.stderr
        raise Fault(
            ExitCode.EDITED if dirty else ExitCode.FAILED,
            f"git refused to change {repo.work_tree}, which is as it was:\n{result.stderr.strip()}",
        )
    stage("tree-moved")
    wrong = [
        c.path
        for c in changes(repo, move)
        if not holds(repo, c.path, content(repo.work_tree, c.path), c.after)
    ]
    if wrong:
        raise Fault(
            ExitCode.FAILED, f"git did not write {', '.join(wrong)} as asked; run the same command again"
        )
    _settle(repo, move)


def _settle(repo: Repo, move: Move) -> None:
    """What follows once the files are in place: HEAD, then the stamp."""
    if move.head is not None and move.head != repo.head():
        repo.run("update-ref", "--no-deref", "-m", "apply.py: move to the pin", "HEAD", move.head)
    stage("head-moved")
    write_stamp(repo.git_dir, move.stamp)
    stage("stamp-changed")


def finish(repo: Repo) -> None:
    """Close the journal: the move is complete."""
    remove(repo.git_dir / JOURNAL)
    stage("journal-removed")


def recover(repo: Repo, seconds: float = 3.0) -> str | None:
    """Finish or undo a move that was interrupted.

    Returns:
        "finished", "undone", or None when there was nothing to recover.

    Raises:
        Fault: EDITED, with the files named, when some were edited since; nothing is touched then.
    """
    move = read_journal(repo.git_dir)
    if move is None:
        return None
    wait_for_index_lock(repo, ours=True, seconds=seconds)
    found: list[tuple[Change, bool, bool]] = []
    edited: list[str] = []
    for change in changes(repo, move):
        data = content(repo.work_tree, change.path)
        is_after = holds(repo, change.path, data, change.after)
        is_before = holds(repo, change.path, data, change.before)
        if not is_after and not is_before and not _torn(repo, data, change):
            edited.append(change.path)
        found.append((change, is_before, is_after))
    if edited:
        raise Fault(
            ExitCode.EDITED,
            f"a run on {repo.work_tree} was interrupted (pid {move.pid} on {move.host}, {move.started}), and since "
            f"then these files were edited:\n  "
            + "\n  ".join(edited)
            + "\nSave your edits elsewhere, restore the "
            f"files with `git -C {repo.work_tree} checkout HEAD -- FILE`, and run the same command again.",
        )
    if all(is_after for _, _, is_after in found):
        _prepare_index(repo, {change.path: change.after for change, _, _ in found})
        _settle(repo, move)
        finish(repo)
        return "finished"
    for change, is_before, _ in found:
        if not is_before or (change.before and change.after and change.before.mode != change.after.mode):
            _restore(repo, change.path, change.before)
    _prepare_index(repo, {change.path: change.before for change, _, _ in found})
    finish(repo)
    return "undone"


def _torn(repo: Repo, data: bytes | None, change: Change) -> bool:
    """Whether a file is what git leaves behind when it dies while writing it."""
    if data is None:
        return True
    sides = [entry for entry in (change.before, change.after) if entry is not None]
    return any(repo.blob(entry.oid).startswith(data) for entry in sides)


def _restore(repo: Repo, path: str, entry: Entry | None) -> None:
    full = repo.work_tree / path
    if entry is None:
        remove(full)
        return
    full.parent.mkdir(parents=True, exist_ok=True)
    data = repo.blob(entry.oid)
    if entry.mode == _SYMLINK:
        remove(full)
        full.symlink_to(os.fsdecode(data))
    else:
        write_atomically(full, data, mode=0o755 if entry.mode == "100755" else 0o644)


def check_writable(repo: Repo, moved: Sequence[Change]) -> None:
    """git replaces files one by one, so find out first whether it may."""
    folders = {repo.git_dir}
    for change in moved:
        folder = (repo.work_tree / change.path).parent
        while not folder.exists():
            folder = folder.parent
        folders.add(folder)
    blocked = sorted(str(folder) for folder in folders if not os.access(folder, os.W_OK | os.X_OK))
    if blocked:
        raise Fault(ExitCode.UNWRITABLE, f"cannot write to {', '.join(blocked)}; nothing was changed")
