"""What every command is given, and the clone it works on: opened, looked at, its lock held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import takeover
from .errors import ExitCode, Fault
from .gitio import Clone, Entry, Scratch, scratch
from .home import PROGRAM
from .lockfile import Lock, Upstream
from .mutex import Patience
from .record import Record, read_record


@dataclass(frozen=True)
class Context:
    """The lock, where clones go or (``into``) the one the user has, where they come from, how to talk."""

    lock: Lock
    dest: Path
    into: Path | None
    mirror: Path | None
    patience: Patience
    say: Callable[[str], None]

    def path(self, upstream: Upstream) -> Path:
        return self.into or self.dest / upstream.name

    @property
    def merge(self) -> bool:
        """Whether hooks may be merged into files that the user edited: only where the user named the clone."""
        return self.into is not None


@dataclass(frozen=True)
class Opened:
    """A clone, and what is known of it: the record, the files of HEAD, and the index (a copy, in ``repo``)."""

    clone: Clone
    repo: Scratch
    record: Record | None
    entries: Mapping[str, Entry]
    index: Mapping[str, list[Entry]]
    say: Callable[[str], None]


def find(ctx: Context, upstream: Upstream) -> Clone:
    """The clone to work on.

    Raises Fault: NOT_IN_ORDER if it is absent, WRONG_COMMIT if something else is in its place.
    """
    path = ctx.path(upstream)
    if ctx.into is None and not path.exists() and not path.is_symlink():
        raise Fault(ExitCode.NOT_IN_ORDER, f"{path} is not there; make it with `{PROGRAM} {upstream.name}`")
    if ctx.into is None and (path.is_symlink() or (path / ".git").is_symlink() or (path / ".git").is_file()):
        raise Fault(
            ExitCode.WRONG_COMMIT,
            f"{path} leads to a repository elsewhere; only `{PROGRAM} {upstream.name} --into {path}` works on that",
        )
    clone = Clone.open(path)
    if clone is None:
        raise Fault(
            ExitCode.WRONG_COMMIT,
            f"{path} is not the top folder of a git clone with its own files"
            + ("" if ctx.into else f"; move it away, then run `{PROGRAM} {upstream.name}`"),
        )
    return clone


@contextmanager
def looked_at(ctx: Context, clone: Clone, *others: Path) -> Iterator[Opened]:
    """A clone to look at. Raises Fault: WRONG_COMMIT where it has no commit yet."""
    if clone.head is None:
        raise Fault(
            ExitCode.WRONG_COMMIT, f"{clone.work_tree} has no commit yet; make one and run this again"
        )
    with scratch(clone.objects, *others, index_of=clone) as repo:
        entries = repo.entries(clone.head)
        record = read_record(clone.git_dir) or takeover.read(clone, repo, entries)
        yield Opened(clone, repo, record, entries, repo.index(), ctx.say)
