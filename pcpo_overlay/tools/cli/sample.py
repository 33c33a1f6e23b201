"""``sample``: pictures of a model, a checkpoint or a mix of both, for every prompt and seed."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.cli.arguments import at_least, number, seed
from pcpo_overlay.tools.faults import Stopped, printable
from pcpo_overlay.tools.progress import make_display

_DESCRIPTION = """\
Draw pictures of a base model, of a checkpoint of any trainer's (LoRA or whole
network; flow_grpo's are averaged weights where it trained with EMA), or of the
base model guided by checkpoints, for every prompt and seed. Writes OUT/sample.json
(all that decides what is drawn), OUT/manifest.jsonl (a line a picture) and
OUT/PROMPT/SEED.png. What is there is not drawn again: type it again to go on.
"""
_EPILOG = """\
Models: a pipeline's folder, its name on the hub, or miniature-sd, miniature-sd3,
miniature-flux, miniature-animals. Prompts: digits, figures (the paper's,
Appendix G), figure-13, ..., animals, activities, pickapic, ocr (of the upstreams'
clones), or a file: a prompt a line, JSON lines, COCO's captions, MJHQ-30K's
meta_data.json.

Several GPUs share the work, and so may machines with a folder in common:
  torchrun --nproc_per_node 8 -m pcpo_overlay sample ...

Exit codes: 0 the share of this process is drawn; 1 it could not be (a message
says why); 2 a wrong argument; 70 a fault of pcpo itself (the message names a file
with the traceback); 130 stopped by Ctrl-C (what is drawn stays).
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``sample`` subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "sample",
        help="draw pictures of a model, a checkpoint or a mix of both, for every prompt and seed",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what is drawn")
    what.add_argument("--model", required=True, metavar="MODEL", help="the base model")
    what.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="folder of a checkpoint, the file of its weights, or a run folder, whose last is taken",
    )
    what.add_argument(
        "--expert",
        type=expert,
        action="append",
        default=[],
        metavar="DIR=LAMBDA[@SCALE]",
        help="mix the base model with this checkpoint at every step: 0 is the base model, 1 the checkpoint; with "
        "@SCALE at a guidance scale of its own. May be given several times",
    )
    what.add_argument("--prompts", required=True, metavar="NAME|FILE", help="a name or a file, see below")
    what.add_argument(
        "--seeds",
        type=seeds,
        default=(0,),
        metavar="A-B,C,...",
        help="of every prompt's pictures, 0-1111 for one; or `each`: one picture a prompt, each with another seed, its "
        "number (default: 0)",
    )
    what.add_argument("--limit", type=at_least(1), metavar="N", help="take the first N prompts")
    what.add_argument(
        "--drop-long",
        action="store_true",
        help="leave out prompts that the model's tokenizer would cut: of CLIP those over 77 tokens, as the paper did",
    )
    what.add_argument("--vendor", type=Path, metavar="DIR", help="folder of clones, for their prompts")
    what.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    what.add_argument("--grid", action="store_true", help="write OUT/grid.png too: prompts by seeds")

    how = parser.add_argument_group("how (defaults: as the trainers evaluate the model)")
    how.add_argument("--steps", type=at_least(1, 1000), metavar="N", help="of the sampler")
    how.add_argument("--guidance", type=number, metavar="G", help="guidance scale")
    how.add_argument("--eta", type=number, metavar="A", help="noise of DDIM, SD 1.x alone (default: 1)")
    how.add_argument(
        "--shift",
        type=number,
        metavar="S",
        help="time shift of SD 3 and FLUX (default: the model's own; DanceGRPO trains FLUX at 3)",
    )
    how.add_argument(
        "--t5-length", type=at_least(1, 512), metavar="N", help="tokens of a prompt for T5, of SD 3 and FLUX"
    )
    how.add_argument("--size", type=size, metavar="N|HxW", help="pixels (default: the model's own)")
    how.add_argument(
        "--batch",
        type=at_least(1, 4096),
        default=1,
        metavar="N",
        help="pictures at a time (default: 1). More are faster on small models, and differ in the last bits with N",
    )
    how.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="(default: float32 on a CPU)"
    )
    how.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: this process's GPU, if any)")
    parser.set_defaults(func=run)


def expert(text: str) -> tuple[Path, float, float | None]:
    """``DIR=LAMBDA`` or ``DIR=LAMBDA@SCALE``."""
    path, equals, told = text.rpartition("=")
    strength, at, scale = told.partition("@")
    if not equals or not path:
        raise argparse.ArgumentTypeError(f"expected DIR=LAMBDA or DIR=LAMBDA@SCALE, got {text!r:.120}")
    return Path(path), number(strength), number(scale) if at else None


def seeds(text: str) -> tuple[int, ...] | None:
    """Seeds such as ``0-3,8``; None for ``each``."""
    if text == "each":
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low, high = seed(first), seed(last) if dash else seed(first)
        if high < low or high - low >= 10**7:
            raise argparse.ArgumentTypeError(f"{part!r:.40} is no range of seeds, lowest first")
        found += range(low, high + 1)
    return tuple(sorted(set(found)))


def size(text: str) -> int | tuple[int, int]:
    """``512`` or ``512x768``."""
    if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})?", text):
        raise argparse.ArgumentTypeError(
            f"expected pixels such as 512 or 512x768 (height first), got {text!r:.40}"
        )
    height, cross, width = text.partition("x")
    return (int(height), int(width)) if cross else int(height)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch

    from pcpo_overlay.tools.cli.ab import vendor_folder
    from pcpo_overlay.tools.faults import WrongArgument
    from pcpo_overlay.tools.sample import folder, prompts
    from pcpo_overlay.tools.sample.draw import Expert, Request, Share, draw
    from pcpo_overlay.tools.sample.families import OWN_SETTINGS

    quiet_libraries()
    try:
        device = torch.device(args.device) if args.device else None
    except RuntimeError:
        raise WrongArgument(f"--device {args.device!r:.40} is none that torch knows") from None
    if device is not None and device.type == "cuda" and not torch.cuda.is_available():
        raise WrongArgument(f"--device {args.device}: torch {torch.__version__} finds no GPU here")
    request = Request(
        model=args.model,
        prompts=prompts.load(args.prompts, args.vendor or vendor_folder()),
        seeds=args.seeds,
        checkpoint=args.checkpoint,
        experts=[Expert(*one) for one in args.expert],
        settings={name: getattr(args, name) for name in ("steps", "guidance", *OWN_SETTINGS)},
        size=args.size,
        drop_long=args.drop_long,
        limit=args.limit,
        batch=args.batch,
        device=device,
        dtype=None if args.dtype is None else getattr(torch, args.dtype),
    )
    share = Share.here()
    told = "" if share.of == 1 else f" (process {share.rank} of {share.of})"
    with make_display([f"{printable(args.out.name)}{told}"], None, "pictures", sys.stderr) as display:
        last = 0.0
        pause = 0.5 if sys.stderr.isatty() else 10.0

        def step(done: int, total: int, rate: str) -> None:
            nonlocal last
            if done == total or time.monotonic() - last >= pause:
                last = time.monotonic()
                display.step(0, done, total, rate)

        display.started(0)
        try:
            into, complete = draw(request, args.out, share, display.say, step)
        except KeyboardInterrupt:
            raise Stopped("stopped; what is drawn stays, type the same command again to go on") from None
        display.ended(0, "done" if complete else "its share is done")
    if complete and args.grid:
        from pcpo_overlay.tools.sample.sheet import sheet

        print(sheet([into], into.path / folder.GRID))
    print(into.path / folder.MANIFEST)
    return 0


def quiet_libraries() -> None:
    """No bars and notices of diffusers and transformers between the lines of a command."""
    try:
        import diffusers.utils.logging as of_diffusers
        import transformers.utils.logging as of_transformers
    except ImportError:
        return  # which the command will say
    for logging in (of_diffusers, of_transformers):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
