"""``evaluate``: draw from the checkpoints of a miniature's runs and measure what they draw."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.cli.arguments import at_least, seed
from pcpo_overlay.tools.faults import Fault, Stopped, complain, printable
from pcpo_overlay.tools.progress import make_display

_NAME = "pcpo evaluate"

_DESCRIPTION = """\
Draw images of a miniature's prompts, the ten digits or the 45 animals, from every
checkpoint that a run of it saved, and from the model it began as, and measure
them: the run's own reward, the share that the miniature's classifier reads as
prompted, how varied the images of a prompt are and how far from the base model's
(Fréchet distance), both in that classifier's features; of animals, in how many
styles they are. Writes RUN/evaluation.jsonl, a line per checkpoint, which report
reads. What is evaluated already with the same settings is not repeated.

Steps, guidance and eta or noise level are the run's own; the sampler is
upstream's native one for every mode, so that all arms are drawn in the same way.
It runs on the CPU in float32, whatever the run was trained in.
"""
_EPILOG = """\
Checkpoints are the training script's own; ab makes none unless asked:
  pcpo ab ddpo -- --config.save_freq=5 --config.num_checkpoint_limit=100
  pcpo ab flow_grpo -- --config.save_freq=5
Several of these commands may be at work at once on different runs.

Exit codes: 0 every checkpoint of every run is evaluated; 1 a run or a
checkpoint cannot be (a message says why; the others are), or a library is
missing; 2 a wrong argument; 70 a fault of pcpo itself (the message names a file
with the traceback); 130 stopped by Ctrl-C (what is written stays).
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``evaluate`` subcommand."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure what a miniature's checkpoints draw: accuracy, diversity, Fréchet distance",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder that holds several"
    )
    parser.add_argument(
        "--samples",
        type=at_least(2, 100_000),
        metavar="N",
        help="images of each prompt, at least 2 (default: 50 of each digit, 12 of each animal)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="S",
        help="of the noise, the same for every checkpoint (default: %(default)s)",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pcpo_overlay.tools.evaluate.run import Request, evaluate
    from pcpo_overlay.tools.runs.run import find

    folders, errors = find(args.runs)
    problems: list[object] = [*errors]
    for error in errors:
        complain(_NAME, error)
    _without_loading_bars()
    request = Request(args.samples, args.seed)
    with make_display([printable(folder.name) for folder in folders]) as display:
        for index, folder in enumerate(folders):
            found: list[Exception] = []
            display.started(index)
            try:
                found += evaluate(folder, request, display.say, partial(display.step, index))
            except (Fault, OSError) as error:
                found.append(error)
            except KeyboardInterrupt:
                raise Stopped(
                    "stopped; what is written stays, type the same command again to go on"
                ) from None
            for problem in found:
                complain(_NAME, problem)
            problems += found
    return 1 if problems else 0


def _without_loading_bars() -> None:
    """A pipeline is loaded per checkpoint, in a moment; diffusers would show a bar for each."""
    try:
        from diffusers.utils import logging
    except ImportError:
        return  # which the first run will say
    logging.disable_progress_bar()
