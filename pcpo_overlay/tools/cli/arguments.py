"""Types of command-line arguments, and arguments, that several commands share."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def whole_number(text: str) -> int:
    """A whole number; a command that takes not every one says so itself."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r:.80}") from None


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number with a lower bound, and an upper one."""

    def counted(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected a whole number, {least} or more, got {text!r:.80}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"{text:.80} is too high; up to {most} it works")
        return value

    return counted


def number(text: str) -> float:
    """A number that is finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r:.80}")
    return value


#: A seed; NumPy takes no higher one, and every upstream seeds it.
seed = at_least(0, 2**32 - 1)


def seeds(text: str) -> list[int]:
    """Seeds with commas between them, each taken once."""
    return list(dict.fromkeys(map(seed, text.split(","))))


def thresholds(text: str) -> list[float]:
    """Numbers like ``0.5,0.6``, ascending."""
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 0.5,0.6") from None
    if not all(math.isfinite(level) for level in levels):
        raise argparse.ArgumentTypeError(f"{text!r} holds a number that is not finite")
    return sorted(set(levels))


def add_new_folder(parser: argparse.ArgumentParser) -> None:
    """``--out DIR``, which the command writes."""
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to write; not one that holds anything else",
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """``--weights NAME=PATH``, any number of times: pairs."""
    parser.add_argument(
        "--weights",
        type=_weights,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="where a scorer's weights lie: a path, or a name on the hub. May be given several times",
    )


def _weights(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError(f"expected NAME=PATH, got {text!r:.80}")
    return name, path


def split_at_dashes(parser: argparse.ArgumentParser, name: str) -> None:
    """Let the parser keep what follows ``--`` under a name.

    argparse cannot: a positional with any number of values is taken to be empty as soon as an option stands between
    it and the one before.
    """
    parse = parser.parse_known_args

    def split(
        args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        held = list(sys.argv[1:] if args is None else args)
        at = held.index("--") if "--" in held else len(held)
        parsed, extras = parse(held[:at], namespace)
        setattr(parsed, name, held[at + 1 :])
        return parsed, extras

    parser.parse_known_args = split  # type: ignore[method-assign, assignment]
