"""The commands of ``apply.py``, once its packages are known to be there: call, print, choose the exit code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from . import check, into, lockfile, manage, refresh, update
from .errors import ExitCode, Fault
from .lockfile import Upstream
from .manage import Context
from .plan import NamedPatch, read_patches


def run(args: argparse.Namespace, command: str, say: Callable[[str], None]) -> int:
    """Carry out the parsed command line; returns the exit code.

    Args:
        command: the command line as typed, for the note in the lock.
        say: prints one message to stderr.
    """
    lock = lockfile.load(args.lock.absolute())
    if args.command not in ("status", "check", "diff"):
        try:
            for file in lockfile.finish(lock):
                say(f"{file}: put into place for a run that was killed")
        except OSError as error:
            raise Fault(
                ExitCode.UNWRITABLE, f"cannot finish an interrupted refresh or update: {error}"
            ) from None
    ctx = Context(
        lock=lock,
        dest=args.dest.absolute(),
        mirror=args.mirror.absolute() if args.mirror else None,
        wait=args.wait,
        command=command,
        say=say,
        console=Console(stderr=True),
    )
    upstreams = [ctx.lock.get(name) for name in dict.fromkeys(args.names)] or list(ctx.lock.upstreams)
    if getattr(args, "into", None) is not None:
        if len(upstreams) != 1:
            raise Fault(
                ExitCode.USAGE, "--into takes exactly one NAME, so that it is clear which patches to use"
            )
        args.into = args.into.absolute()
    handler = {
        "apply": _apply,
        "check": _check,
        "status": _status,
        "diff": _diff,
        "revert": _revert,
        "refresh": _refresh,
        "update": _update,
    }[args.command]
    return handler(args, ctx, upstreams)


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
    if args.into and args.no_patch:
        raise Fault(ExitCode.USAGE, "--into patches a clone you have; with --no-patch there is nothing to do")

    def work(upstream: Upstream) -> None:
        if args.into:
            text = into.apply_into(ctx, upstream, patches[upstream.name], args.into)
            print(f"{upstream.name}: {text} ({args.into})")
            return
        result = manage.apply(ctx, upstream, patches[upstream.name], patch=not args.no_patch)
        print(f"{upstream.name}: {result.text} ({ctx.path(upstream)})", flush=True)
        manage.report_missing(ctx, upstream, result.missing)

    return _each(ctx, upstreams, work)


def _revert(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    def work(upstream: Upstream) -> None:
        def read() -> Sequence[NamedPatch]:
            return read_patches(ctx.lock, upstream)

        if args.into:
            print(f"{upstream.name}: {into.revert_into(ctx, upstream, read, args.into)}")
        else:
            print(f"{upstream.name}: {manage.revert(ctx, upstream, read)}")

    return _each(ctx, upstreams, work)


def _status(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    found: list[manage.Status] = []

    def work(upstream: Upstream) -> None:
        fault: Fault | None = None
        patches: Sequence[NamedPatch] = ()
        try:
            patches = read_patches(ctx.lock, upstream)
        except Fault as changed:  # still say what the clone is
            fault = changed
        into_path: Path | None = args.into
        if into_path:
            found.append(into.status_into(ctx, upstream, patches, into_path))
        else:
            found.append(manage.status(ctx, upstream, None if fault else patches))
        if fault:
            raise fault

    code = _each(ctx, upstreams, work)
    if args.json:
        print(json.dumps([asdict(status) for status in found], indent=2))
        return code
    for status in found:
        print(f"{status.name}: {status.state}{f' ({status.detail})' if status.detail else ''}")
        print(f"  {status.url} at {status.commit}")
        print(f"  {status.path}")
        for name in status.modified_files:
            print(f"  edited: {name}")
        for name, users in status.missing_files.items():
            print(f"  missing: {name}, " + (f"read by {'; '.join(users)}" if users else "no script names it"))
    return code


def _check(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    def work(upstream: Upstream) -> None:
        if args.into:
            check.check_patches(ctx, upstream)
            status = into.status_into(ctx, upstream, read_patches(ctx.lock, upstream), args.into)
            if status.state != "patched":
                code = ExitCode.EDITED if status.state == "modified" else ExitCode.NOT_IN_ORDER
                raise Fault(code, f"{args.into}: {status.state}: {status.detail}")
            print(f"{upstream.name}: patched ({args.into})")
        else:
            print(f"{upstream.name}: {check.check(ctx, upstream)}")

    return _each(ctx, upstreams, work)


def _diff(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    if args.into:
        patches = read_patches(ctx.lock, upstreams[0])
        print(into.show_into(ctx, upstreams[0], patches, args.into), end="")
    else:
        print(check.show(ctx, upstreams[0]), end="")
    return 0


def _refresh(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    upstream = upstreams[0]
    if args.from_patches:
        said = refresh.from_patches(ctx, upstream)
    else:
        said = refresh.refresh(ctx, upstream, args.why, args.until)
    for line in said:
        print(f"{upstream.name}: {line}")
    return 0


def _update(args: argparse.Namespace, ctx: Context, upstreams: Sequence[Upstream]) -> int:
    upstream = upstreams[0]
    if args.leave_out and not args.write:
        raise Fault(ExitCode.USAGE, "--leave-out says what to write, so it needs --write")
    trial = update.update(ctx, upstream, args.to, write=args.write, leave_out=args.leave_out)
    print(update.describe(trial, upstream, wrote=args.write))
    return int(ExitCode.OK if trial.upstream is not None else ExitCode.CONFLICT)
