"""A clone to look at, or to work on with its lock held; apply and revert, from whatever state it is in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from . import takeover
from .clone import clone_into_place, fetch, find_source, object_folders
from .context import Context
from .engine import put_in, survey, take_all_out
from .errors import ExitCode
from .gitio import scratch
from .home import PROGRAM
from .lockfile import Upstream
from .move import check_move, move
from .patchfile import Patch
from .plan import Plan, make_plan, read_patches
from .record import write_pin
from .site import Site, find
from .stages import stage


@contextmanager
def opened(ctx: Context, upstream: Upstream) -> Iterator[Site]:
    """A clone to look at."""
    clone = find(ctx, upstream)
    with scratch(clone.objects, *object_folders(ctx, upstream)) as repo:
        at = Site(ctx, upstream, clone, repo)
        at.record = at.record or takeover.read(at)
        yield at


@contextmanager
def held(ctx: Context, upstream: Upstream) -> Iterator[Site]:
    """A clone to work on: no other run, and no other git, is at work on it, and no move is half done.

    Raises Fault: BUSY, or what finishing an interrupted move raises.
    """
    clone = find(ctx, upstream)
    with ctx.exclusive(clone.git_dir / "pcpo-overlay.lock", str(clone.work_tree)):
        stage("locked")
        with opened(ctx, upstream) as at:
            _wait_for_git(at)
            if at.record is not None and at.record.taken_over:
                takeover.migrate(at, at.record)
                at.look()
            record = at.record
            if record is not None and record.moving_from is not None:
                move(at, record.name, record.moving_from, record.commit)
                ctx.say(f"{at.root}: an interrupted move to {record.commit} was finished")
                at.look()
            yield at


def _wait_for_git(at: Site) -> None:
    """Let another git finish with the index; what a killed git of ours left of its own lock is removed."""
    lock = at.git_dir / "index.lock"
    if not lock.exists():
        return
    until = time.monotonic() + 3
    while lock.exists() and time.monotonic() < until:
        time.sleep(0.05)
    moving = at.record is not None and at.record.moving_from is not None
    if lock.exists() and not (moving or (at.git_dir / takeover.JOURNAL).exists()):
        raise ExitCode.BUSY.fault(
            f"another git seems to be at work in {at.root}: {lock} exists. If none is, remove that file."
        )
    lock.unlink(missing_ok=True)
    at.look()
    at.record = at.record or takeover.read(at)


def apply(
    ctx: Context, upstream: Upstream, patches: Sequence[Patch], *, patch: bool = True
) -> tuple[str, dict[str, list[str]]]:
    """Have a clone with the hooks in, at the pin unless the user named it; ``patch=False`` stops at the clone.

    Running it again does nothing. Edits of the user stay. Returns what was done, and which files the source lacks.

    Raises Fault: any of the module's; each file is then without hooks or with them, and the next run goes on.
    """
    did: list[str] = []
    if not ctx.merge and clone_into_place(ctx, upstream, [p.path for p in patches]):
        did.append("cloned")
    with held(ctx, upstream) as at:
        at.check_head()
        if not ctx.merge and not at.at_pin:
            did.append(f"moved from {at.head[:12]} to the pin")
            _move_to_the_pin(at, patches, patch)
        plan = at.plan(patches)
        stage("plan-made")
        if not patch:
            _refuse_patched(at, plan)
        elif not plan.files and at.record is None:
            did.append("there is no patch for it yet, so it is upstream's own code")
        else:
            changed, merged = put_in(at, plan)
            how = f", by three-way merge in {', '.join(merged)}" if merged else ""
            did += [f"patched{how}"] if changed else []
        if not ctx.merge:
            write_pin(at.git_dir, upstream.commit)
        return ", ".join(did or ["nothing to do"]), {} if ctx.merge else at.missing_files()


def _refuse_patched(at: Site, plan: Plan | None) -> None:
    if any(t.state in ("in", "older") for t in survey(at, plan)):
        advice = f"take the hooks out with `{PROGRAM} revert {at.upstream.name}`"
        raise ExitCode.EDITED.fault(f"{at.root} is patched already; {advice}")


def _move_to_the_pin(at: Site, patches: Sequence[Patch], patch: bool) -> None:
    """Take the hooks out and move, once it is known that both can be done and that the new ones will fit."""
    commit = at.upstream.commit
    with scratch(at.clone.objects) as alone:  # the objects have to be in the clone itself
        if alone.tree_of(commit) is None:
            fetch(alone, find_source(at.ctx, at.upstream), commit, at.clone.objects)
    make_plan(at.repo, at.upstream, patches)
    if not patch:
        _refuse_patched(at, None)
    check_move(at, commit, {t.path for t in survey(at, None)})
    take_all_out(at)
    at.look()
    move(at, at.upstream.name, at.head, commit)
    at.look()


def revert(ctx: Context, upstream: Upstream) -> str:
    """Take the hooks out again; edits of the user's are kept."""
    with held(ctx, upstream) as at:
        at.check_head()
        # where the record says what was put in, whatever became of the patch files since does not matter
        patches = () if at.record is not None else read_patches(ctx.lock, upstream)
        plan = at.plan(patches) if patches and not ctx.merge and at.at_pin else None
        stage("plan-made")
        changed = take_all_out(at, patches, plan)
        return "reverted to what was there before the hooks" if changed else "nothing to revert"
