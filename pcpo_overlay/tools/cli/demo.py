"""``demo``: from nothing to a comparison of the baseline with PCPO, in one command."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcpo_overlay.tools.cli.arguments import at_least, seeds
from pcpo_overlay.tools.cli.parser import OneLineParser

if TYPE_CHECKING:
    from pcpo_overlay.tools.report.compare import Document
    from pcpo_overlay.tools.report.speed import Level

UPSTREAM = "ddpo-pytorch"
MODES = "observe,full"
SEEDS = (0, 1)


@dataclass(frozen=True)
class Demo:
    """What is trained.

    Attributes:
        out: where the runs and the report go, below ``pcpo_ab``.
        words: of `ab`, beside what every demo has.
        epochs: of each run.
        settings: of the training script.
        reward: what it is, for a reader.
        parameters: of the model, likewise.
    """

    out: str
    words: tuple[str, ...]
    epochs: int
    settings: tuple[str, ...]
    reward: str
    parameters: str


#: Without guidance there is something to learn, and nothing to compute twice.
_UNGUIDED = ("--config.sample.guidance_scale=1.0", "--config.train.cfg=False")
#: As benchmarks' study `ddpo-digit`.
DIGITS = Demo(
    "demo", (), 25, ("--config.sample.num_steps=10", "--config.reward_fn=digit_probability", *_UNGUIDED),
    "the probability of the prompted digit under a classifier", "0.7 million",
)  # fmt: skip
#: As `ddpo-animals-colour`, fewer epochs, and at the rate at which they suffice.
ANIMALS = Demo(
    "demo-animals", ("--config", "animals"), 6,
    ("--config.reward_fn=colourfulness", "--config.train.learning_rate=3e-4", *_UNGUIDED),
    "how colourful a picture is (Hasler and Süsstrunk)", "3.1 million",
)  # fmt: skip
#: Epochs of the report's moving average, and of the means shown here.
_LAST = 5

_DESCRIPTION = """\
Clone ddpo-pytorch at its pin, patch it, and train a miniature Stable Diffusion of
handwritten digits with its own script, as it is (the baseline) and with PCPO,
under the same seeds; then compare. It takes about four minutes on two cores and
needs no GPU and no download but the clone. With --animals the model draws 45
animals in colour, and is trained to draw colourfully: six minutes.
What is done is not repeated: type it again to go on after a stop.
"""
_EPILOG = """\
It is `pcpo apply ddpo-pytorch` and `pcpo ab ddpo --modes observe,full ...`; both are
printed in full.

Exit codes: 0 done; 1 a run failed or could not be started (a message says why);
2 a wrong argument; 3 to 16 there is no clone to train with, as `apply.py --help`
lists them; 70 a fault of pcpo itself (the message names a file with the
traceback); 130 stopped by Ctrl-C or a signal.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``demo`` subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="clone, patch, train baseline and PCPO on a miniature, compare: four minutes on two cores",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--animals", action="store_true", help="train the miniature that draws animals")
    parser.add_argument(
        "--epochs",
        type=at_least(1),
        metavar="N",
        help=f"of each run (default: {DIGITS.epochs}, of animals {ANIMALS.epochs})",
    )
    parser.add_argument(
        "--seeds", type=seeds, default=list(SEEDS), metavar="S,...", help="each runs both arms (default: 0,1)"
    )
    parser.add_argument(
        "--jobs", type=at_least(1), default=2, metavar="N", help="runs at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where the runs and the report go (default: pcpo_ab/{DIGITS.out}, or {ANIMALS.out})",
    )
    parser.add_argument(
        "--vendor", type=Path, metavar="DIR", help="folder of clones (default: apply.py's own, vendor)"
    )
    parser.add_argument(
        "--mirror", type=Path, metavar="DIR", help="clone from DIR/ddpo-pytorch (default: $PCPO_MIRROR)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pcpo_overlay.tools.cli import ab
    from pcpo_overlay.vendoring import cli as apply

    began = time.monotonic()
    ab.require_libraries()
    vendor = args.vendor or ab.vendor_folder()
    words = ["apply", UPSTREAM, "--dest", str(vendor)]
    words += ["--mirror", str(args.mirror)] if args.mirror else []
    _say(1, "clone and patch", words)
    code = apply.main(words)
    if code:
        return code

    shown = ANIMALS if args.animals else DIGITS
    words = [
        "ab", "ddpo", *shown.words, "--modes", MODES, "--epochs", str(args.epochs or shown.epochs),
        "--seeds", ",".join(map(str, args.seeds)), "--jobs", str(args.jobs), "--vendor", str(vendor),
        "--out", str(args.out or Path("pcpo_ab") / shown.out), "--", *shown.settings,
    ]  # fmt: skip
    _say(2, "train both arms and compare", words)
    parser = OneLineParser(prog="pcpo")
    ab.add_parser(parser.add_subparsers())
    compared = parser.parse_args(words)
    compared.tell = partial(tell, shown=shown)
    code = compared.func(compared)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return code


def _say(number: int, what: str, words: list[str]) -> None:
    print(f"\n{number}. {what}: {shlex.join(['pcpo', *words])}", flush=True)


def tell(document: Document, shown: Demo = DIGITS) -> None:
    """Print what the comparison comes to: a line an arm, and what not to conclude from it."""
    (comparison,) = document.comparisons
    for note in (*document.notes, *comparison.warnings):
        print(f"note: {note}")
    names = [arm.name for arm in comparison.arms]
    rewards = [arm.curves["reward_mean"].mean for arm in comparison.reward]
    reached = _reached(comparison.thresholds.levels)
    last = min(_LAST, *map(len, rewards))
    print(f"\n{'reward':10}{'first epoch':>14}{f'last {last}':>10}{reached.title:>20}".rstrip())
    for name, reward, epochs in zip(names, rewards, reached.epochs or [""] * len(names), strict=True):
        print(f"{name:10}{reward[0]:14.4f}{sum(reward[-last:]) / last:10.4f}{epochs:>20}".rstrip())
    count = len(comparison.arms[0].runs)
    print(
        f"\nThe reward is {shown.reward}, mean over {_seeds(count)}; it is\n"
        f"reached by a moving average of {document.window} epochs. A model of {shown.parameters} parameters and so\n"
        "few seeds show that it runs, not how well: docs/results/learning.md has five seeds, every\n"
        "mode, and what the images look like at the same reward."
    )


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


@dataclass(frozen=True)
class _Reached:
    """The column of epochs: its title, and each arm's cell; none where there is no level."""

    title: str = ""
    epochs: tuple[str, ...] = ()


def _reached(levels: Sequence[Level]) -> _Reached:
    """Of the highest reward that every arm reached; where there is none, of the lowest that was looked for."""
    from pcpo_overlay.tools.report.text import epochs

    by_all = [level for level in levels if all(arm.epochs.mean is not None for arm in level.arms)]
    level = by_all[-1] if by_all else next(iter(levels), None)
    if level is None:
        return _Reached()
    cells = tuple(epochs(arm.epochs.mean) for arm in level.arms)
    return _Reached(f"epochs to {level.reward:.3f}", cells)
