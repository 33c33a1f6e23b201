"""Types of the benchmarks' command-line arguments: what argparse does not have."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence


def one_of(choices: Sequence[str], what: str) -> Callable[[str], str]:
    """A name out of ``choices``, where argparse's own ``choices`` would refuse a list that was not given."""

    def named(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"no {what} {text}; there are {', '.join(choices)}")
        return text

    return named


def some_of(choices: Sequence[str], what: str) -> Callable[[str], list[str]]:
    """Names out of ``choices``, with commas between them."""
    named = one_of(choices, what)
    return lambda text: [named(name) for name in text.split(",")]
