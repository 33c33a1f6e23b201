"""``ab``: train an upstream once per mode and seed through its own launch path, then report."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``ab`` subcommand."""
    parser = subparsers.add_parser("ab", help="baseline against PCPO on an upstream's own training script")
    parser.add_argument("upstream", choices=["ddpo"], help="the upstream to run")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    raise SystemExit("pcpo ab: not available in this revision")
