"""Try another upstream commit: carry the hooks over by three-way merge, in a scratch place.

The clone under the destination is at most read. Nothing is written but, on ``--write`` and a clean result, the
patch files and the lock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .clone import fetch, find_source, object_folders
from .context import Context
from .difference import carry
from .errors import ExitCode
from .gitio import Entry, Scratch, decode, scratch
from .home import PROGRAM
from .lockfile import Upstream, render_entry
from .patchfile import Patch, render
from .plan import FilePlan, make_plan, read_patches
from .publish import save
from .refresh import entries_of, need_repository

_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*")
_HEX = re.compile(r"[0-9a-f]{7,40}")


def _find(ctx: Context, repo: Scratch, upstream: Upstream, to: str) -> str:
    """The commit that ``to`` means, its objects here; a branch or tag is looked up at the source, always afresh.

    Raises Fault: WRONG_TREE where there is none, UNREACHABLE.
    """
    commit: str | None = None
    if _HEX.fullmatch(to):  # of exactly one commit that is here
        commit = (
            decode(repo.outcome("rev-parse", "--verify", "--quiet", f"{to}^{{commit}}").stdout).strip()
            or None
        )
    if commit is None or repo.tree_of(upstream.commit) is None:
        source = find_source(ctx, upstream)
        commit = commit or (to if len(to) == 40 and _HEX.fullmatch(to) else source.named(to))
        if commit is None:
            raise ExitCode.WRONG_TREE.fault(f"{upstream.name} has no commit, branch or tag {to}")
        for wanted in (upstream.commit, commit):
            fetch(repo, source, wanted)
    return commit


@dataclass(frozen=True)
class _Carried:
    """How one file fared: the hooks that could be carried over, the words of those ``lost``, and where and why."""

    how: str
    patch: Patch | None
    lost: tuple[str, ...] = ()
    detail: str = ""


def _carry(repo: Scratch, file: FilePlan, commit: str, entry: Entry | None) -> _Carried:
    """Carry one file's hooks over, each by itself, so that one in conflict does not hide the others."""
    patch = file.patch
    ours = repo.objects([entry.oid])[entry.oid] if entry else None
    if ours is None:
        found = repo.outcome("log", "-1", "--format=%h %s", "--diff-filter=DR", commit, "--", patch.path)
        words = decode(found.stdout).strip() if found.status == 0 else ""
        gone = "the file is not there any more" + (f" (last seen in {words})" if words else "")
        return _Carried("conflict", None, patch.labels, gone)
    if ours == file.base:
        return _Carried("unchanged by upstream", patch)
    done = carry(patch.insertions, file.base, ours)
    carried = replace(patch, insertions=done.moved) if done.moved else None
    lost = tuple(hook.label for hook in done.lost)
    return _Carried("conflict" if lost else "clean", carried, lost, done.why_lost)


def update(
    ctx: Context, upstream: Upstream, to: str, *, write: bool, leave_out: bool = False
) -> tuple[bool, str]:
    """Carry the hooks of the pin over to commit, branch or tag ``to``.

    Args:
        write: if every hook can be carried over, write the patch files and the lock.
        leave_out: go on without the hooks that cannot, so that they can be put in by hand.

    Returns:
        whether there is a lock entry for the commit, and the trial in words; a conflict is a result, no fault.

    Raises Fault: USAGE for what can be no name; for a commit that cannot be had.
    """
    if write:
        need_repository(ctx)
    if not _REVISION.fullmatch(to) or ".." in to:
        raise ExitCode.USAGE.fault(f"--to {to!r} is not the name of a commit, branch or tag")
    patches = read_patches(ctx.lock, upstream)
    moved: Upstream | None = None
    with scratch(*object_folders(ctx, upstream)) as repo:
        commit = _find(ctx, repo, upstream, to)
        plan = make_plan(repo, upstream, patches)
        before, after = repo.entries(upstream.commit), repo.entries(commit)
        changed = sum(before.get(path) != after.get(path) for path in {*before, *after})
        carried = {path: _carry(repo, file, commit, after.get(path)) for path, file in plan.files.items()}
        if leave_out or not any(one.lost for one in carried.values()):
            merged = [one.patch for one in carried.values() if one.patch is not None]
            files = {patch.file: render(patch) for patch in merged}
            tree = str(repo.tree_of(commit))
            moved = replace(upstream, commit=commit, tree=tree, patches=entries_of(files))
            moved = replace(moved, patched_tree=make_plan(repo, moved, merged, verify=False).patched_tree)
    if write and moved is not None:
        save(ctx, moved, files)
    return moved is not None, _describe(upstream.name, changed, carried, moved, wrote=write)


def _describe(
    name: str, changed: int, carried: Mapping[str, _Carried], moved: Upstream | None, *, wrote: bool
) -> str:
    """The trial in words, with the lock entry that it would give."""
    lines = [f"{name}: upstream changed {changed} file(s) since the pin"]
    for path, one in carried.items():
        lines += [f"  {path}: {one.how}", *(f"    {line}" for line in one.detail.splitlines())]
        if one.lost and moved is not None:
            lines.append(f"    LEFT OUT, to be put in by hand: {'; '.join(one.lost)}")
    lines += [] if carried else ["  there is no patch to carry over"]
    if moved is None:
        end = "nothing was written. Pin an earlier commit, or let --write --leave-out write the other hooks, put these"
        return "\n".join([*lines, f"{end} in by hand, and fold them in with refresh."])
    lines.append("patches and lock entry written:" if wrote else "with --write the lock entry would become:")
    lines.append(render_entry(moved).rstrip())
    lines += [f"run `{PROGRAM} {name}` to move the clone there"] if wrote else []
    return "\n".join(lines)
