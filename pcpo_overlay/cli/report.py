"""``report``: compare run folders and write figures, tables and numbers."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``report`` subcommand."""
    parser = subparsers.add_parser("report", help="compare run folders: figures, Markdown and JSON")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, or a folder holding several")
    parser.add_argument("--out", default="pcpo_report", metavar="DIR", help="where to write (default: %(default)s)")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    raise SystemExit("pcpo report: not available in this revision")
