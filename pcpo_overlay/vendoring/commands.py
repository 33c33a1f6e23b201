"""The commands, once the packages they need are known to be there: call, print, choose the exit code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

from . import lockfile, refresh, status, update, work
from .context import Context
from .errors import ExitCode, Fault
from .gitio import require_git
from .lockfile import Upstream
from .paths import argument
from .plan import read_patches
from .publish import finish


def run(args: argparse.Namespace, command: str, say: Callable[[str], None]) -> int:
    """Carry out the parsed command line, ``command`` as it was typed; returns the exit code."""
    require_git()
    dest = argument(args.dest, "--dest")
    given = (getattr(args, "into", None), args.mirror)
    into, mirror = (path and argument(path, "--into or --mirror") for path in given)
    lock = lockfile.load(argument(args.lock, "--lock"))
    ctx = Context(lock, dest, into, mirror, args.wait, command, say)
    if args.command not in ("status", "check", "diff") and finish(ctx):
        say(f"{lock.path.name} and its patch files: put into place for a run that was killed")
        ctx = Context(lockfile.load(lock.path), dest, into, mirror, args.wait, command, say)
    upstreams = [ctx.lock.get(name) for name in dict.fromkeys(args.names)] or list(ctx.lock.upstreams)
    if into is not None and len(upstreams) != 1:
        raise ExitCode.USAGE.fault("--into takes exactly one NAME, so that it is clear which patches to use")
    if args.command in ("check", "revert"):
        done = status.check if args.command == "check" else work.revert
        return _each(ctx, upstreams, lambda upstream: print(f"{upstream.name}: {done(ctx, upstream)}"))
    if args.command in ("apply", "status"):
        return (_apply if args.command == "apply" else _status)(args, ctx, upstreams)
    (upstream,) = upstreams
    if args.command == "diff":
        print(status.show(ctx, upstream), end="")
    elif args.command == "update":
        if args.leave_out and not args.write:
            raise ExitCode.USAGE.fault("--leave-out says what to write, so it needs --write")
        clean, told = update.update(ctx, upstream, args.to, write=args.write, leave_out=args.leave_out)
        print(told)
        return int(ExitCode.OK if clean else ExitCode.CONFLICT)
    elif args.from_patches:
        print(refresh.from_patches(ctx, upstream))
    else:
        print(refresh.refresh(ctx, upstream, args.why, args.until))
    return int(ExitCode.OK)


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


def _readers(scripts: Sequence[str], none: str) -> str:
    return f"read by {'; '.join(scripts)}" if scripts else none


def _apply(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    # All patches are read before anything is written anywhere.
    patches = {upstream.name: read_patches(ctx.lock, upstream) for upstream in upstreams}
    if ctx.into and args.no_patch:
        raise ExitCode.USAGE.fault("--into patches a clone you have; with --no-patch there is nothing to do")

    def one(upstream: Upstream) -> None:
        text, missing = work.apply(ctx, upstream, patches[upstream.name], patch=not args.no_patch)
        print(f"{upstream.name}: {text} ({ctx.path(upstream)})", flush=True)
        if missing:
            what = f"{len(missing)} file(s) are left out of the clone, whose content the source lacks:"
            ctx.say(f"warning: {upstream.name}: {what}")
            for path, scripts in missing.items():
                ctx.say(f"  {path}: {_readers(scripts, 'no script of upstream names it')}")
            ctx.say(f"  With a network, `git -C {ctx.path(upstream)} sparse-checkout disable` fetches them.")

    return _each(ctx, upstreams, one)


def _status(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    found: list[status.Status] = []

    def one(upstream: Upstream) -> None:
        try:
            patches = read_patches(ctx.lock, upstream)
        except Fault:  # still say what the clone is
            found.append(status.status(ctx, upstream, None))
            raise
        found.append(status.status(ctx, upstream, patches))

    code = _each(ctx, upstreams, one)
    if args.json:
        print(json.dumps([one.as_json() for one in found], indent=2))
        return code
    for s in found:
        print(f"{s.upstream.name}: {s.state}{f' ({s.detail})' if s.detail else ''}")
        print(f"  {s.upstream.url} at {s.upstream.commit}\n  {s.path}")
        for name in s.modified_files:
            print(f"  edited: {name}")
        for name, scripts in s.missing_files.items():
            print(f"  missing: {name}, {_readers(scripts, 'no script names it')}")
    return code
