"""Types of command-line arguments that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

#: NumPy takes no higher seed, and every upstream seeds it.
_HIGHEST_SEED = 2**32 - 1


def whole_number(text: str) -> int:
    """A whole number; a command that takes not every one says so itself."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def at_least(least: int) -> Callable[[str], int]:
    """A whole number with a lower bound."""

    def counted(text: str) -> int:
        try:
            if (number := int(text)) >= least:
                return number
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected a whole number, {least} or more, got {text!r}")

    return counted


def seeds(text: str) -> list[int]:
    """Seeds with commas between them, each taken once."""
    numbers = dict.fromkeys(at_least(0)(word) for word in text.split(","))
    if max(numbers) > _HIGHEST_SEED:
        raise argparse.ArgumentTypeError(
            f"{max(numbers)} is too high for NumPy; up to {_HIGHEST_SEED} it works"
        )
    return list(numbers)


def thresholds(text: str) -> list[float]:
    """Numbers like ``0.5,0.6``, ascending."""
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 0.5,0.6") from None
    if not all(math.isfinite(level) for level in levels):
        raise argparse.ArgumentTypeError(f"{text!r} holds a number that is not finite")
    return sorted(set(levels))
