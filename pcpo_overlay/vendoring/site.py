"""The clone that a command works on: opened once, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence

from .atomic import look_below
from .clone import fetch, find_source
from .context import Context
from .errors import ExitCode, Fault
from .gitio import Clone, Scratch
from .home import PROGRAM
from .lockfile import Upstream
from .missing import needed_by, scripts_of
from .patchfile import Patch
from .plan import Plan, make_plan
from .record import read_pin, read_record


class Site:
    """A clone: the files of HEAD (``entries``), the index (a copy, in ``repo``), and the record of what was put in."""

    def __init__(self, ctx: Context, upstream: Upstream, clone: Clone, repo: Scratch) -> None:
        """Raises Fault: WRONG_COMMIT where it has no commit yet."""
        self.ctx, self.upstream, self.repo = ctx, upstream, repo
        self.look(clone)

    def look(self, clone: Clone | None = None) -> None:
        """Read again what is known, after a change."""
        self.clone = clone or find(self.ctx, self.upstream)
        self.root, self.git_dir = self.clone.work_tree, self.clone.git_dir
        if self.clone.head is None:
            raise ExitCode.WRONG_COMMIT.fault(f"{self.root} has no commit yet; make one and run this again")
        self.head = self.clone.head
        self.entries = self.repo.entries(self.head)
        self.index = self.repo.index_of(self.clone)
        self.record = read_record(self.git_dir)

    @property
    def merge(self) -> bool:
        return self.ctx.merge

    @property
    def at_pin(self) -> bool:
        return self.head == self.upstream.commit

    def check_head(self) -> None:
        """HEAD is the lock's pin, or where an earlier pin of ours left it. Raises Fault: WRONG_COMMIT otherwise."""
        if self.merge or self.at_pin or self.head == read_pin(self.git_dir):
            return
        name, commit = self.upstream.name, self.upstream.commit
        raise ExitCode.WRONG_COMMIT.fault(
            f"{self.root} is at commit {self.head}, but the lock pins {name} at {commit}; nothing was changed. Either "
            f"go back with `git -C {self.root} checkout --detach {commit}`, or patch the clone as it is with "
            f"`{PROGRAM} {name} --into {self.root}`."
        )

    def plan(self, patches: Sequence[Patch]) -> Plan:
        """The plan at the pin, whose objects are fetched to the scratch repository if they are nowhere near."""
        if self.repo.tree_of(self.upstream.commit) is None:
            fetch(self.repo, find_source(self.ctx, self.upstream), self.upstream.commit)
        return make_plan(self.repo, self.upstream, patches)

    def left_out(self) -> list[str]:
        """Files that are not in the work tree, for want of their content or by the user's wish."""
        return sorted(path for path, entries in self.index.items() if entries[0].tag == "S")

    def missing_files(self) -> dict[str, list[str]]:
        """The same, each with the scripts of upstream's that read it."""
        paths = self.left_out()
        texts = scripts_of(self.root, self.index) if paths else {}
        return {path: needed_by(texts, path) for path in paths}

    def changed_files(self) -> list[str]:
        """Tracked files that are not HEAD's."""
        left_out = set(self.left_out()) & set(self.entries)
        same = {path for path in self.entries if self._is_heads(path)}
        return sorted({*self.entries, *self.index} - left_out - same)

    def _is_heads(self, path: str) -> bool:
        try:
            return self.entries[path].mode == "160000" or self.entries[path].is_(look_below(self.root, path))
        except Fault:  # a folder, a FIFO
            return False


def find(ctx: Context, upstream: Upstream) -> Clone:
    """The clone to work on.

    Raises Fault: NOT_IN_ORDER if it is absent, WRONG_COMMIT if something else is in its place.
    """
    path, again = ctx.path(upstream), f"`{PROGRAM} {upstream.name}`"
    if not ctx.merge:
        if not path.exists() and not path.is_symlink():
            raise ExitCode.NOT_IN_ORDER.fault(f"{path} is not there; make it with {again}")
        if path.is_symlink() or (path / ".git").is_symlink() or (path / ".git").is_file():
            raise ExitCode.WRONG_COMMIT.fault(
                f"{path} leads to a repository elsewhere; only `{PROGRAM} {upstream.name} --into {path}` works on that"
            )
    clone = Clone.open(path)
    if clone is None:
        advice = "" if ctx.merge else f"; move it away, then run {again}"
        raise ExitCode.WRONG_COMMIT.fault(
            f"{path} is not the top folder of a git clone with its own files{advice}"
        )
    return clone
