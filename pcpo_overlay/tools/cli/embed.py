"""``embed``: prompts to the embeddings that DanceGRPO's FLUX trainers read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.cli.arguments import add_new_folder, at_least
from pcpo_overlay.tools.progress import bar

_DESCRIPTION = """\
Write what DanceGRPO's FLUX trainers read of prompts: their embeddings by the
model's own text encoders, and the list that --data_json_path names. Does what
upstream's scripts/preprocess/preprocess_flux_rl_embeddings.sh does, without its
need of a GPU and of a prompts file that a clone may lack.
"""
_EPILOG = """\
For example, in a clone of DanceGRPO with the model in data/flux:
  pcpo embed flux --model data/flux --prompts assets/prompts.txt --out data/rl_embeddings

Exit codes: 0 done; 1 it could not be done (a message says why); 2 a wrong
argument.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``embed`` subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "embed",
        help="prompts to the embeddings that DanceGRPO's FLUX trainers read",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model_type", choices=("flux",), help="the model's kind")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder of the pipeline")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="prompts, one a line")
    add_new_folder(parser)
    parser.add_argument(
        "--max-length",
        type=at_least(1),
        default=512,
        metavar="N",
        help="tokens of a prompt for T5 (default: 512)",
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="(default: bfloat16, as upstream)",
    )
    parser.add_argument("--device", help="where the text encoders run (default: cuda where there is one)")
    parser.add_argument(
        "--batch", type=at_least(1), default=16, metavar="N", help="prompts at a time (default: 16)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch

    from pcpo_overlay.tools.embeddings import read_prompts, write_flux_embeddings

    prompts = read_prompts(args.prompts)
    with bar("embedding", len(prompts), "prompts") as report:
        written = write_flux_embeddings(
            args.model,
            prompts,
            args.out,
            max_length=args.max_length,
            device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
            dtype=getattr(torch, args.dtype),
            batch=args.batch,
            report=report,
        )
    print(written)
    return 0
