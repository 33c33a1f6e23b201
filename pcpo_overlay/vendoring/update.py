"""Try another upstream commit: carry the hooks over by three-way merge, in a scratch place.

The clone under the destination is at most read. Nothing is written but, on ``--write`` and a clean result, the
patch files and the lock.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from . import clone
from .errors import ExitCode, Fault
from .gitio import Repo
from .lockfile import PatchEntry, Upstream, render_entry, save
from .manage import Context, locked
from .merge import conflict_markers, insertions, three_way
from .patchfile import Insertion, decode, insert, render, sha256, strip
from .plan import FilePlan, NamedPatch, make_plan, patched_tree, read_patches

_HEX = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class FileResult:
    """How one patched file fared.

    ``patch`` holds the hooks that could be carried over (None if there are none), ``lost`` the words of those that
    could not, ``detail`` where and why, for the reader.
    """

    path: str
    how: str
    patch: NamedPatch | None
    lost: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True)
class Trial:
    """The outcome for one upstream: each file, and the lock entry it would have (None on conflict)."""

    files: Sequence[FileResult]
    upstream: Upstream | None
    upstream_changes: int


@contextmanager
def objects_of(ctx: Context, upstream: Upstream, commits: Sequence[str]) -> Iterator[Repo]:
    """A repository that can read the given commits and whose new objects are thrown away.

    The clone under the destination where it has them all, else a scratch clone from the mirror or the network. A
    branch or tag is always looked up afresh: the clone's own may be of another day.
    """
    repo = Repo.at(ctx.path(upstream))
    if repo is not None and all(_HEX.fullmatch(commit) and _resolve(repo, commit) for commit in commits):
        with repo.scratch_objects() as scratch:
            yield scratch
        return
    source = clone.find_source(upstream, ctx.mirror)
    with tempfile.TemporaryDirectory(prefix="pcpo-clone-") as folder:
        ctx.say(f"cloning {upstream.name} from {source.location} to a scratch place")
        fresh = clone.bare_minimum(source, Path(folder) / upstream.name, upstream.name, ctx.console)
        for commit in commits:
            if _resolve(fresh, commit) is None:
                clone.ensure_commit(fresh, upstream, source, commit)
        yield fresh


def _resolve(repo: Repo, revision: str) -> str | None:
    return repo.resolve(f"{revision}^{{commit}}") or repo.resolve(
        f"refs/remotes/origin/{revision}^{{commit}}"
    )


def _merge_file(repo: Repo, named: NamedPatch, old: FilePlan, commit: str) -> FileResult:
    """Carry one file's hooks over, each hook by itself, so that one in conflict does not hide the others."""
    patch = named.patch
    path = patch.path
    entries = repo.tree_entries(f"{commit}^{{tree}}", [path])
    if path not in entries:
        gone = f"the file is not there any more{_renamed(repo, path, commit)}"
        return FileResult(path, "conflict", None, tuple(patch.labels()), gone)
    ours = repo.blob(entries[path].oid)
    if ours == old.base:
        return FileResult(path, "unchanged by upstream", named)
    names = ("upstream's new commit", "the pin", "the pin with hooks")
    moved: list[Insertion] = []
    lost: list[str] = []
    details: list[str] = []
    for hook in patch.insertions:
        alone = replace(patch, insertions=(hook,))
        merged = three_way(ours, old.base, insert(alone, old.base), names)
        places = (
            ()
            if merged.conflicts or strip(alone, merged.text) != ours
            else insertions(ours, merged.text, path)
        )
        if len(places) == 1 and (not moved or places[0].after > moved[-1].after):
            moved.append(replace(hook, after=places[0].after))
        else:
            lost.append(hook.label)
            why = conflict_markers(decode(merged.text)) if merged.conflicts else "its place cannot be told"
            details.append(f"hook '{hook.label}', after line {hook.after} at the pin: {why}")
    carried = replace(named, patch=replace(patch, insertions=tuple(moved))) if moved else None
    return FileResult(path, "conflict" if lost else "clean", carried, tuple(lost), "\n".join(details))


def _renamed(repo: Repo, path: str, commit: str) -> str:
    result = repo.outcome("log", "-1", "--format=%h %s", "--diff-filter=DR", commit, "--", path)
    words = result.stdout.decode("utf-8", "replace").strip()
    return f" (last seen in {words})" if result.status == 0 and words else ""


def update(ctx: Context, upstream: Upstream, to: str, *, write: bool, leave_out: bool = False) -> Trial:
    """Carry the hooks of the pin over to commit ``to``.

    Args:
        to: a commit, branch or tag of upstream.
        write: if every hook can be carried over, write the patch files and the lock.
        leave_out: go on without the hooks that cannot, so that they can be put in by hand.

    Raises:
        Fault: for a commit that cannot be had, or bad patches; a conflict is a result, not a fault.
    """
    patches = read_patches(ctx.lock, upstream)
    with objects_of(ctx, upstream, [upstream.commit, to]) as repo:
        commit = _resolve(repo, to)
        if commit is None:
            raise Fault(ExitCode.WRONG_TREE, f"{upstream.name} has no commit {to}")
        plan = make_plan(repo, upstream, patches)
        results = [_merge_file(repo, n, plan.files[n.patch.path], commit) for n in patches]
        diff = repo.run("diff-tree", "-r", "-z", "--name-only", "--no-renames", upstream.commit, commit)
        changed = len([name for name in diff.split(b"\0") if name])
        if any(result.lost for result in results) and not leave_out:
            return Trial(results, None, changed)
        merged = [result.patch for result in results if result.patch is not None]
        entries = tuple(PatchEntry(named.file, sha256(render(named.patch))) for named in merged)
        tree = repo.text("rev-parse", f"{commit}^{{tree}}")
        moved = replace(upstream, commit=commit, tree=tree, patches=entries)
        moved = replace(moved, patched_tree=patched_tree(repo, make_plan(repo, moved, merged, verify=False)))
    if write:
        with locked(ctx, upstream):
            try:
                save(ctx.lock, moved, {named.file: render(named.patch) for named in merged})
            except OSError as error:
                raise Fault(ExitCode.UNWRITABLE, f"cannot write the patches: {error}") from None
    return Trial(results, moved, changed)


def describe(trial: Trial, upstream: Upstream, *, wrote: bool) -> str:
    """The trial in words, with the lock entry that it would give."""
    lines = [f"{upstream.name}: upstream changed {trial.upstream_changes} file(s) since the pin"]
    for result in trial.files:
        lines.append(f"  {result.path}: {result.how}")
        lines += [f"    {line}" for line in result.detail.splitlines()]
        if result.lost and trial.upstream is not None:
            lines.append(f"    LEFT OUT, to be put in by hand: {'; '.join(result.lost)}")
    if not trial.files:
        lines.append("  there is no patch to carry over")
    if trial.upstream is None:
        lines.append(
            "nothing was written. Pin an earlier commit, or let --write --leave-out write the other hooks, put these "
            "in by hand, and fold them in with refresh."
        )
    else:
        lines.append(
            "patches and lock entry written:" if wrote else "with --write the lock entry would become:"
        )
        lines.append(render_entry(trial.upstream).rstrip())
        if wrote:
            lines.append(f"run `python apply.py {upstream.name}` to move the clone there")
    return "\n".join(lines)
