"""The paper's Tables 2, 5 and 9, with a user's own numbers above the paper's, which are marked as the paper's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from pcpo_overlay.tools.report.text import table

YOURS, PAPERS = "yours", "the paper's"


@dataclass(frozen=True)
class Row:
    """A scored folder: its model and prompts, its arm's name, its numbers by metric, and of how many pictures."""

    setting: str
    method: str
    values: Mapping[str, float]
    is_base: bool
    pictures: int
    prompts: int


@cache
def _read() -> dict[str, Any]:
    file = resources.files("pcpo_overlay.tools.paper") / "tables.json"
    held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return held


def names() -> list[str]:
    """The numbers of the tables there are."""
    return list(_read())


def render(name: str, rows: Sequence[Row]) -> dict[str, str]:
    """One of the tables as Markdown, by its title.

    Args:
        name: of :func:`names`.
        rows: the user's; what a row was not scored by is a dash.
    """
    told = _read()[name]
    columns, digits = told["columns"], told["digits"]
    cells = [
        [YOURS, row.setting, row.method, *_told([row.values.get(key) for key in columns], digits)]
        for row in rows
    ]
    gains = told.get("gains", False)
    base = next((row for row in rows if row.is_base), None)
    for row in rows if gains and base is not None else ():
        if base is not None and not row.is_base:
            values = [_less(row.values.get(key), base.values.get(key)) for key in columns]
            cells.append([YOURS, row.setting, f"gains of {row.method}", *_told(values, digits, "+")])
    paper = told["rows"]
    for n, (setting, method, *values) in enumerate(paper):
        cells.append([PAPERS, setting, method, *_told(values, digits)])
        if gains and n % 2:
            less = [_less(value, before) for value, before in zip(values, paper[n - 1][2:], strict=True)]
            cells.append([PAPERS, setting, "gains", *_told(less, digits, "+")])
    made = table(["numbers", "setting", "method", *columns.values()], cells, left=3)
    notes = [
        f"The rows marked {PAPERS} are copied from Table {name} of the paper: {told['protocol']}. {told['note']}"
    ]
    other = {(row.pictures, row.prompts) for row in rows} - {(told["pictures"], told["prompts"])}
    if other:
        pictures, prompts = max(other)
        notes.append(
            f"**Not the paper's protocol:** yours are of {pictures:,} pictures of {prompts:,} prompts, the paper's of "
            f"{told['pictures']:,} of {told['prompts']:,}. Compare your rows with each other, not with the paper's."
        )
    missing = [key for key in columns if any(key not in row.values for row in rows)]
    if missing:
        notes.append(f"A dash: not scored; `pcpo score ... --metrics {','.join(missing)}` does it.")
    return {f"Table {name} of the paper: {told['title']}": "\n\n".join([made, *notes])}


def _told(values: Sequence[float | None], digits: Sequence[int], sign: str = "") -> list[str]:
    return ["-" if v is None else f"{v:{sign}.{d}f}" for v, d in zip(values, digits, strict=True)]


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
