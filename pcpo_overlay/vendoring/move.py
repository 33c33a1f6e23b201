"""Move a clone without hooks from one commit to another: files one by one, then the index, then HEAD.

Git's own checkout would do it in one command, and leave torn files and a locked index where it dies. Here every
file that differs between the commits is as at the one, as at the other, or in the way and named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .atomic import Seen, Swap, look
from .clone import leave_out
from .context import Opened
from .difference import to_lf
from .errors import ExitCode, Fault, spoken
from .gitio import Entry, blob_oid, outer
from .paths import link_on_the_way, stays_inside
from .record import Record, write_pin, write_record
from .stages import stage

_FILES = ("100644", "100755", "120000")


@dataclass(frozen=True)
class _Change:
    """One file of a move; None means that it is not there on that side."""

    path: str
    before: Entry | None
    after: Entry | None
    now: Seen | None


def _is(seen: Seen | None, entry: Entry | None) -> bool:
    if seen is None or entry is None:
        return seen is None and entry is None
    names = (blob_oid(seen.data), blob_oid(to_lf(seen.data)))
    return seen.link == (entry.mode == "120000") and entry.oid in names


def _changes(at: Opened, start: str, to: str, passed_over: set[str]) -> list[_Change]:
    """The files that differ between two commits.

    Raises Fault: EDITED with the names of those that hold something else, UNSAFE_PATH.
    """
    before, after = at.repo.entries(start), at.repo.entries(to)
    paths = sorted(p for p in {*before, *after} if before.get(p) != after.get(p))
    paths = [p for p in paths if all(side[p].mode in _FILES for side in (before, after) if p in side)]
    gone = {p for p in paths if p not in after}
    out: list[_Change] = []
    blocked: list[str] = []
    for path in paths:
        if not stays_inside(path):
            raise Fault(ExitCode.UNSAFE_PATH, f"commit {to} has a path that leads outside: {path!r}")
        full = at.clone.work_tree / path
        link = link_on_the_way(at.clone.work_tree, path)
        seen: Seen | None = None
        if link is not None and link != path:
            blocked += [] if link in gone else [link]
        elif full.is_dir() and not full.is_symlink():
            inside = {
                (Path(top) / name).relative_to(at.clone.work_tree).as_posix()
                for top, _, names in os.walk(full)
                for name in names
            }
            blocked += sorted(inside - gone)
        else:
            seen = look(full)
        entries = (before.get(path), after.get(path))
        if seen is not None and path not in passed_over and not any(_is(seen, entry) for entry in entries):
            blocked.append(path)
        if seen is None and path in before and any(entry.tag == "S" for entry in at.index.get(path, [])):
            continue  # left out of the work tree, by the user or for want of its content
        out.append(_Change(path, *entries, seen))
    if blocked:
        raise Fault(
            ExitCode.EDITED,
            f"cannot move {at.clone.work_tree} to {to}: these files of yours are in the way and were left alone:\n"
            + "\n".join(f"  {path}" for path in sorted(set(blocked)))
            + "\nMove them away, and run the same command again.",
        )
    return out


def _move_index(at: Opened, start: str, to: str, absent: list[str], env: Mapping[str, str]) -> None:
    """Have the index follow, or its copy; what the user staged elsewhere stays.

    Raises Fault: EDITED if the user staged changes of a file that differs between the commits, BUSY.
    """
    done = at.repo.outcome("read-tree", "-i", "-m", start, to, env=env)
    if done.status != 0:
        busy = "index.lock" in done.stderr
        raise Fault(
            ExitCode.BUSY if busy else ExitCode.EDITED,
            f"cannot move {at.clone.work_tree} to {to}: {spoken(done.stderr, done.status)}\n"
            + (
                "run the same command again"
                if busy
                else "commit what you staged, or take it back with `git reset`"
            ),
        )
    if absent:
        given = "".join(f"{path}\0" for path in absent).encode("utf-8", "surrogateescape")
        at.repo.run("update-index", "--skip-worktree", "-z", "--stdin", stdin=given, env=env)


def check_move(at: Opened, to: str, passed_over: set[str]) -> None:
    """Find out, changing nothing, whether a move is possible.

    Args:
        passed_over: files that will be upstream's own again when the move begins.

    Raises:
        Fault: EDITED, with the files in the way named.
    """
    _changes(at, str(at.clone.head), to, passed_over)
    _move_index(at, str(at.clone.head), to, [], {})


def move(at: Opened, name: str, start: str, to: str) -> None:
    """Move from ``start`` to ``to``, or finish a move that was interrupted. The hooks have to be out.

    Raises Fault: EDITED, BUSY, UNWRITABLE; the next run finishes.
    """
    changes = _changes(at, start, to, set())
    blobs = at.repo.objects(c.after.oid for c in changes if c.after is not None)
    absent = [c.path for c in changes if c.after is not None and blobs[c.after.oid] is None]
    _move_index(at, start, to, absent, {})
    swaps: list[Swap] = []
    try:
        tree = str(at.repo.tree_of(to))
        write_record(at.clone.git_dir, Record(name, to, tree, tree, {}, moving_from=start))
        stage("record-written")
        for c in sorted(changes, key=lambda c: c.after is not None):  # what goes makes room for what comes
            full = at.clone.work_tree / c.path
            data = None if c.after is None else blobs[c.after.oid]
            if _is(c.now, c.after) and (c.before is None or c.after is None or c.before.mode == c.after.mode):
                continue
            link = c.after is not None and c.after.mode == "120000"
            new = None if data is None else Seen(data, link)
            mode = 0o755 if c.after is not None and c.after.mode == "100755" else 0o644
            swaps.append(Swap(full, c.now, new, mode))
        for swap in swaps:
            swap.commit()
            _remove_empty_folders(at.clone.work_tree, swap.path)
            stage("file-written")
        if absent:
            leave_out(at.clone.git_dir, at.repo, absent)
        _move_index(at, start, to, absent, {"GIT_INDEX_FILE": str(at.clone.git_dir / "index")})
        stage("index-written")
        if at.clone.head != to:
            command = ["update-ref", "--no-deref", "-m", "move to the pin", "HEAD", to, str(at.clone.head)]
            outer(command, at.clone.work_tree).must(command)
        stage("head-moved")
        write_pin(at.clone.git_dir, to)
        write_record(at.clone.git_dir, None)
    except OSError as error:
        raise Fault(
            ExitCode.UNWRITABLE,
            f"cannot write to {at.clone.work_tree}: {error}; the next run finishes this one",
        ) from None
    finally:
        for swap in swaps:
            swap.discard()


def _remove_empty_folders(root: Path, path: Path) -> None:
    for folder in path.parents:
        if folder == root or os.path.lexists(path):
            return
        try:
            folder.rmdir()
        except OSError:  # not empty
            return
