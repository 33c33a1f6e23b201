"""Numbers as the tables and figures print them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits, a dash for nothing."""
    return "-" if value is None else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """One decimal, as in the paper's tables; a dash for nothing."""
    return "-" if value is None else f"{value:.1f}%"


def reward(value: float | None, digits: int = 4) -> str:
    """Significant digits, trailing zeros kept so that a column lines up; a dash for nothing."""
    return "-" if value is None else f"{value:#.{digits}g}".rstrip(".")


def level_digits(comparison: dict[str, Any]) -> int:
    """How many significant digits it takes to tell the thresholds apart: 4, or up to 8 where they lie close."""
    levels = {level["reward"] for level in comparison["thresholds"]["levels"]}
    for digits in range(4, 8):
        if len({reward(level, digits) for level in levels}) == len(levels):
            return digits
    return 8


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """A Markdown table padded to be readable as plain text; the first ``left`` columns stand left, the rest right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    ruler = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = [cells[0], ruler, *cells[1:]]
    return "\n".join(
        "| "
        + " | ".join(
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )
