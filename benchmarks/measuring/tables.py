"""Results as they are printed and kept: a Markdown table, and plain values for ``--json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measuring.pairs import Ratio


@dataclass
class Section:
    """One table of a report, with what is to be said of it.

    Attributes:
        title: its heading.
        header: names of the columns.
        rows: one text a column.
        notes: lines below the table.
        missed: goals that were not reached, a line each.
        values: the same as plain values.
    """

    title: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)

    def markdown(self) -> str:
        """Heading, table and notes."""
        parts = [f"### {self.title}"]
        if self.rows:
            parts.append(table(self.header, self.rows))
        parts += self.notes
        parts += [f"**Goal missed:** {line}" for line in self.missed]
        return "\n\n".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"title": self.title, "rows": self.values, "notes": self.notes, "missed": self.missed}


def judge(section: Section, what: str, ratios: Mapping[str, Ratio], goals: Mapping[str, float]) -> None:
    """Hold ratios against their goals: a miss is a miss, a median above the goal that may be noise is a note."""
    for name, goal in goals.items():
        verdict = ratios[name].against(goal)
        said = f"{what}, `{name}`: {ratios[name]}, goal {goal:.2f}x"
        if verdict == "MISSED":
            section.missed.append(said)
        elif verdict != "met":
            section.notes.append(f"Above its goal, but within noise: {said}.")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Raises:
        ValueError: a row with more or fewer cells than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} cells in a table of {len(header)} columns: {row}")
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def mib(size: float | None) -> str:
    """Bytes for a table."""
    return "unknown" if size is None else f"{size / 2**20:.1f} MiB"


def seconds(value: float) -> str:
    """Seconds in the unit that reads best."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"
