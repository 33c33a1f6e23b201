"""``doctor``: why a ratio is not 1, where the credit goes, and what to type next, from one epoch."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.cli.arguments import split_at_dashes
from pcpo_overlay.tools.faults import WrongArgument
from pcpo_overlay.tools.folders import absolute

_DESCRIPTION = """\
One page on a training run: the on-policy ratio of every timestep, what is clipped
before anything was learned, native weights and where the credit goes, precision,
groups without spread, the memory that PCPO would take, and the line to type next.
Useful without PCPO, too.

After -- it takes your own launch line, runs it under PCPO=observe, which changes
nothing, until its first epoch is recorded, and stops it then. The script has to be
in a patched clone (pcpo apply). Or it takes the folder of a run that is there.
"""
_EPILOG = """\
  pcpo doctor -- accelerate launch scripts/train.py --config config/dgx.py:aesthetic
  pcpo doctor pcpo_runs/20261127T161000Z-ddpo-observe

Exit codes: 0 done; 1 there is no epoch to look at (a message says why); 2 a wrong
argument; 70 a fault of pcpo itself (the message names a file with the traceback);
130 stopped by Ctrl-C or a signal, and the launch line with it.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``doctor`` subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor",
        help="one epoch of your own launch line, and a page: why is my ratio not 1, where does the credit go",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] (RUN | -- LAUNCH LINE)",
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the run goes (default: pcpo_runs/<utc>-doctor)"
    )
    parser.add_argument("--json", action="store_true", help="the numbers in place of the page")
    split_at_dashes(parser, "line")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pcpo_overlay.tools.doctor.findings import examine
    from pcpo_overlay.tools.doctor.launch import LaunchLine, one_epoch
    from pcpo_overlay.tools.doctor.page import page
    from pcpo_overlay.tools.runs.run import load

    if (args.run is None) == (not args.line):
        raise WrongArgument("give a run folder, or a launch line after --")
    if args.run is not None:
        if args.out is not None:
            raise WrongArgument("--out is for a launch line; a run folder is only read")
        folder, command = args.run, None
    else:
        line = LaunchLine.of(args.line)
        now = datetime.datetime.now(datetime.timezone.utc)
        folder = absolute(args.out or Path("pcpo_runs") / f"{now:%Y%m%dT%H%M%SZ}-doctor")
        print(f"one epoch of: {line}\noutput in {folder}", file=sys.stderr, flush=True)
        one_epoch(line, folder, os.environ)
        command = str(line)
    found = examine(held := load(folder))
    if args.json:
        print(json.dumps(found.as_dict(), allow_nan=False))
        return 0
    print(page(found, command or _started_by(held.info)))
    return 0


def _started_by(info: dict[str, Any]) -> str:
    """What a run was started with, as far as its folder says: the script and its arguments, without the launcher."""
    starts = info.get("starts")
    held = starts[-1] if isinstance(starts, list) and starts and isinstance(starts[-1], dict) else info
    words = held.get("argv")
    if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
        words = ["it"]
    return f"before the line that launched {shlex.join(words)}"
