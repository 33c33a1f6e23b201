"""Experiments as text that is a shell script, everything but the commands being comments, and as plain values."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from pcpo_overlay.tools.paper.batches import on_gpus
from pcpo_overlay.tools.paper.commands import Arm, Change, Experiment, as_word
from pcpo_overlay.tools.paper.table import BOUND, ELSEWHERE, EMPTY, PLACED, ROWS, Cell

WIDTH = 112

_INTRO = (
    "The paper's configurations (Table 7) as commands of the upstreams at their pins. Every line that is no "
    "command begins with #, so what follows can be pasted, or saved as a script, in the folder that holds vendor/ "
    "(python apply.py makes it).",
    "PCPO=observe is the baseline: upstream bit for bit, with its metrics recorded. Each run leaves a folder in "
    "pcpo_runs/ of the clone; python -m pcpo_overlay report RUN RUN compares two.",
    "Where the text of the paper lost a value, none is made up: upstream's own stays. B.1 says that all "
    "hyperparameters follow the original code but the learning rate and DDPO's LoRA.",
)
_MARKS = {PLACED: "column inferred", ELSEWHERE: "said elsewhere", BOUND: "at least"}
_BATCH = {
    "prompts_per_iteration": "prompts",
    "images_per_prompt": None,
    "images_per_iteration": "images",
    "updates": "updates",
}


def render(experiments: Iterable[Experiment]) -> str:
    """All of them, after a few words on what they have in common."""
    lines = [line for paragraph in _INTRO for line in _comment(paragraph)]
    for experiment in experiments:
        lines += ["", *_render(experiment)]
    return "\n".join(lines)


def as_dict(experiment: Experiment) -> dict[str, Any]:
    """One of them as plain values."""
    paper, recipe, batch = experiment.paper, experiment.recipe, experiment.batch
    cells = {}
    for row, cell in paper.cells.items():
        knob = recipe.knobs.get(row)
        cells[row] = {
            "value": list(cell.value) if isinstance(cell.value, tuple) else cell.value,
            "origin": cell.origin,
            "why": cell.why,
            "flag": knob.flag or None if knob else None,
            "upstream": knob.own if knob else None,
        }
    return {
        "configuration": paper.number,
        "description": paper.description,
        "figures": paper.figures,
        "tables": paper.tables,
        "hardware": paper.hardware,
        "paper_gpus": paper.gpus,
        "paper": cells,
        "gpus": experiment.gpus,
        "upstream": recipe.clone,
        "trainer": recipe.trainer,
        "origin": recipe.origin,
        "directory": f"vendor/{recipe.clone}",
        "batch": {
            "images": batch.images,
            "updates": batch.updates,
            "prompts": batch.prompts,
            "images_from": batch.images_from,
            "updates_from": batch.updates_from,
        },
        "changes": [_change(change) for change in experiment.changes],
        "prepare": list(recipe.prepare),
        "arms": [
            {
                "name": arm.name,
                "told": arm.told,
                "environment": {"PCPO": arm.pcpo},
                "command": experiment.command(arm),
                "changes": [_change(change) for change in arm.changes],
                "afterwards": experiment.afterwards(arm),
            }
            for arm in experiment.arms
        ],
        "obstacles": list(experiment.obstacles),
        "notes": list(experiment.notes),
    }


def _change(change: Change) -> dict[str, str]:
    return {"flag": change.flag, "value": change.value, "upstream": change.own, "why": change.why}


def _comment(text: str, first: str = "# ", rest: str = "# ") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _item(text: str) -> list[str]:
    return _comment(text, "# - ", "#   ")


def _render(experiment: Experiment) -> Iterator[str]:
    paper, recipe, batch = experiment.paper, experiment.recipe, experiment.batch
    title = f"==== Configuration {paper.number}: {paper.description} "
    yield "# " + title.ljust(WIDTH - 2, "=")
    yield f"# figures: {paper.figures}; tables: {paper.tables}"
    yield f"# the paper's hardware: {paper.hardware}"
    yield "#"
    yield from _table(experiment)
    yield from _readings(experiment)
    yield "#"
    yield f"# One iteration here, as in Table 7: {batch.images_from} images,"
    yield f"# {batch.updates_from} updates"
    yield "#"
    yield f"# {recipe.clone}'s own: {recipe.origin}. {'Changed' if experiment.arms else 'It would take'}:"
    told = list(experiment.changes)
    for arm in experiment.arms:
        told += [change for change in arm.changes if change.flag not in {t.flag for t in told}]
    for change in told:
        yield from _item(f"{change.flag} {change.value}, upstream's own {change.own} ({change.why})")
    if experiment.obstacles:
        yield "#"
        yield "# NO COMMAND: upstream as it is cannot run this configuration."
        for obstacle in experiment.obstacles:
            yield from _item(obstacle)
    if experiment.notes:
        yield "#"
        yield "# To know:"
        for note in experiment.notes:
            yield from _item(note)
    if experiment.arms:
        yield f"cd vendor/{recipe.clone}"
        yield from recipe.prepare
        for arm in experiment.arms:
            yield f"# {arm.told}"
            yield from shell(experiment, arm)
            yield from experiment.afterwards(arm)
        yield "cd ../.."


def _table(experiment: Experiment) -> Iterator[str]:
    """Three columns: the row, what the paper says, what upstream at the pin has of its own and where."""
    rows = [("", "the paper", f"{experiment.recipe.clone}'s own")]
    for row, name in ROWS.items():
        cell = experiment.paper.cells[row]
        rows.append((name, _paper(cell), _upstream(experiment, row)))
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    for name, paper, own in rows:
        yield f"#   {name.ljust(widths[0])}  {paper.ljust(widths[1])}  {own}".rstrip()


def _paper(cell: Cell) -> str:
    if cell.value is None:
        return "(empty)" if cell.origin == EMPTY else cell.origin
    value = f"({', '.join(map(str, cell.value))})" if isinstance(cell.value, tuple) else as_word(cell.value)
    return f"{value} ({_MARKS[cell.origin]})" if cell.origin in _MARKS else value


def _upstream(experiment: Experiment, row: str) -> str:
    recipe = experiment.recipe
    if row in _BATCH:
        attribute = _BATCH[row]
        value = getattr(experiment.own_batch, attribute) if attribute else None
        return "" if value is None else f"{value} on {on_gpus(experiment.gpus)}"
    knob = recipe.knobs.get(row)
    if knob is None:
        return ""
    where = knob.flag or (f"in {knob.where}" if knob.where else "")
    return "  ".join(part for part in (knob.own, where) if part)


def _readings(experiment: Experiment) -> Iterator[str]:
    """The cells that could not simply be read, with the reasoning."""
    names: dict[str, list[str]] = {}
    for row, cell in experiment.paper.cells.items():
        if cell.why:
            names.setdefault(cell.why, []).append(ROWS[row])
    if names:
        yield "#"
        yield "# How cells were read that do not stand plainly in the table:"
    for why, rows in names.items():
        yield from _item(f"{' and '.join(rows)}: {why}")


def shell(experiment: Experiment, arm: Arm) -> list[str]:
    """An arm's command as shell lines, continued by a backslash."""
    words = [f"PCPO={shlex.quote(arm.pcpo)}", *map(shlex.quote, experiment.command(arm))]
    # a flag and its value stay together
    pieces: list[str] = []
    for word in words:
        if pieces and pieces[-1].startswith("-") and " " not in pieces[-1] and not word.startswith("-"):
            pieces[-1] += f" {word}"
        else:
            pieces.append(word)
    lines = [pieces[0]]
    for piece in pieces[1:]:
        if len(lines[-1]) + 1 + len(piece) > WIDTH - 2:
            lines.append(f"  {piece}")
        else:
            lines[-1] += f" {piece}"
    return [f"{line} \\" for line in lines[:-1]] + [lines[-1]]
