"""``grid``: a contact sheet of folders that ``sample`` drew."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.cli.arguments import at_least
from pcpo_overlay.tools.cli.sample import seeds
from pcpo_overlay.tools.faults import WrongArgument

_DESCRIPTION = """\
Write a contact sheet of folders that `pcpo sample` drew: rows are prompts, columns
the seeds of one folder, or several arms at the same prompt and seed.
"""
_EPILOG = """\
Exit codes: 0 done; 1 a folder cannot be read, or they have no picture in common;
2 a wrong argument.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``grid`` subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "grid",
        help="a contact sheet of sampled folders: prompts by seeds, or prompts by arms",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of `pcpo sample`")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="PNG file to write")
    parser.add_argument("--labels", metavar="A,B,...", help="of the arms (default: the folders' names)")
    parser.add_argument("--rows", type=at_least(1), default=12, metavar="N", help="prompts (default: 12)")
    parser.add_argument(
        "--seeds",
        type=seeds,
        metavar="A-B,C,...",
        help="(default: the first eight; of several arms the first)",
    )
    parser.add_argument("--cell", type=at_least(8, 4096), metavar="N", help="pixels of a picture's side")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pcpo_overlay.tools.sample.folder import load
    from pcpo_overlay.tools.sample.sheet import sheet

    labels = args.labels.split(",") if args.labels else None
    if labels and len(labels) != len(args.folders):
        raise WrongArgument(f"{len(labels)} labels for {len(args.folders)} folders")
    if labels and len(args.folders) == 1:
        raise WrongArgument("--labels name arms, and there is one; its columns are seeds")
    print(
        sheet(
            [load(path) for path in args.folders],
            args.out,
            labels=labels,
            rows=args.rows,
            seeds=args.seeds,
            cell=args.cell,
        )
    )
    return 0
