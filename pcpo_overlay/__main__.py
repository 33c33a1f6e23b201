"""Command line: ``python -m pcpo_overlay COMMAND`` or ``pcpo COMMAND``.

Exit codes: 0 done, 1 the command ran and failed (one line on stderr says what), 2 a wrong argument, 70 a fault of the
command itself (the line names a file with the traceback), 130 stopped by Ctrl-C or a signal.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence

from pcpo_overlay.tools.cli.parser import OneLineParser
from pcpo_overlay.tools.faults import guarded

COMMANDS = (
    "demo",
    "doctor",
    "weights",
    "ab",
    "evaluate",
    "report",
    "sample",
    "grid",
    "score",
    "reward",
    "export-lora",
    "study",
    "experiments",
    "embed",
    "serve",
    "miniature",
)


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand; building it imports no library beyond the standard one and torch."""
    parser = OneLineParser(
        prog="pcpo",
        description="Proportionate Credit Policy Optimization over DDPO, DanceGRPO and Flow-GRPO.",
        epilog="Exit codes: 0 done; 1 the command ran and failed; 2 a wrong argument; 70 a fault of pcpo itself, whose "
        "traceback is in a file that the message names; 130 stopped by Ctrl-C or a signal.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"pcpo_overlay.tools.cli.{name.replace('-', '_')}").add_parser(subparsers)
    subparsers.add_parser("apply", help="clone the upstreams and put the hooks in; see pcpo apply --help")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name of any bytes can be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["apply"]:  # the same program as apply.py, which has a parser and exit codes of its own
        from pcpo_overlay.vendoring.cli import main as apply

        return apply(words[1:])
    return guarded("pcpo", lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    parser = build_parser()
    if any("\0" in word for word in words):
        parser.error("an argument holds a NUL character, which no name and no number has")
    args = parser.parse_args(words)
    return guarded(f"pcpo {args.command}", lambda: int(args.func(args)))


if __name__ == "__main__":
    raise SystemExit(main())
