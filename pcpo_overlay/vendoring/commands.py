"""The commands, once the packages they need are known to be there: call, print, choose the exit code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from . import check, lockfile, refresh, update, work
from .context import Context, find, looked_at
from .errors import ExitCode, Fault
from .gitio import require_git
from .lockfile import Upstream
from .mutex import Patience
from .paths import argument
from .plan import NamedPatch, read_patches
from .publish import finish
from .status import Status, left_out, status


def run(args: argparse.Namespace, command: str, say: Callable[[str], None]) -> int:
    """Carry out the parsed command line; returns the exit code.

    Args:
        command: the command line as typed, for the note in the lock.
        say: prints one message to stderr.
    """
    require_git()
    dest = argument(args.dest, "--dest")
    into, mirror = (
        p and argument(p, "--into or --mirror") for p in (getattr(args, "into", None), args.mirror)
    )
    lock = lockfile.load(argument(args.lock, "--lock"))
    patience = Patience(args.wait, command, say)
    for file in finish(lock, patience) if args.command not in ("status", "check", "diff") else ():
        say(f"{file}: put into place for a run that was killed")
    ctx = Context(lock, dest, into, mirror, patience, say)
    upstreams = [lock.get(name) for name in dict.fromkeys(args.names)] or list(lock.upstreams)
    if into is not None and len(upstreams) != 1:
        raise Fault(ExitCode.USAGE, "--into takes exactly one NAME, so that it is clear which patches to use")
    handlers = {"apply": _apply, "check": _check, "status": _status, "diff": _diff, "revert": _revert}
    return {**handlers, "refresh": _refresh, "update": _update}[args.command](args, ctx, upstreams)


def _each(ctx: Context, upstreams: Sequence[Upstream], work: Callable[[Upstream], None]) -> int:
    """Do ``work`` for every upstream; a fault in one does not keep the others from being done."""
    code = ExitCode.OK
    for upstream in upstreams:
        try:
            work(upstream)
        except Fault as fault:
            ctx.say(f"error: {fault.message}")
            code = code or fault.code
    return int(code)


def _apply(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    # All patches are read before anything is written anywhere.
    patches = {upstream.name: read_patches(ctx.lock, upstream) for upstream in upstreams}
    if ctx.into and args.no_patch:
        raise Fault(ExitCode.USAGE, "--into patches a clone you have; with --no-patch there is nothing to do")

    def one(upstream: Upstream) -> None:
        text = work.apply(ctx, upstream, patches[upstream.name], patch=not args.no_patch)
        print(f"{upstream.name}: {text} ({ctx.path(upstream)})", flush=True)
        if ctx.into is None:
            _report_missing(ctx, upstream)

    return _each(ctx, upstreams, one)


def _report_missing(ctx: Context, upstream: Upstream) -> None:
    """Say on stderr which files the source did not have, and which scripts will want them."""
    with looked_at(ctx, find(ctx, upstream)) as at:
        missing = left_out(at)
    if missing:
        count = len(missing)
        ctx.say(
            f"warning: {upstream.name}: {count} file(s) are left out of the clone, whose content the source lacks:"
        )
        for path, users in missing.items():
            ctx.say(
                f"  {path}: " + (f"read by {'; '.join(users)}" if users else "no script of upstream names it")
            )
        ctx.say(f"  With a network, `git -C {ctx.path(upstream)} sparse-checkout disable` fetches them.")


def _revert(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    def one(upstream: Upstream) -> None:
        print(f"{upstream.name}: {work.revert(ctx, upstream, lambda: read_patches(ctx.lock, upstream))}")

    return _each(ctx, upstreams, one)


def _status(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    found: list[Status] = []

    def one(upstream: Upstream) -> None:
        fault: Fault | None = None
        patches: Sequence[NamedPatch] | None = None
        try:
            patches = read_patches(ctx.lock, upstream)
        except Fault as changed:  # still say what the clone is
            fault = changed
        found.append(status(ctx, upstream, patches))
        if fault:
            raise fault

    code = _each(ctx, upstreams, one)
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return code
    for s in found:
        print(f"{s.name}: {s.state}{f' ({s.detail})' if s.detail else ''}")
        print(f"  {s.url} at {s.commit}\n  {s.path}")
        for name in s.modified_files:
            print(f"  edited: {name}")
        for name, users in s.missing_files.items():
            print(f"  missing: {name}, " + (f"read by {'; '.join(users)}" if users else "no script names it"))
    return code


def _check(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    return _each(ctx, upstreams, lambda upstream: print(f"{upstream.name}: {check.check(ctx, upstream)}"))


def _diff(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    print(check.show(ctx, upstreams[0]), end="")
    return 0


def _refresh(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    upstream = upstreams[0]
    if args.from_patches:
        said = refresh.from_patches(ctx, upstream)
    else:
        said = refresh.refresh(ctx, upstream, args.why, args.until)
    print("\n".join(f"{upstream.name}: {line}" for line in said))
    return 0


def _update(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    if args.leave_out and not args.write:
        raise Fault(ExitCode.USAGE, "--leave-out says what to write, so it needs --write")
    trial = update.update(ctx, upstreams[0], args.to, write=args.write, leave_out=args.leave_out)
    print(update.describe(trial, upstreams[0], wrote=args.write))
    return int(ExitCode.OK if trial.upstream is not None else ExitCode.CONFLICT)
