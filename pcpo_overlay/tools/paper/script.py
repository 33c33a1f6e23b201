"""Experiments as text that is a shell script, everything but the commands being comments, and as plain values."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from pcpo_overlay.tools.paper.experiments import (
    BOUND,
    ELSEWHERE,
    EMPTY,
    PLACED,
    ROWS,
    Arm,
    Cell,
    Change,
    Experiment,
    as_word,
    on_gpus,
)  # fmt: skip

WIDTH = 112
_INTRO = (
    "The paper's configurations (Table 7) as commands of the upstreams at their pins. Every line that is no command "
    "begins with #, so what follows can be pasted, or saved as a script, in the folder that holds vendor/ (python "
    "apply.py makes it).",
    "PCPO=observe is the baseline: upstream bit for bit, with its metrics recorded. Each run leaves a folder in "
    "pcpo_runs/ of the clone; pcpo report compares all that are there, smoothed over five epochs as the paper's "
    "curves, at Table 10's rewards. Its images at matched reward (B.3.1) are not drawn: pcpo evaluate is for the "
    "miniatures.",
    "Every trainer here starts wandb, which asks for an account unless WANDB_MODE is offline or disabled.",
    "Where the text of the paper lost a value, none is made up: upstream's own stays. B.1 says that all "
    "hyperparameters follow the original code but the learning rate and DDPO's LoRA.",
)
_MARKS = {PLACED: "column inferred", ELSEWHERE: "said elsewhere", BOUND: "at least"}
#: Rows that no single flag sets, by what they are of a batch.
_BATCH = {
    "prompts_per_iteration": "prompts", "images_per_prompt": "", "images_per_iteration": "images",
    "updates": "updates",
}  # fmt: skip


def render(experiments: Iterable[Experiment]) -> str:
    """All of them, after a few words on what they have in common."""
    lines = [line for paragraph in _INTRO for line in _comment(paragraph)]
    lines.append('export WANDB_MODE="${WANDB_MODE:-offline}"')
    for experiment in experiments:
        lines += ["", *_render(experiment)]
    return "\n".join(lines)


def as_dict(experiment: Experiment) -> dict[str, Any]:
    """One of them as plain values."""
    paper, recipe = experiment.paper, experiment.recipe
    cells: dict[str, Any] = {}
    for row, cell in paper.cells.items():
        knob = recipe.knobs.get(row)
        cells[row] = {
            **cell._asdict(), "flag": knob.flag or None if knob else None, "upstream": knob.own if knob else None,
        }  # fmt: skip
    arms = [
        {
            "name": arm.name, "told": arm.told, "environment": experiment.environment(arm),
            "command": experiment.command(arm), "changes": _changes(arm.changes),
            "afterwards": experiment.afterwards(arm),
        }
        for arm in experiment.arms
    ]  # fmt: skip
    return {
        "configuration": paper.number, "description": paper.description, "figures": paper.figures,
        "tables": paper.tables, "hardware": paper.hardware, "paper_gpus": paper.gpus, "paper": cells,
        "gpus": experiment.gpus, "upstream": recipe.clone, "trainer": recipe.trainer, "origin": recipe.origin,
        "make": recipe.make, "directory": recipe.directory, "batch": experiment.batch._asdict(),
        "changes": _changes(experiment.changes), "prepare": recipe.prepare, "arms": arms,
        "report": experiment.report, "notes": experiment.notes,
    }  # fmt: skip


def _changes(changes: Iterable[Change]) -> list[dict[str, str]]:
    return [{"flag": c.flag, "value": c.value, "upstream": c.own, "why": c.why} for c in changes]


def _comment(text: str, first: str = "# ", rest: str = "# ") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _items(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in _comment(text, "# - ", "#   ")]


def _render(experiment: Experiment) -> Iterator[str]:
    paper, recipe, batch, arms = experiment.paper, experiment.recipe, experiment.batch, experiment.arms
    yield "# " + f"==== Configuration {paper.number}: {paper.description} ".ljust(WIDTH - 2, "=")
    yield f"# figures: {paper.figures}; tables: {paper.tables}"
    yield from (f"# the paper's hardware: {paper.hardware}", "#")
    # three columns: the row, what the paper says, what upstream at the pin has of its own and where
    rows = [("", "the paper", f"{recipe.clone}'s own")]
    rows += [(name, _paper(paper.cells[row]), _upstream(experiment, row)) for row, name in ROWS.items()]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    yield from (
        f"#   {name.ljust(widths[0])}  {said.ljust(widths[1])}  {own}".rstrip() for name, said, own in rows
    )
    whys: dict[str, list[str]] = {}
    for row, cell in paper.cells.items():
        whys.setdefault(cell.why, []).append(ROWS[row])
    yield from ("#", "# How cells were read that do not stand plainly in the table:")
    yield from _items(f"{' and '.join(names)}: {why}" for why, names in whys.items() if why)
    yield from ("#", f"# One iteration here, as in Table 7: {batch.images_from} images,")
    yield from (f"# {batch.updates_from} updates", "#")
    yield f"# {recipe.clone}'s own: {recipe.origin}. Changed:"
    told: dict[str, Change] = {}
    for change in (*experiment.changes, *(change for arm in arms for change in arm.changes)):
        told.setdefault(change.flag, change)
    yield from _items(f"{c.flag} {c.value}, upstream's own {c.own} ({c.why})" for c in told.values())
    yield from ("#", "# To know:", *_items(experiment.notes))
    yield from (*recipe.make, f"cd {recipe.directory}", *recipe.prepare)
    for arm in arms:
        yield from (f"# {arm.told}", *shell(experiment, arm), *experiment.afterwards(arm))
    back = "/".join([".."] * len(recipe.directory.split("/")))
    yield from (f"cd {back}", "# the runs beside each other", shlex.join(experiment.report))


def _paper(cell: Cell) -> str:
    if cell.value is None:
        return "(empty)" if cell.origin == EMPTY else cell.origin
    value = f"({', '.join(map(str, cell.value))})" if isinstance(cell.value, tuple) else as_word(cell.value)
    return f"{value} ({_MARKS[cell.origin]})" if cell.origin in _MARKS else value


def _upstream(experiment: Experiment, row: str) -> str:
    if row in _BATCH:
        value = getattr(experiment.own_batch, _BATCH[row], None)
        return "" if value is None else f"{value} on {on_gpus(experiment.gpus)}"
    knob = experiment.recipe.knobs.get(row)
    if knob is None:
        return ""
    return "  ".join(filter(None, (knob.own, knob.flag or (knob.where and f"in {knob.where}"))))


def shell(experiment: Experiment, arm: Arm) -> list[str]:
    """An arm's command as shell lines, continued by a backslash."""
    pieces: list[str] = []
    variables = [f"{name}={shlex.quote(value)}" for name, value in experiment.environment(arm).items()]
    for word in (*variables, *map(shlex.quote, experiment.command(arm))):
        if pieces and pieces[-1].startswith("-") and " " not in pieces[-1] and not word.startswith("-"):
            pieces[-1] += f" {word}"  # a flag and its value stay together
        else:
            pieces.append(word)
    lines = [pieces[0]]
    for piece in pieces[1:]:
        if len(lines[-1]) + 1 + len(piece) > WIDTH - 2:
            lines.append(f"  {piece}")
        else:
            lines[-1] += f" {piece}"
    return [f"{line} \\" for line in lines[:-1]] + [lines[-1]]
