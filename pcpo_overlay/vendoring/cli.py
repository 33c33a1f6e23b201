"""The command line of ``apply.py``."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from .errors import ExitCode, Fault, exit_code_table
from .home import DEST, INSTALL, LOCK, PROGRAM

NAME = PROGRAM.removeprefix("python ")
_COMMANDS = {
    "apply [NAME ...]": "clone at the pins and put the hooks in; running it again does nothing",
    "check [NAME ...]": "verify the lock, the patch files and the clones, changing nothing; for CI",
    "status [NAME ...]": "show what is where, changing nothing (--json)",
    "diff NAME": "show the hooks as a reviewer wants them, with upstream's lines around",
    "revert [NAME ...]": "take the hooks out; your edits to other files are kept",
    "refresh NAME": "fold hook lines edited in the clone back into the patch files and the lock",
    "update NAME --to SHA": "try a newer upstream commit by three-way merge, in a scratch place",
}
COMMANDS = tuple(usage.split()[0] for usage in _COMMANDS)
_TAKES_VALUE = ("--mirror", "--dest", "--lock", "--wait", "--into", "--why", "--until", "--to")
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
# Of the variables that steer git, those about the network and the user's configuration are the user's to set.
_KEPT = re.compile("GIT_(SSH|SSL|HTTP|PROXY|CURL|ASKPASS|EXEC_PATH|CONFIG_|ALLOW_PROTOCOL|PROTOCOL|PYTHON_)")
_CODES = f"exit codes:\n{exit_code_table()}"

_LIST = "\n".join(f"  {usage:<22}{about}" for usage, about in _COMMANDS.items())
_EPILOG = f"""\
commands (apply when none is given; NAME defaults to all upstreams of vendor.lock):
{_LIST}
`{PROGRAM} COMMAND --help` shows the options of one command.

{_CODES}
"""


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1e6:
        raise ValueError
    return value


def _parser() -> argparse.ArgumentParser:
    common, into = (argparse.ArgumentParser(add_help=False) for _ in range(2))
    words = "take upstreams from DIR/NAME or DIR/NAME.git, no network (default: $PCPO_MIRROR)"
    common.add_argument("--mirror", metavar="DIR", type=Path, help=words)
    words = f"where clones are (default: {DEST.name}/)"
    common.add_argument("--dest", metavar="DIR", type=Path, default=DEST, help=words)
    words = "lock file (default: vendor.lock)"
    common.add_argument("--lock", metavar="FILE", type=Path, default=LOCK, help=words)
    words = "how long to wait for another run (default: 120)"
    common.add_argument("--wait", metavar="SECONDS", type=_seconds, default=120.0, help=words)
    words = "work on a clone you already have, at whatever commit, instead of the one under --dest"
    into.add_argument("--into", type=Path, metavar="PATH", help=words)
    about = "Clone DDPO, DanceGRPO and Flow-GRPO at their pins and put PCPO's hooks in."
    text = argparse.RawDescriptionHelpFormatter
    usage = f"{NAME} [COMMAND] [NAME ...] [options]"
    parser = argparse.ArgumentParser(NAME, usage, about, epilog=_EPILOG, formatter_class=text)
    commands = parser.add_subparsers(dest="command", prog=NAME, metavar="COMMAND", help=argparse.SUPPRESS)
    subs: dict[str, argparse.ArgumentParser] = {}
    for usage, about in _COMMANDS.items():
        name = usage.split()[0]
        parents = [common] if name in ("refresh", "update") else [common, into]
        sub = commands.add_parser(name, parents=parents, epilog=_CODES, formatter_class=text)
        sub.description = f"{about[0].upper()}{about[1:]}."
        many = "*" if "[NAME ...]" in usage else 1
        sub.add_argument("names", nargs=many, metavar="NAME", help="upstreams, by their name in vendor.lock")
        subs[name] = sub
    subs["apply"].add_argument("--no-patch", action="store_true", help="clone at the pin only")
    subs["status"].add_argument("--json", action="store_true", help="one JSON array on stdout")
    words = "why a file with no patch yet gets one; goes into the new patch's header"
    subs["refresh"].add_argument("--why", action="append", default=[], metavar="[FILE=]TEXT", help=words)
    words = "when a new patch may go; goes into its header"
    subs["refresh"].add_argument("--until", metavar="TEXT", help=words)
    words = "the other way round: take the patch files as they are, and write sha256 and tree to the lock"
    subs["refresh"].add_argument("--from-patches", action="store_true", help=words)
    subs["update"].add_argument("--to", required=True, metavar="SHA", help="the commit to try")
    words = "if it is clean, write the new patches and lock entry"
    subs["update"].add_argument("--write", action="store_true", help=words)
    words = "with --write: leave out hooks that conflict, to be put in by hand and folded in with refresh"
    subs["update"].add_argument("--leave-out", action="store_true", help=words)
    return parser


def _with_command(argv: Sequence[str]) -> list[str]:
    """``argv`` with the command in front; ``apply`` if it names none."""
    for n, word in enumerate(argv):
        if word.startswith("-") or (n and argv[n - 1] in _TAKES_VALUE):
            continue
        return [word, *argv[:n], *argv[n + 1 :]] if word in COMMANDS else ["apply", *argv]
    return ["apply", *argv]


def _require_packages() -> None:
    needed = {"git": "GitPython", "filelock": "filelock", "rich": "rich"}
    needed |= {"tomli": "tomli"} if sys.version_info < (3, 11) else {}
    missing = [shown for module, shown in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ExitCode.MISSING_PACKAGE.fault(f"{NAME} needs {', '.join(missing)}: {INSTALL}")
    try:
        import git  # noqa: F401 - it runs git once, to see whether it can
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        message = f"{NAME} needs a git that runs; GitPython says: {words}"
        raise ExitCode.MISSING_PACKAGE.fault(message) from None


def sanitize_environment() -> None:
    """Drop variables left over from an enclosing git (a hook, ``git -c``, a rebase)."""
    env = os.environ
    for name in [name for name in env if name.startswith("GIT_") and not _KEPT.match(name)]:
        del env[name]
    count = env.get("GIT_CONFIG_COUNT", "0")
    pairs = range(int(count)) if re.fullmatch(r"[0-9]{1,4}", count) else None
    if pairs is None or any(f"GIT_CONFIG_{part}_{n}" not in env for n in pairs for part in ("KEY", "VALUE")):
        env.pop("GIT_CONFIG_COUNT", None)  # git itself would refuse to run


def say(text: str) -> None:
    """One message to stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; messages about faults go to stderr."""
    given = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what the terminal's encoding does not
            stream.reconfigure(errors="backslashreplace")
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

        if args.mirror is None and os.environ.get("PCPO_MIRROR"):
            args.mirror = Path(os.environ["PCPO_MIRROR"])
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
        return int(ExitCode.UNWRITABLE if error.errno in _UNWRITABLE else ExitCode.FAILED)
