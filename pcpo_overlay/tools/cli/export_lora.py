"""``export-lora``: a trainer's LoRA checkpoint as the file that diffusers' own ``load_lora_weights`` takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.cli.arguments import add_new_folder

_DESCRIPTION = """\
Write a LoRA checkpoint of any trainer's as OUT/pytorch_lora_weights.safetensors,
which diffusers' own load_lora_weights takes, and a model card beside it, from the
run folder that the checkpoint lies in.
"""
_EPILOG = """\
Exit codes: 0 done; 1 it could not be done (a message says why); 2 a wrong
argument.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``export-lora`` subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export-lora",
        help="a LoRA checkpoint as the file that diffusers' load_lora_weights takes, with a model card",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="its folder, the file of its weights, or a run folder",
    )
    add_new_folder(parser)
    parser.add_argument(
        "--run", type=Path, metavar="RUN", help="its run folder (default: the one it lies in)"
    )
    parser.add_argument(
        "--base-model",
        metavar="NAME",
        help="the base model's name on the hub, for the card (default: as the run names it)",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pcpo_overlay.tools.checkpoints.export import export, run_of
    from pcpo_overlay.tools.checkpoints.found import named
    from pcpo_overlay.tools.runs.run import load

    checkpoint = named(args.checkpoint)
    of = run_of(checkpoint) if args.run is None else load(args.run)
    print(export(checkpoint, args.out, of, args.base_model))
    return 0
