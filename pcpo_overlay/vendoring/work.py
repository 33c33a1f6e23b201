"""apply and revert: one clone, its lock held, from whatever state it is in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import takeover
from .clone import clone_into_place, fetch, find_source, remove_stale
from .context import Context, Opened, find, looked_at
from .engine import Touched, put_in, survey, take_all_out
from .errors import ExitCode, Fault
from .gitio import Clone
from .home import PROGRAM
from .lockfile import Upstream
from .move import check_move, move
from .mutex import exclusive
from .plan import NamedPatch, Plan, make_plan
from .record import read_record, write_pin
from .stages import stage
from .status import check_head


@contextmanager
def held(ctx: Context, upstream: Upstream) -> Iterator[Opened]:
    """A clone to work on: no other run, and no other git, is at work on it, and no move is half done.

    Raises Fault: BUSY, or what finishing an interrupted move raises.
    """
    clone = find(ctx, upstream)
    with exclusive(clone.git_dir / "pcpo-overlay.lock", str(clone.work_tree), ctx.patience):
        stage("locked")
        record = read_record(clone.git_dir)
        moving = record is not None and record.moving_from is not None
        _wait_for_git(clone, ours=moving or (clone.git_dir / takeover.JOURNAL).exists())
        with looked_at(ctx, find(ctx, upstream)) as at:
            if at.record is not None and at.record.taken_over:
                takeover.migrate(at.clone, at.repo, at.record, at.entries)
            if record is not None and record.moving_from is not None:
                move(at, record.name, record.moving_from, record.commit)
                ctx.say(f"{clone.work_tree}: an interrupted move to {record.commit} was finished")
        with looked_at(ctx, find(ctx, upstream), *object_folders(ctx, upstream)) as at:
            yield at


def _wait_for_git(clone: Clone, *, ours: bool, seconds: float = 3.0) -> None:
    """Let another git finish with the index; what a killed git of ours left of its own lock is removed."""
    lock = clone.git_dir / "index.lock"
    until = time.monotonic() + seconds
    while lock.exists() and time.monotonic() < until:
        time.sleep(0.05)
    if lock.exists() and not ours:
        raise Fault(
            ExitCode.BUSY,
            f"another git seems to be at work in {clone.work_tree}: {lock} exists. If none is, remove that file.",
        )
    lock.unlink(missing_ok=True)


def object_folders(ctx: Context, upstream: Upstream) -> list[Path]:
    """Where the pin's objects may be besides the clone worked on: the clone under ``--dest``, the mirror."""
    vendored = Clone.open(ctx.dest / upstream.name)
    out = [] if vendored is None else [vendored.objects]
    if ctx.mirror is not None:
        try:
            mirror = find_source(upstream, ctx.mirror).objects
        except Fault:  # only matters if something has to be fetched
            mirror = None
        out += [] if mirror is None else [mirror]
    return out


def plan_of(ctx: Context, at: Opened, upstream: Upstream, patches: Sequence[NamedPatch]) -> Plan:
    """The plan at the pin, whose objects are fetched to the scratch repository if they are nowhere near."""
    if at.repo.tree_of(upstream.commit) is None:
        fetch(at.repo, find_source(upstream, ctx.mirror), upstream.commit)
    return make_plan(at.repo, upstream, patches)


def _have_clone(ctx: Context, upstream: Upstream, patches: Sequence[NamedPatch]) -> bool:
    """Clone at the pin where there is nothing yet; whether that was so."""
    path = ctx.path(upstream)
    try:
        ctx.dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Fault(ExitCode.UNWRITABLE, f"cannot make the destination {ctx.dest}: {error}") from None
    with exclusive(ctx.dest / f".{upstream.name}.lock", str(path), ctx.patience):
        for folder in remove_stale(ctx.dest, upstream.name):
            ctx.say(f"removed {folder.name}, left by a run that was killed")
        if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
            return False
        source = find_source(upstream, ctx.mirror)
        ctx.say(f"cloning {upstream.name} from {source.location}")
        clone_into_place(upstream, source, path, [named.patch.path for named in patches])
        return True


def apply(ctx: Context, upstream: Upstream, patches: Sequence[NamedPatch], *, patch: bool = True) -> str:
    """Have a clone with the hooks in, at the pin unless the user named it; ``patch=False`` stops at the clone.

    Running it again does nothing. Edits of the user's are kept.

    Raises:
        Fault: any of the module's; each file is then without hooks or with them, and the next run goes on.
    """
    did = ["cloned"] if ctx.into is None and _have_clone(ctx, upstream, patches) else []
    with held(ctx, upstream) as at:
        check_head(ctx, at, upstream)
        start = str(at.clone.head)
        if not ctx.merge and start != upstream.commit:
            if at.repo.tree_of(upstream.commit) is None or ctx.mirror is not None:
                _fetch_into(ctx, at, upstream)
            make_plan(at.repo, upstream, patches)
            touched = survey(at, None, staged=True)
            if not patch:
                _refuse_patched(at, touched, upstream)
            check_move(at, upstream.commit, {t.path for t in touched})
            take_all_out(at, upstream.name, (), None, merge=False)
        else:
            plan = plan_of(ctx, at, upstream, patches)
            stage("plan-made")
            if not patch:
                _refuse_patched(at, survey(at, plan, staged=False), upstream)
                did = did or ["nothing to do"]
            elif not plan.files and at.record is None:
                did += ["there is no patch for it yet, so it is upstream's own code"]
            else:
                changed, merged = put_in(at, plan, merge=ctx.merge)
                how = f", by three-way merge in {', '.join(merged)}" if merged else ""
                did += [f"patched{how}"] if changed else []
            if not ctx.merge:
                write_pin(at.clone.git_dir, upstream.commit)
            return ", ".join(did or ["nothing to do"])
    with held(ctx, upstream) as at:  # its hooks are out now
        move(at, upstream.name, start, upstream.commit)
    return f"moved from {start[:12]} to the pin, {apply(ctx, upstream, patches, patch=patch)}"


def _refuse_patched(at: Opened, touched: Sequence[Touched], upstream: Upstream) -> None:
    if any(t.state in ("in", "older") for t in touched):
        advice = f"take the hooks out with `{PROGRAM} revert {upstream.name}`"
        raise Fault(ExitCode.EDITED, f"{at.clone.work_tree} is patched already; {advice}")


def _fetch_into(ctx: Context, at: Opened, upstream: Upstream) -> None:
    """Have the pin's objects in the clone itself, not only in the mirror beside it."""
    with looked_at(ctx, at.clone) as alone:
        fetch(alone.repo, find_source(upstream, ctx.mirror), upstream.commit, at.clone.objects)


def revert(ctx: Context, upstream: Upstream, read: Callable[[], Sequence[NamedPatch]]) -> str:
    """Take the hooks out again; edits of the user's are kept.

    Args:
        read: reads the patch files; not called when the record says what was put in, so a clone can be reverted
            whatever became of them.
    """
    with held(ctx, upstream) as at:
        check_head(ctx, at, upstream)
        patches = () if at.record is not None else read()
        at_pin = patches and not ctx.merge and at.clone.head == upstream.commit
        plan = plan_of(ctx, at, upstream, patches) if at_pin else None
        stage("plan-made")
        changed = take_all_out(at, upstream.name, patches, plan, merge=ctx.merge)
        return "reverted to what was there before the hooks" if changed else "nothing to revert"
