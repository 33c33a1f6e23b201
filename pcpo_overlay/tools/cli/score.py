"""``score``: quality and preference scores of folders that ``sample`` drew."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.cli.arguments import add_weights, at_least
from pcpo_overlay.tools.faults import Stopped, WrongArgument, printable
from pcpo_overlay.tools.progress import make_display

METRICS = (
    "clipscore, pickscore, hpsv2, hpsv2.1, imagereward, aesthetic, ocr, digit, "
    "fid, is, fd-dinov2, fd-digit, lpips"
)

_DESCRIPTION = """\
Score folders that `pcpo sample` drew: each picture (DIR/scores.jsonl, a line a
picture) and each set, over all and by prompt (DIR/sets.jsonl, a line a metric, with
the weights' sha256, the preprocessing and the versions). Each scorer is loaded once
for all folders. What is scored already is not repeated.
"""
_EPILOG = """\
Metrics: clipscore, pickscore, hpsv2, hpsv2.1, imagereward, aesthetic, ocr, digit,
fid, is, fd-dinov2, fd-digit, lpips.
Distances (fid, fd-dinov2, fd-digit) are to the base model's folder, drawn at the
same prompts and as many seeds: --reference. digit and fd-digit read the digits of
the miniatures, whose classifier ships with them.

Exit codes: 0 done; 1 weights are missing or a folder cannot be scored (a message
says which file, how large it is and where it comes from); 2 a wrong argument; 70 a
fault of pcpo itself (the message names a file with the traceback); 130 stopped by
Ctrl-C (what is scored stays).
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``score`` subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "score",
        help="FID, FD-DINOv2, IS, LPIPS, CLIPScore, PickScore, HPSv2, ImageReward, OCR, ...: of sampled folders",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of `pcpo sample`")
    parser.add_argument(
        "--metrics", type=metrics, required=True, metavar="A,B,...", help="see below; with commas"
    )
    parser.add_argument("--reference", type=Path, metavar="DIR", help="the base model's folder")
    add_weights(parser)
    parser.add_argument(
        "--splits", type=at_least(1), default=10, metavar="N", help="of the Inception Score (default: 10)"
    )
    parser.add_argument(
        "--pairs",
        type=at_least(1),
        default=1000,
        metavar="N",
        help="of one prompt's pictures that LPIPS compares, at most (default: 1000)",
    )
    parser.add_argument(
        "--batch", type=at_least(1, 4096), default=32, metavar="N", help="pictures at a time (default: 32)"
    )
    parser.add_argument("--device", metavar="NAME", help="(default: the GPU, if there is one)")
    parser.set_defaults(func=run)


def metrics(text: str) -> list[str]:
    """Metrics with commas between them, each taken once."""
    known, named = METRICS.split(", "), list(dict.fromkeys(text.split(",")))
    for name in named:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no metric {name!r:.40}; there are {METRICS}")
    return named


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch

    from pcpo_overlay.tools.cli.sample import quiet_libraries
    from pcpo_overlay.tools.sample.folder import load
    from pcpo_overlay.tools.score.run import COMPARED, Request, score
    from pcpo_overlay.tools.score.scorers import WEIGHTS

    given = dict(args.weights)
    for name in given:
        if name not in WEIGHTS:
            raise WrongArgument(f"no weights {name!r:.40}; there are {', '.join(WEIGHTS)}")
    if args.reference is not None and not set(args.metrics) & set(COMPARED):
        raise WrongArgument(f"--reference is for {', '.join(COMPARED)}, and none of them is asked for")
    try:
        device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise WrongArgument(f"--device {args.device!r:.40} is none that torch knows") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise WrongArgument(f"--device {args.device}: torch {torch.__version__} finds no GPU here")
    quiet_libraries()
    folders = [load(path) for path in args.folders]
    reference = None if args.reference is None else load(args.reference)
    request = Request(args.metrics, given, device, args.batch, args.splits, args.pairs)
    names = [printable(folder.name) for folder in folders] + (["reference"] if reference else [])
    with make_display(names, None, "scored", sys.stderr) as display:
        last = 0.0
        pause = 0.5 if sys.stderr.isatty() else 10.0

        def step(index: int, done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last >= pause:
                last = time.monotonic()
                display.step(index, done, total)

        for index in range(len(names)):
            display.started(index)
        try:
            score(folders, reference, request, print, step)
        except KeyboardInterrupt:
            raise Stopped("stopped; what is scored stays, type the same command again to go on") from None
    return 0
