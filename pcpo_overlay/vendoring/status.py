"""What is where: look at a clone, change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .atomic import Seen, look
from .context import Context, Opened, find, looked_at
from .difference import to_lf
from .engine import survey
from .errors import ExitCode, Fault
from .gitio import blob_oid
from .home import PROGRAM
from .lockfile import Upstream
from .missing import needed_by, scripts_of
from .paths import link_on_the_way
from .plan import NamedPatch, make_plan
from .record import read_pin


@dataclass
class Status:
    """One upstream's state, as ``status --json`` prints it.

    ``state``: ``absent``; ``pristine`` (no hooks); ``patched``; ``outdated`` (patched, or at a pin, by an older lock);
    ``partial`` (an interrupted run is to be finished or undone); ``modified`` (a file that the overlay touches was
    edited); ``foreign`` (not a clone, or at another commit).
    """

    name: str
    url: str
    commit: str
    tree: str
    patched_tree: str
    path: str
    state: str = "absent"
    detail: str = ""
    head: str | None = None
    patches: list[str] = field(default_factory=list)
    modified_files: list[str] = field(default_factory=list)
    missing_files: dict[str, list[str]] = field(default_factory=dict)
    stamp: Mapping[str, Any] | None = None


def left_out(at: Opened) -> dict[str, list[str]]:
    """Files that are not in the work tree for want of their content, each with the scripts that read it."""
    paths = sorted(path for path, entries in at.index.items() if entries[0].tag == "S")
    texts = scripts_of(at.clone.work_tree, at.index) if paths else {}
    return {path: needed_by(texts, path) for path in paths}


def _is_heads(at: Opened, path: str, seen: Seen | None) -> bool:
    """Whether content is HEAD's for a path, line endings apart. Git is not asked: it would run the clone's filters."""
    entry = at.entries.get(path)
    if seen is None or entry is None or seen.link != (entry.mode == "120000"):
        return False
    return entry.oid in (blob_oid(seen.data), blob_oid(to_lf(seen.data)))


def changed_files(at: Opened) -> list[str]:
    """Tracked files that are not HEAD's."""
    out: list[str] = []
    for path in sorted({*at.entries, *at.index}):
        modes = {at.entries[path].mode} if path in at.entries else set()
        if "160000" in modes or (modes and any(entry.tag == "S" for entry in at.index.get(path, []))):
            continue
        try:
            reached = link_on_the_way(at.clone.work_tree, path) in (None, path)
            same = reached and _is_heads(at, path, look(at.clone.work_tree / path))
        except Fault:  # a folder, a FIFO
            same = False
        out += [] if same else [path]
    return out


def check_head(ctx: Context, at: Opened, upstream: Upstream) -> None:
    """HEAD is the lock's pin, or where an earlier pin of ours left it. Raises Fault: WRONG_COMMIT otherwise."""
    if ctx.merge or at.clone.head in (upstream.commit, read_pin(at.clone.git_dir)):
        return
    path = at.clone.work_tree
    raise Fault(
        ExitCode.WRONG_COMMIT,
        f"{path} is at commit {at.clone.head}, but the lock pins {upstream.name} at {upstream.commit}; nothing "
        f"was changed. Either go back with `git -C {path} checkout --detach {upstream.commit}`, or "
        f"patch the clone as it is with `{PROGRAM} {upstream.name} --into {path}`.",
    )


def status(ctx: Context, upstream: Upstream, patches: Sequence[NamedPatch] | None) -> Status:
    """``patches`` is None where the patch files are not what the lock lists."""
    path = ctx.path(upstream)
    u, files = upstream, [entry.file for entry in upstream.patches]
    out = Status(u.name, u.url, u.commit, u.tree, u.patched_tree, str(path), patches=files)
    if not path.exists() and not path.is_symlink():
        out.detail = f"not cloned; {PROGRAM} {upstream.name}"
        return out
    try:
        clone = find(ctx, upstream)
        out.head = clone.head
        with looked_at(ctx, clone) as at:
            check_head(ctx, at, upstream)
            _describe(ctx, at, upstream, patches, out)
    except Fault as fault:
        if fault.code != ExitCode.WRONG_COMMIT:
            raise
        out.state, out.detail = "foreign", fault.message
    return out


def _describe(
    ctx: Context, at: Opened, upstream: Upstream, patches: Sequence[NamedPatch] | None, out: Status
) -> None:
    stamp = {} if at.record is None else at.record.stamp()
    out.stamp = {key: stamp[key] for key in ("commit", "patched_tree", "files")} if stamp else None
    out.missing_files = left_out(at)
    at_pin = at.repo.tree_of(upstream.commit) is not None and (ctx.merge or at.clone.head == upstream.commit)
    plan = make_plan(at.repo, upstream, patches) if at_pin and patches is not None else None
    touched = survey(at, plan, staged=not ctx.merge)
    if ctx.merge and at.record is None:  # a file that differs from the pin is simply the user's
        touched = [t for t in touched if t.state == "in"]
    states = {t.state for t in touched}
    as_known = {t.path for t in touched if t.before is not None and _is_heads(at, t.path, Seen(t.before))}
    edited = {t.path for t in touched if t.before is None}
    out.modified_files = sorted((set(changed_files(at)) - as_known) | edited)
    hooked = {
        t.path for t in touched if any(t.holds(n.patch) for n in patches or () if n.patch.path == t.path)
    }
    if at.record is not None and not at.record.complete:
        out.state, out.detail = "partial", f"an interrupted run; {PROGRAM} or revert finishes or undoes it"
    elif states & {"edited", "missing", "link"}:
        out.state, out.detail = "modified", "a file that the overlay touches was edited"
    elif not ctx.merge and at.clone.head != upstream.commit:
        out.state, out.detail = "outdated", f"of an older lock; {PROGRAM} {upstream.name}"
    elif {"in", "out"} <= states:
        out.state, out.detail = "partial", f"some hooks are in, some are not; {PROGRAM} {upstream.name}"
    elif "in" not in states:
        out.state, out.detail = (
            "pristine",
            "hooks not in" if upstream.patches else "there is no patch for it yet",
        )
    elif {n.patch.path for n in patches or ()} == {t.path for t in touched} == hooked:
        out.state = "patched"
    else:
        out.state, out.detail = "outdated", "the patches changed since"
