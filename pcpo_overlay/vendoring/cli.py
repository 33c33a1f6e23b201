"""The command line of ``apply.py``."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .environment import sanitize_environment
from .errors import ExitCode, Fault, exit_code_table
from .home import DEST, INSTALL, LOCK, PROGRAM

NAME = PROGRAM.removeprefix("python ")
COMMANDS = ("apply", "check", "status", "diff", "revert", "refresh", "update")
_TAKES_VALUE = ("--mirror", "--dest", "--lock", "--wait", "--into", "--why", "--until", "--to")

_EPILOG = f"""\
commands (apply when none is given; NAME defaults to all upstreams of vendor.lock):
  apply [NAME ...]      clone at the pins and put the hooks in; running it again does nothing
  check [NAME ...]      verify the lock, the patch files and the clones; for CI
  status [NAME ...]     what is where (--json)
  diff NAME             the hooks as a reviewer wants them, with upstream's lines around
  revert [NAME ...]     take the hooks out; your edits to other files are kept
  refresh NAME          fold hook lines edited in the clone back into the patch files and the lock
  update NAME --to SHA  try a newer upstream commit by three-way merge, in a scratch place
`{PROGRAM} COMMAND --help` shows the options of one command.

exit codes:
{exit_code_table()}
"""


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1e6:
        raise ValueError
    return value


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    options: tuple[tuple[str, str, Any, Any, str], ...] = (
        (
            "--mirror",
            "DIR",
            Path,
            None,
            "take upstreams from DIR/NAME or DIR/NAME.git, no network (default: $PCPO_MIRROR)",
        ),
        ("--dest", "DIR", Path, DEST, f"where clones are (default: {DEST.name}/)"),
        ("--lock", "FILE", Path, LOCK, "lock file (default: vendor.lock)"),
        ("--wait", "SECONDS", _seconds, 120.0, "how long to wait for another run (default: 120)"),
    )
    for name, shown, kind, default, words in options:
        common.add_argument(name, metavar=shown, type=kind, default=default, help=words)
    into = argparse.ArgumentParser(add_help=False)
    words = "work on a clone you already have, at whatever commit, instead of the one under --dest"
    into.add_argument("--into", type=Path, metavar="PATH", help=words)
    text = argparse.RawDescriptionHelpFormatter
    about = "Clone DDPO, DanceGRPO and Flow-GRPO at their pins and put PCPO's hooks in."
    usage = f"{NAME} [COMMAND] [NAME ...] [options]"
    parser = argparse.ArgumentParser(
        NAME, description=about, usage=usage, epilog=_EPILOG, formatter_class=text
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help=argparse.SUPPRESS)
    codes = f"exit codes:\n{exit_code_table()}"

    def add(
        name: str, about: str, names: str | int, *more: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        given = {"description": about, "epilog": codes, "formatter_class": text}
        sub = commands.add_parser(name, parents=[common, *more], **given)  # type: ignore[arg-type]
        sub.add_argument("names", nargs=names, metavar="NAME", help="upstreams, by their name in vendor.lock")
        return sub

    sub = add("apply", "Clone at the pins and put the hooks in. Running it again does nothing.", "*", into)
    sub.add_argument("--no-patch", action="store_true", help="clone at the pin only")
    add("check", "Verify the lock, the patch files and the clones. Changes nothing.", "*", into)
    sub = add("status", "Show what is where. Changes nothing.", "*", into)
    sub.add_argument("--json", action="store_true", help="one JSON array on stdout")
    add("diff", "Show the hooks with upstream's lines around them. Changes nothing.", 1, into)
    add("revert", "Take the hooks out again; your edits to other files are kept.", "*", into)
    sub = add("refresh", "Fold hook lines edited in the clone back into the patch files and the lock.", 1)
    words = "why a file with no patch yet gets one; goes into the new patch's header"
    sub.add_argument("--why", action="append", default=[], metavar="[FILE=]TEXT", help=words)
    sub.add_argument("--until", metavar="TEXT", help="when a new patch may go; goes into its header")
    words = (
        "the other way round: take the patch files as they are, and write their sha256 and tree into the lock"
    )
    sub.add_argument("--from-patches", action="store_true", help=words)
    sub = add("update", "Try another upstream commit by three-way merge, in a scratch place.", 1)
    sub.add_argument("--to", required=True, metavar="SHA", help="the commit to try")
    words = "if it is clean, write the new patches and lock entry"
    sub.add_argument("--write", action="store_true", help=words)
    words = "with --write: leave out hooks that conflict, to be put in by hand and folded in with refresh"
    sub.add_argument("--leave-out", action="store_true", help=words)
    return parser


def _with_command(argv: Sequence[str]) -> list[str]:
    """``argv`` with the command in front; ``apply`` if it names none."""
    skip = False
    for n, word in enumerate(argv):
        if skip:
            skip = False
        elif word in _TAKES_VALUE:
            skip = True
        elif not word.startswith("-"):
            if word in COMMANDS:
                return [word, *argv[:n], *argv[n + 1 :]]
            break
    return ["apply", *argv]


def _require_packages() -> None:
    missing = [
        shown
        for module, shown in (("git", "GitPython"), ("filelock", "filelock"), ("rich", "rich"))
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise Fault(ExitCode.MISSING_PACKAGE, f"{NAME} needs {', '.join(missing)}: {INSTALL}")
    try:
        import git  # noqa: F401 - it runs git once, to see whether it can
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise Fault(
            ExitCode.MISSING_PACKAGE, f"{NAME} needs a git that runs; GitPython says: {words}"
        ) from None


def say(text: str) -> None:
    """One message to stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; messages about faults go to stderr."""
    given = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a path may hold what the terminal's encoding does not
    if given and given[0] in ("-h", "--help"):
        _parser().print_help()
        return 0
    args = _parser().parse_args(_with_command(given))
    again = "run the same command again to finish or undo what was begun"
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that git ends with us
        sanitize_environment()
        _require_packages()
        from . import commands

        args.mirror = args.mirror or (
            Path(os.environ["PCPO_MIRROR"]) if os.environ.get("PCPO_MIRROR") else None
        )
        return commands.run(args, " ".join([NAME, *given]), say)
    except Fault as fault:
        say(f"error: {fault.message}")
        return int(fault.code)
    except KeyboardInterrupt:
        say(f"interrupted; {again}")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - keeps the interpreter from flushing a closed pipe
        return int(ExitCode.OK)
    except OSError as error:  # a full disk, a folder that vanished: anything not foreseen where it happens
        say(f"error: {error}; {again}")
        full = error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EACCES,
            errno.EPERM,
            errno.EFBIG,
        )
        return int(ExitCode.UNWRITABLE if full else ExitCode.FAILED)
