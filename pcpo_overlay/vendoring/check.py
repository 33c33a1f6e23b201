"""check and diff: hold patches and clone against the lock, change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import unified_diff

from . import lint
from .atomic import read_regular
from .context import Context, find, looked_at
from .difference import insertions
from .engine import preview
from .errors import ExitCode, Fault
from .lockfile import Upstream
from .patchfile import decode, keep_labels, render
from .plan import NamedPatch, Plan, read_patches
from .status import status
from .work import object_folders, plan_of


def _refuse(found: Sequence[str]) -> None:
    if found:
        raise Fault(ExitCode.PATCH_CHANGED, "problems with the patches:\n  " + "\n  ".join(found))


def check_patches(ctx: Context, upstream: Upstream) -> tuple[NamedPatch, ...]:
    """Compare the patch files with the lock and lint them; needs no clone. Raises Fault: PATCH_CHANGED, naming all."""
    patches = read_patches(ctx.lock, upstream)
    found = [f"{named.file}: {problem}" for named in patches for problem in lint.problems(named.patch)]
    found += [f"{file}: not listed in {ctx.lock.path.name}" for file in lint.orphans(ctx.lock)]
    _refuse(found + lint.misplaced(ctx.lock))
    return patches


def check_plan(ctx: Context, plan: Plan) -> None:
    """Export the patches again and compare, and look for lines of upstream's in them. Raises Fault: PATCH_CHANGED."""
    found: list[str] = []
    for path, file in plan.files.items():
        patch = file.named.patch
        found += [f"{path}: {problem}" for problem in lint.upstream_lines(patch, file.base)]
        hunks = keep_labels(patch.insertions, insertions(file.base, file.patched, path, patch.insertions))
        if render(replace(patch, insertions=hunks)) != read_regular(ctx.lock.root / file.named.file):
            found.append(
                f"{file.named.file}: exported again from the trees it reads differently; run refresh"
            )
    _refuse(found)


def check(ctx: Context, upstream: Upstream) -> str:
    """All of the above, and that the clone is patched and, at the pin, its touched files are as the lock says.

    Raises Fault: NOT_IN_ORDER, EDITED, WRONG_COMMIT for the clone; PATCH_CHANGED, WRONG_TREE for the patches.
    """
    patches = check_patches(ctx, upstream)
    with looked_at(ctx, find(ctx, upstream), *object_folders(ctx, upstream)) as at:
        found = status(ctx, upstream, patches)
        plan = plan_of(ctx, at, upstream, patches)
        check_plan(ctx, plan)
    codes = {"foreign": ExitCode.WRONG_COMMIT, "modified": ExitCode.EDITED}
    expected = "patched" if patches else "pristine"
    if found.state != expected:
        code = codes.get(found.state, ExitCode.NOT_IN_ORDER)
        raise Fault(code, f"{found.path}: {found.state}: {found.detail}")
    if ctx.merge:
        return f"patched ({found.path})"
    edited = sorted(set(found.modified_files) & set(plan.files))
    if edited:
        raise Fault(ExitCode.EDITED, f"{found.path}: edited where the overlay works: {', '.join(edited)}")
    text = f"{expected}, as locked: {upstream.patched_tree}"
    text += "" if patches else " (there is no patch for it yet)"
    return text + (
        f"; edited by you elsewhere: {', '.join(found.modified_files)}" if found.modified_files else ""
    )


def show(ctx: Context, upstream: Upstream) -> str:
    """The hooks with the clone's lines around them, each file's reasons first, as they stand or would stand."""
    patches = read_patches(ctx.lock, upstream)
    with looked_at(ctx, find(ctx, upstream), *object_folders(ctx, upstream)) as at:
        plan = plan_of(ctx, at, upstream, patches)
        pinned = {path: (file.base, file.patched) for path, file in plan.files.items()}
        files = preview(at, plan) if ctx.merge else pinned
    pieces: list[str] = []
    for path, texts in files.items():
        a, b = (decode(text).splitlines(keepends=True) for text in texts)
        lines = unified_diff(a, b, f"a/{path}", f"b/{path}", n=4)
        body = [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
        header = plan.files[path].named.patch.header
        pieces.append("".join([*(f"# {line}".rstrip() + "\n" for line in header.splitlines()), *body]))
    return "\n".join(pieces) or f"{upstream.name}: there is no patch for it yet\n"
