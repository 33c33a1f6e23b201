"""What is where, held against the lock: status, check and diff look at a clone and change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import unified_diff
from typing import Any

from . import lint
from .atomic import Seen, holds
from .context import Context
from .difference import insertions
from .engine import aim, survey
from .errors import ExitCode, Fault
from .gitio import decode
from .home import PROGRAM
from .lockfile import Upstream
from .patchfile import Patch, keep_labels, render
from .plan import Plan, make_plan, read_patches
from .site import Site
from .work import opened


@dataclass
class Status:
    """One upstream's state, as ``status --json`` prints it.

    ``state``: ``absent``; ``pristine`` (no hooks); ``patched``; ``outdated`` (patched, or at a pin, by an older lock);
    ``partial`` (an interrupted run is to be finished or undone); ``modified`` (a file that the overlay touches was
    edited); ``foreign`` (not a clone, or at another commit).
    """

    upstream: Upstream
    path: str
    state: str = "absent"
    detail: str = ""
    head: str | None = None
    modified_files: list[str] = field(default_factory=list)
    missing_files: dict[str, list[str]] = field(default_factory=dict)
    stamp: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        fields = asdict(self)
        upstream = fields.pop("upstream")
        return {**upstream, **fields, "patches": [entry.file for entry in self.upstream.patches]}


def status(ctx: Context, upstream: Upstream, patches: Sequence[Patch] | None) -> Status:
    """``patches`` is None where the patch files are not what the lock lists."""
    path = ctx.path(upstream)
    out = Status(upstream, str(path))
    if not path.exists() and not path.is_symlink():
        out.detail = f"not cloned; {PROGRAM} {upstream.name}"
        return out
    try:
        with opened(ctx, upstream) as at:
            out.head = at.head
            at.check_head()
            return describe(at, patches)
    except Fault as fault:
        if fault.code != ExitCode.WRONG_COMMIT:
            raise
        out.state, out.detail = "foreign", fault.message
    return out


def describe(at: Site, patches: Sequence[Patch] | None) -> Status:
    """The state of a clone whose HEAD is where it has to be."""
    out = Status(at.upstream, str(at.ctx.path(at.upstream)), head=at.head)
    stamp = at.record.stamp() if at.record else {}
    out.stamp = {key: stamp[key] for key in ("commit", "patched_tree", "files")} if stamp else None
    out.missing_files = at.missing_files()
    readable = patches is not None and at.repo.tree_of(at.upstream.commit) is not None
    plan = make_plan(at.repo, at.upstream, patches or ()) if readable and (at.merge or at.at_pin) else None
    touched = survey(at, plan)
    if at.merge and at.record is None:  # a file that differs from the pin is simply the user's
        touched = [t for t in touched if t.state == "in"]
    states, edited = {t.state for t in touched}, {t.path for t in touched if t.before is None}
    bare = {t.path: Seen(t.before) for t in touched if t.before is not None}
    as_known = {path for path, seen in bare.items() if path in at.entries and at.entries[path].is_(seen)}
    out.modified_files = sorted((set(at.changed_files()) - as_known) | edited)
    ours = {patch.path: patch for patch in patches or ()}
    hooked = {t.path for t in touched if t.path in ours and t.holds(ours[t.path])}
    program = f"{PROGRAM} {at.upstream.name}"
    if at.record is not None and not at.record.complete:
        found = "partial", f"an interrupted run; {PROGRAM} or revert finishes or undoes it"
    elif edited:
        found = "modified", "a file that the overlay touches was edited"
    elif not at.merge and not at.at_pin:
        found = "outdated", f"of an older lock; {program}"
    elif {"in", "out"} <= states:
        found = "partial", f"some hooks are in, some are not; {program}"
    elif "in" not in states:
        found = "pristine", "hooks not in" if at.upstream.patches else "there is no patch for it yet"
    elif ours.keys() == {t.path for t in touched} == hooked:
        found = "patched", ""
    else:
        found = "outdated", "the patches changed since"
    out.state, out.detail = found
    return out


def check(ctx: Context, upstream: Upstream) -> str:
    """Verify patch files and lock, and that the clone is patched and, at the pin, its touched files are as locked.

    Raises Fault: NOT_IN_ORDER, EDITED, WRONG_COMMIT for the clone; PATCH_CHANGED, WRONG_TREE for the patches.
    """
    patches = read_patches(ctx.lock, upstream)
    problems = [f"{patch.file}: {problem}" for patch in patches for problem in lint.problems(patch)]
    problems += [f"{file}: not listed in {ctx.lock.path.name}" for file in lint.orphans(ctx.lock)]
    _refuse(problems + lint.misplaced(ctx.lock))
    with opened(ctx, upstream) as at:
        plan = at.plan(patches)
        _check_plan(ctx, plan)
        at.check_head()
        found = describe(at, patches)
    expected = "patched" if patches else "pristine"
    if found.state != expected:
        code = ExitCode.EDITED if found.state == "modified" else ExitCode.NOT_IN_ORDER
        raise code.fault(f"{found.path}: {found.state}: {found.detail}")
    if ctx.merge:
        return f"patched ({found.path})"
    edited = sorted(set(found.modified_files) & set(plan.files))
    if edited:
        raise ExitCode.EDITED.fault(f"{found.path}: edited where the overlay works: {', '.join(edited)}")
    none = "" if patches else " (there is no patch for it yet)"
    yours = f"; edited by you elsewhere: {', '.join(found.modified_files)}" if found.modified_files else ""
    return f"{expected}, as locked: {upstream.patched_tree}{none}{yours}"


def _refuse(found: Sequence[str]) -> None:
    if found:
        raise ExitCode.PATCH_CHANGED.fault("problems with the patches:\n  " + "\n  ".join(found))


def _check_plan(ctx: Context, plan: Plan) -> None:
    """Export the patches again and compare, and look for lines of upstream's in them. Raises Fault: PATCH_CHANGED."""
    found: list[str] = []
    for path, file in plan.files.items():
        patch = file.patch
        found += [f"{path}: {problem}" for problem in lint.upstream_lines(patch, file.base)]
        hunks = keep_labels(patch.insertions, insertions(file.base, file.patched, path, patch.insertions))
        if not holds(ctx.lock.root / patch.file, render(replace(patch, insertions=hunks))):
            found.append(f"{patch.file}: exported again from the trees it reads differently; run refresh")
    _refuse(found)


def show(ctx: Context, upstream: Upstream) -> str:
    """The hooks with the clone's lines around them, each file's reasons first, as they stand or would stand."""
    with opened(ctx, upstream) as at:
        plan = at.plan(read_patches(ctx.lock, upstream))
        files = {path: (file.base, file.patched) for path, file in plan.files.items()}
        if at.merge:
            aims = aim(at, survey(at, plan))
            files = {path: (aims[path].before, aims[path].after) for path in plan.files}
    pieces: list[str] = []
    for path, texts in files.items():
        a, b = (decode(text).splitlines(keepends=True) for text in texts)
        lines = unified_diff(a, b, f"a/{path}", f"b/{path}", n=4)
        body = [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
        header = plan.files[path].patch.header
        pieces.append("".join([*(f"# {line}".rstrip() + "\n" for line in header.splitlines()), *body]))
    return "\n".join(pieces) or f"{upstream.name}: there is no patch for it yet\n"
