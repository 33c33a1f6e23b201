"""Numbers as the tables and figures print them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pcpo_overlay.tools.report.stats import Estimate

#: How a number is printed.
Told = Callable[[float | None], str]


def spelled(form: str, unit: float = 1) -> Told:
    """Prints a number as ``str.format`` does, in a unit, a dash for nothing; of an absurd one not every digit."""
    return lambda value: "-" if value is None else form.format(value / unit)[:24]


#: With four significant digits, with three, with its sign, and with one decimal, as in the paper's tables.
number, three, signed, percent = map(spelled, ("{:.4g}", "{:.3g}", "{:+.4g}", "{:.1f}%"))


def reward(value: float | None, digits: int = 4) -> str:
    """Significant digits, trailing zeros kept so that a column lines up; a dash for nothing."""
    return "-" if value is None else f"{value:#.{digits}g}".rstrip(".")


def epochs(value: float | None) -> str:
    """A count of epochs, whole or interpolated."""
    return "never" if value is None else f"{value:.4g}" if value % 1 else f"{value:.0f}"


def or_dash(value: object) -> str:
    """A dash for nothing."""
    return "-" if value is None else str(value)


def estimated(held: Estimate, shown: Told = number) -> str:
    """A mean and its ends, where it has any."""
    return shown(held.mean) + ("" if held.low is None else f" [{shown(held.low)}, {shown(held.high)}]")


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


def of_arms(names: Sequence[str], columns: Iterable[Sequence[str]]) -> str:
    """A table of arms down; a column is its head and a cell an arm. Heads may repeat."""
    head, *rows = zip(["arm", *names], *columns, strict=True)
    return table(head, rows, left=1)


def quoted(kind: str, texts: Sequence[str]) -> list[str]:
    """One Markdown quotation of several paragraphs, and the empty line after it; nothing for no text."""
    return ["\n>\n".join(f"> **{kind}:** {text}" for text in texts), ""] if texts else []
