"""The command line of ``apply.py``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import ExitCode, Fault, exit_code_table

ROOT = Path(__file__).resolve().parents[2]
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
`python apply.py COMMAND --help` shows the options of one command.

exit codes:
{exit_code_table()}
"""


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--mirror",
        type=Path,
        default=None,
        metavar="DIR",
        help="take upstreams from DIR/NAME or DIR/NAME.git instead of the network (default: $PCPO_MIRROR)",
    )
    common.add_argument(
        "--dest",
        type=Path,
        default=ROOT / "vendor",
        metavar="DIR",
        help="where clones are (default: vendor/)",
    )
    common.add_argument(
        "--lock",
        type=Path,
        default=ROOT / "vendor.lock",
        metavar="FILE",
        help="lock file (default: vendor.lock)",
    )
    common.add_argument(
        "--wait",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long to wait for another run (default: 120)",
    )
    into = argparse.ArgumentParser(add_help=False)
    into.add_argument(
        "--into",
        type=Path,
        default=None,
        metavar="PATH",
        help="work on a clone you already have, at whatever commit, instead of the one under --dest",
    )
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="apply.py",
        description="Clone DDPO, DanceGRPO and Flow-GRPO at their pins and put PCPO's hooks in.",
        usage="apply.py [COMMAND] [NAME ...] [options]",
        epilog=_EPILOG,
        formatter_class=text,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help=argparse.SUPPRESS)

    def add(
        name: str, about: str, names: str | int, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            description=about,
            parents=[common, *parents],
            epilog=f"exit codes:\n{exit_code_table()}",
            formatter_class=text,
        )
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
    sub.add_argument(
        "--why",
        action="append",
        default=[],
        metavar="[FILE=]TEXT",
        help="why a file with no patch yet gets one; goes into the new patch's header",
    )
    sub.add_argument(
        "--until", default=None, metavar="TEXT", help="when a new patch may go; goes into its header"
    )
    sub.add_argument(
        "--from-patches",
        action="store_true",
        help="the other way round: take the patch files as they are, and write their sha256 and tree into the lock",
    )
    sub = add("update", "Try another upstream commit by three-way merge, in a scratch place.", 1)
    sub.add_argument("--to", required=True, metavar="SHA", help="the commit to try")
    sub.add_argument(
        "--write", action="store_true", help="if it is clean, write the new patches and lock entry"
    )
    sub.add_argument(
        "--leave-out",
        action="store_true",
        help="with --write: leave out hooks that conflict, to be put in by hand and folded in with refresh",
    )
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
    import importlib.util
    import shutil

    missing = [
        shown
        for module, shown in (("git", "GitPython"), ("filelock", "filelock"), ("rich", "rich"))
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise Fault(
            ExitCode.MISSING_PACKAGE, f'apply.py needs {", ".join(missing)}: pip install -e ".[apply]"'
        )
    if shutil.which("git") is None:
        raise Fault(ExitCode.MISSING_PACKAGE, "apply.py needs git on the PATH: https://git-scm.com/downloads")


def say(text: str) -> None:
    """One message to stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; messages about faults go to stderr."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in ("-h", "--help"):
        _parser().print_help()
        return 0
    args = _parser().parse_args(_with_command(given))
    try:
        _require_packages()
        return _run(args, " ".join(["apply.py", *given]))
    except Fault as fault:
        say(f"error: {fault.message}")
        return int(fault.code)
    except KeyboardInterrupt:
        say("interrupted; run the same command again to finish or undo what was begun")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - keeps the interpreter from flushing a closed pipe
        return int(ExitCode.OK)
    except OSError as error:  # a full disk, a folder that vanished: anything not foreseen where it happens
        say(f"error: {error}; run the same command again to finish or undo what was begun")
        return int(ExitCode.FAILED)


def _run(args: argparse.Namespace, command: str) -> int:
    from . import commands
    from .gitio import sanitize_environment

    sanitize_environment()
    args.mirror = args.mirror or (Path(os.environ["PCPO_MIRROR"]) if os.environ.get("PCPO_MIRROR") else None)
    return commands.run(args, command, say)
