"""``reward``: a folder in which DanceGRPO's trainers train on one of the scores of ``pcpo score``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.cli.arguments import add_new_folder, add_weights
from pcpo_overlay.tools.faults import WrongArgument

_DESCRIPTION = """\
Write a folder in which DanceGRPO's trainers, as upstream wrote them, train on one
of the scores of `pcpo score`. They take the reward for HPSv2. The other two
upstreams take a reward by name, through a config file: see docs/rewards.md.
"""
_EPILOG = """\
For example, from the folder that holds vendor/:
  pcpo reward pickscore --prompts prompts.txt --out work
  cd work && PYTHONPATH=. torchrun --nproc_per_node=8 fastvideo/train_grpo_sd.py \\
    --config fastvideo/config_sd/dgx.py:hpsv2

Exit codes: 0 done; 1 weights or the clone are missing, or the folder is not this
command's to write (a message says why); 2 a wrong argument.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``reward`` subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "reward",
        help="a folder in which DanceGRPO's trainers train on a score of pcpo score",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("reward", metavar="NAME", help="of the metrics of `pcpo score`, one of a picture")
    add_new_folder(parser)
    add_weights(parser)
    parser.add_argument("--clone", type=Path, metavar="DIR", help="of DanceGRPO (default: vendor/DanceGRPO)")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="what the SD trainer trains: a folder, a name on the hub, or miniature-sd (default: what the clone has)",
    )
    parser.add_argument(
        "--prompts",
        metavar="NAME|FILE",
        help="of the SD trainer, as `pcpo sample` takes them (default: what the clone has)",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pcpo_overlay.tools import models
    from pcpo_overlay.tools.cli.ab import vendor_folder
    from pcpo_overlay.tools.rewards.dancegrpo import prepare
    from pcpo_overlay.tools.rewards.scored import REWARDS
    from pcpo_overlay.tools.sample import prompts

    if args.reward not in REWARDS:
        raise WrongArgument(f"no reward {args.reward!r:.40}; there are {', '.join(REWARDS)}")
    clone = args.clone or vendor_folder() / "DanceGRPO"
    texts = prompts.load(args.prompts, clone.parent).texts if args.prompts else ()
    model = models.find(args.model) if args.model else None
    if model is not None:
        models.read_index(model, "StableDiffusionPipeline")
    print(prepare(args.out, clone, args.reward, dict(args.weights), model, texts))
    return 0
