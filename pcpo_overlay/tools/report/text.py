"""Numbers as the tables and figures print them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pcpo_overlay.tools.report.stats import Estimate, Interval


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits, a dash for nothing."""
    return "-" if value is None else f"{value:.{digits}g}"


def signed(value: float | None) -> str:
    """With its sign, a dash for nothing."""
    return "-" if value is None else f"{value:+.4g}"


def percent(value: float | None) -> str:
    """One decimal, as in the paper's tables; a dash for nothing."""
    return "-" if value is None else f"{value:.1f}%"


def reward(value: float | None, digits: int = 4) -> str:
    """Significant digits, trailing zeros kept so that a column lines up; a dash for nothing."""
    return "-" if value is None else f"{value:#.{digits}g}".rstrip(".")


def epochs(value: float | None) -> str:
    """A count of epochs, whole or interpolated."""
    return "never" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def or_dash(value: object) -> str:
    """A dash for nothing."""
    return "-" if value is None else str(value)


def bracketed(held: Interval | None, shown: Callable[[Any], str]) -> str:
    """An interval as the tables print it; nothing for none."""
    return "" if held is None else f" [{shown(held.low)}, {shown(held.high)}]"


def estimated(held: Estimate, shown: Callable[[Any], str] = number) -> str:
    """A mean and its ends, where it has any."""
    return shown(held.mean) + ("" if held.low is None else f" [{shown(held.low)}, {shown(held.high)}]")


def over_seeds(held: Estimate, seeds: int, shown: Callable[[Any], str]) -> str:
    """:func:`estimated`, without the ends where there is one seed."""
    return estimated(held if seeds > 1 else Estimate(held.mean), shown)


def digits_apart(levels: Iterable[float]) -> int:
    """How many significant digits it takes to tell rewards apart: 4, or up to 8 where they lie close."""
    distinct = set(levels)
    for digits in range(4, 8):
        if len({reward(level, digits) for level in distinct}) == len(distinct):
            return digits
    return 8


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """A Markdown table padded to be readable as plain text; the first ``left`` columns stand left, the rest right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    ruler = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def padded(row: Sequence[str]) -> str:
        wide = enumerate(zip(row, widths, strict=True))
        return f"| {' | '.join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in wide)} |"

    return "\n".join(map(padded, [cells[0], ruler, *cells[1:]]))


def of_arms(names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> str:
    """A table of arms down, by the heads of the columns."""
    rows = zip(names, *columns.values(), strict=True)
    return table(["arm", *columns], list(rows), left=1)


def speedups(
    first: str, names: Sequence[str], baseline: int, rows: Iterable[tuple[str, Sequence[tuple[str, str]]]]
) -> str:
    """Levels of reward down, under ``first``, arms across: of each its epochs, and its speed-up but for the baseline's.

    ``rows`` are a level, and each arm's epochs and speed-up there; ``baseline`` is its place among the arms.
    """

    def across(pairs: Iterable[tuple[str, str]]) -> list[str]:
        return [cell for n, pair in enumerate(pairs) for cell in (pair[:1] if n == baseline else pair)]

    head = [first, *across((name, "speed-up") for name in names)]
    return table(head, [[level, *across(pairs)] for level, pairs in rows])


def quoted(kind: str, texts: Sequence[str]) -> list[str]:
    """One Markdown quotation of several paragraphs, and the empty line after it; nothing for no text."""
    return ["\n>\n".join(f"> **{kind}:** {text}" for text in texts), ""] if texts else []
