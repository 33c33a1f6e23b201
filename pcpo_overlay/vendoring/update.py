"""Try another upstream commit: carry the hooks over by three-way merge, in a scratch place.

The clone under the destination is at most read. Nothing is written but, on ``--write`` and a clean result, the
patch files and the lock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .clone import fetch, find_source, name_of
from .context import Context
from .difference import carry
from .errors import ExitCode, Fault
from .gitio import Scratch, scratch
from .home import PROGRAM
from .lockfile import PatchEntry, Upstream, render_entry
from .patchfile import render, sha256
from .plan import FilePlan, NamedPatch, make_plan, read_patches
from .publish import save
from .refresh import need_repository
from .work import object_folders

_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*")
_HEX = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class FileResult:
    """How one file fared: the hooks that could be carried over, the words of those ``lost``, and where and why."""

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


def _find(ctx: Context, repo: Scratch, upstream: Upstream, to: str) -> str:
    """The commit that ``to`` means, its objects here; a branch or tag is looked up at the source, always afresh.

    Raises Fault: WRONG_TREE where there is none, UNREACHABLE.
    """
    commit = repo.resolve(to) if _HEX.fullmatch(to) else None
    if commit is None or repo.tree_of(upstream.commit) is None:
        source = find_source(upstream, ctx.mirror)
        commit = commit or (to if len(to) == 40 and _HEX.fullmatch(to) else name_of(source, to))
        if commit is None:
            raise Fault(ExitCode.WRONG_TREE, f"{upstream.name} has no commit, branch or tag {to}")
        for wanted in (upstream.commit, commit):
            fetch(repo, source, wanted)
    return commit


def _carry(repo: Scratch, file: FilePlan, commit: str) -> FileResult:
    """Carry one file's hooks over, each by itself, so that one in conflict does not hide the others."""
    patch = file.named.patch
    entry = repo.entries(commit).get(patch.path)
    ours = None if entry is None else repo.objects([entry.oid])[entry.oid]
    if ours is None:
        found = repo.outcome("log", "-1", "--format=%h %s", "--diff-filter=DR", commit, "--", patch.path)
        words = found.stdout.decode("utf-8", "replace").strip() if found.status == 0 else ""
        gone = "the file is not there any more" + (f" (last seen in {words})" if words else "")
        return FileResult(patch.path, "conflict", None, tuple(patch.labels()), gone)
    if ours == file.base:
        return FileResult(patch.path, "unchanged by upstream", file.named)
    done = carry(patch.insertions, file.base, ours)
    carried = replace(file.named, patch=replace(patch, insertions=done.moved)) if done.moved else None
    lost = tuple(hook.label for hook, _ in done.lost)
    return FileResult(patch.path, "conflict" if lost else "clean", carried, lost, done.why_lost())


def update(ctx: Context, upstream: Upstream, to: str, *, write: bool, leave_out: bool = False) -> Trial:
    """Carry the hooks of the pin over to commit, branch or tag ``to``.

    Args:
        write: if every hook can be carried over, write the patch files and the lock.
        leave_out: go on without the hooks that cannot, so that they can be put in by hand.

    Raises Fault: USAGE for what can be no name; for a commit that cannot be had. A conflict is a result, no fault.
    """
    if write:
        need_repository(ctx)
    if not _REVISION.fullmatch(to) or ".." in to:
        raise Fault(ExitCode.USAGE, f"--to {to!r} is not the name of a commit, branch or tag")
    patches = read_patches(ctx.lock, upstream)
    with scratch(*object_folders(ctx, upstream)) as repo:
        commit = _find(ctx, repo, upstream, to)
        results = [_carry(repo, f, commit) for f in make_plan(repo, upstream, patches).files.values()]
        before, after = repo.entries(upstream.commit), repo.entries(commit)
        changed = sum(before.get(path) != after.get(path) for path in {*before, *after})
        if any(result.lost for result in results) and not leave_out:
            return Trial(results, None, changed)
        merged = [result.patch for result in results if result.patch is not None]
        files = {named.file: render(named.patch) for named in merged}
        entries = tuple(PatchEntry(file, sha256(data)) for file, data in files.items())
        moved = replace(upstream, commit=commit, tree=str(repo.tree_of(commit)), patches=entries)
        moved = replace(moved, patched_tree=make_plan(repo, moved, merged, verify=False).patched_tree)
    if write:
        save(ctx.lock, moved, files, ctx.patience)
    return Trial(results, moved, changed)


def describe(trial: Trial, upstream: Upstream, *, wrote: bool) -> str:
    """The trial in words, with the lock entry that it would give."""
    lines = [f"{upstream.name}: upstream changed {trial.upstream_changes} file(s) since the pin"]
    for result in trial.files:
        lines += [f"  {result.path}: {result.how}", *(f"    {line}" for line in result.detail.splitlines())]
        if result.lost and trial.upstream is not None:
            lines.append(f"    LEFT OUT, to be put in by hand: {'; '.join(result.lost)}")
    lines += [] if trial.files else ["  there is no patch to carry over"]
    if trial.upstream is None:
        end = "nothing was written. Pin an earlier commit, or let --write --leave-out write the other hooks, put these"
        return "\n".join([*lines, f"{end} in by hand, and fold them in with refresh."])
    lines.append("patches and lock entry written:" if wrote else "with --write the lock entry would become:")
    lines.append(render_entry(trial.upstream).rstrip())
    return "\n".join(
        [*lines, *([f"run `{PROGRAM} {upstream.name}` to move the clone there"] if wrote else [])]
    )
