"""Numbers as the tables and figures print them."""

from __future__ import annotations

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
