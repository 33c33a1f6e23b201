"""Move a clone without hooks from one commit to another: files one by one, then the index, then HEAD.

Git's own checkout would do it in one command, and leave torn files and a locked index where it dies. Here every
file that differs between the commits is as at the one, as at the other, or in the way and named.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from .atomic import Seen, Swap, look
from .clone import leave_out
from .engine import swapping
from .errors import ExitCode
from .gitio import Entry, encode, outer
from .paths import link_on_the_way, stays_inside
from .record import Record, write_pin, write_record
from .site import Site
from .stages import stage

_FILES = ("100644", "100755", "120000")


@dataclass(frozen=True)
class _Change:
    """One file of a move; None means that it is not there on that side."""

    path: str
    before: Entry | None
    after: Entry | None
    now: Seen | None

    @property
    def done(self) -> bool:
        if self.after is None or self.now is None:
            return self.after is None and self.now is None
        return self.after.is_(self.now) and (self.before is None or self.before.mode == self.after.mode)


def _changes(at: Site, start: str, to: str, passed_over: Collection[str] = ()) -> list[_Change]:
    """The files that differ between two commits.

    Raises Fault: EDITED with the names of those that hold something else, UNSAFE_PATH.
    """
    before, after = at.repo.entries(start), at.repo.entries(to)
    differ = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    sides = {path: (before.get(path), after.get(path)) for path in differ}
    sides = {path: pair for path, pair in sides.items() if all(e is None or e.mode in _FILES for e in pair)}
    gone = {path for path, pair in sides.items() if pair[1] is None}
    out: list[_Change] = []
    blocked: set[str] = set()
    for path, pair in sides.items():
        if not stays_inside(path):
            raise ExitCode.UNSAFE_PATH.fault(f"commit {to} has a path that leads outside: {path!r}")
        full, link = at.root / path, link_on_the_way(at.root, path)
        seen: Seen | None = None
        if link not in (None, path):
            blocked |= {str(link)} - gone
        elif full.is_dir() and not full.is_symlink():
            files = (Path(top, name) for top, _, names in os.walk(full) for name in names)
            blocked |= {file.relative_to(at.root).as_posix() for file in files} - gone
        else:
            seen = look(full)
        if seen and path not in passed_over and not any(entry and entry.is_(seen) for entry in pair):
            blocked.add(path)
        if seen is None and path in before and any(entry.tag == "S" for entry in at.index.get(path, [])):
            continue  # left out of the work tree, by the user or for want of its content
        out.append(_Change(path, *pair, seen))
    if blocked:
        names = "\n  ".join(sorted(blocked))
        raise ExitCode.EDITED.fault(
            f"cannot move {at.root} to {to}: these files of yours are in the way and were left alone:\n  {names}\n"
            "Move them away, and run the same command again."
        )
    return out


def _move_index(at: Site, start: str, to: str, absent: Sequence[str], index: Path) -> None:
    """Have an index follow; what the user staged elsewhere stays.

    Raises Fault: EDITED if the user staged changes of a file that differs between the commits, BUSY.
    """
    env = {"GIT_INDEX_FILE": str(index)}
    done = at.repo.outcome("read-tree", "-i", "-m", start, to, env=env)
    if done.status != 0:
        words = f"cannot move {at.root} to {to}: {done.words}\n"
        if "index.lock" in done.stderr:
            raise ExitCode.BUSY.fault(f"{words}run the same command again")
        raise ExitCode.EDITED.fault(f"{words}commit what you staged, or take it back with `git reset`")
    if absent:
        given = encode("".join(f"{path}\0" for path in absent))
        at.repo.run("update-index", "--skip-worktree", "-z", "--stdin", stdin=given, env=env)


def check_move(at: Site, to: str, passed_over: Collection[str]) -> None:
    """Find out, changing nothing, whether a move is possible; ``passed_over`` will be upstream's own when it begins.

    Raises Fault: EDITED, with the files in the way named.
    """
    _changes(at, at.head, to, passed_over)
    _move_index(at, at.head, to, (), at.repo.git_dir / "index")


def move(at: Site, name: str, start: str, to: str) -> None:
    """Move from ``start`` to ``to``, or finish a move that was interrupted. The hooks have to be out.

    Raises Fault: EDITED, BUSY, UNWRITABLE; the next run finishes.
    """
    changes = _changes(at, start, to)
    blobs = at.repo.objects(c.after.oid for c in changes if c.after)
    absent = [c.path for c in changes if c.after and blobs[c.after.oid] is None]
    _move_index(at, start, to, absent, at.repo.git_dir / "index")
    with swapping(at) as swaps:
        tree = str(at.repo.tree_of(to))
        write_record(at.git_dir, Record(name, to, tree, tree, {}, moving_from=start))
        stage("record-written")
        for c in sorted(changes, key=lambda c: c.after is not None):  # what goes makes room for what comes
            if not c.done:
                data = blobs[c.after.oid] if c.after else None
                new = Seen(data, c.after.link) if c.after and data is not None else None
                mode = 0o755 if c.after and c.after.mode == "100755" else 0o644
                swaps.append(Swap(at.root / c.path, c.now, new, mode))
        for swap in swaps:
            swap.commit()
            _remove_empty_folders(at.root, swap.path)
            stage("file-written")
        if absent:
            leave_out(at.git_dir, at.repo, absent)
        _move_index(at, start, to, absent, at.git_dir / "index")
        stage("index-written")
        if at.head != to:
            told = ("-m", "move to the pin", "HEAD", to, at.head)
            outer("update-ref", "--no-deref", *told, cwd=at.root).must()
        stage("head-moved")
        write_pin(at.git_dir, to)
        write_record(at.git_dir, None)


def _remove_empty_folders(root: Path, path: Path) -> None:
    for folder in path.parents:
        if folder == root or os.path.lexists(path):
            return
        try:
            folder.rmdir()
        except OSError:  # not empty
            return
