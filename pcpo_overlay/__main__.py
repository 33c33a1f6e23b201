"""Command line: ``python -m pcpo_overlay COMMAND`` or ``pcpo COMMAND``.

Exit codes: 0 done, 1 the command ran and failed (its message says what), 2 a wrong argument.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from pcpo_overlay.tools.cli.parser import OneLineParser

COMMANDS = ("demo", "weights", "ab", "evaluate", "report", "experiments", "embed", "miniature")


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand; building it imports no library beyond the standard one and torch."""
    parser = OneLineParser(
        prog="pcpo",
        description="Proportionate Credit Policy Optimization over DDPO, DanceGRPO and Flow-GRPO.",
        epilog="Exit codes: 0 done; 1 the command ran and failed; 2 a wrong argument.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"pcpo_overlay.tools.cli.{name}").add_parser(subparsers)
    subparsers.add_parser("apply", help="clone the upstreams and put the hooks in; see pcpo apply --help")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["apply"]:  # the same program as apply.py, which has a parser and exit codes of its own
        from pcpo_overlay.vendoring.cli import main as apply

        return apply(given[1:])
    args = build_parser().parse_args(given)
    try:
        code: int = args.func(args)
    except BrokenPipeError:  # `pcpo weights ddim | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    raise SystemExit(main())
