"""What the distances of the paper's Table 2 take: two sets of 50,040 pictures, 45 prompts with 1,112 each.

    python -m benchmarks.score_size [--pictures N] [--prompts P] [--features D]

The features are random numbers, made anew wherever a piece of them is read, so that what is measured is the arithmetic
and not the disk. Peak memory is that of a process of its own, less what it held when it began.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from torch import Tensor

from benchmarks.measuring import machine
from benchmarks.measuring.tables import mib
from benchmarks.tape_memory import _resident
from pcpo_overlay.tools.score.run import PIECE
from pcpo_overlay.tools.score.statistics import Gaussian, frechet


@dataclass(frozen=True)
class Measured:
    """The distance of two sets, how long it took, and by how many bytes the process grew; None where not told."""

    distance: float
    seconds: float
    peak: int | None


def features(count: int, width: int, seed: int) -> Callable[[], Iterator[Tensor]]:
    """Random features (count, width) float32, in pieces as `pcpo score` keeps them."""

    def pieces() -> Iterator[Tensor]:
        draw = torch.Generator().manual_seed(seed)
        scale = torch.rand(width, generator=torch.Generator().manual_seed(0)) + 0.1 * seed
        for first in range(0, count, PIECE):
            yield torch.randn(min(PIECE, count - first), width, generator=draw) * scale

    return pieces


def measure(count: int, width: int) -> Measured:
    """The distance of two sets; to be run in a process of its own."""
    before = _resident(start_anew=True)
    began = time.perf_counter()
    distance = frechet(*(Gaussian.of(features(count, width, seed)) for seed in (1, 2)))
    seconds = time.perf_counter() - began
    after = _resident()
    return Measured(distance, seconds, None if before is None or after is None else after - before)


def _parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What the distances of the paper's Table 2 take.")
    parser.add_argument("--pictures", type=int, default=50_040, metavar="N", help="of a set")
    parser.add_argument("--prompts", type=int, default=45, metavar="P", help="that share them evenly")
    parser.add_argument("--features", type=int, default=2048, metavar="D", help="of a picture")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    each = args.pictures // args.prompts
    print("| distance | pictures | features of a set | seconds | peak |")
    print("|---|---|---|---|---|")
    for name, count in (("over all", args.pictures), ("of one prompt", each)):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(measure, count, args.features).result()
        held = mib(4 * count * args.features)
        print(f"| {name} | {count} | {held} | {found.seconds:.1f} | {mib(found.peak)} |", flush=True)
    print(f"\n{machine.header(machine.describe(0))}")


if __name__ == "__main__":
    main()
