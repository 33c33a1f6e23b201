"""What a study found: a table, stacked bars and JSON, in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.folders import check_writable, written
from pcpo_overlay.tools.report.draw import heading
from pcpo_overlay.tools.report.text import estimated, percent, spelled, table
from pcpo_overlay.tools.study import StudyError
from pcpo_overlay.tools.study.answers import Answers
from pcpo_overlay.tools.study.pairs import Study
from pcpo_overlay.tools.study.tally import OUTCOMES, Tally, left_share, tallies

COMMAND = "pcpo study report"
MARKDOWN, NUMBERS, FIGURE = "report.md", "report.json", "preference.png"
FORMAT = 1
_TIE = "#D0D0D0"


def report(answers: Answers, out: Path) -> str:
    """Write the report's folder.

    Returns:
        The table.

    Raises:
        StudyError: nobody has answered yet.
        FolderError: ``out`` is not this command's to write.
    """
    study, votes, turnout = answers.study, answers.votes(), answers.turnout()
    if not votes:
        raise StudyError(
            f"nobody has answered yet ({turnout.began} began); `pcpo study serve` collects answers"
        )
    check_writable(out, COMMAND)
    rows = tallies(votes, [category.name for category in study.categories], len(study.arms))
    left = left_share(votes)
    told = tabled(study, rows)
    numbers = {
        "format": FORMAT, "study": study.id, "arms": study.arms, "participants": asdict(turnout),
        "tallies": [{**asdict(row), "against": study.arms[row.against]} for row in rows], "left": asdict(left),
    }  # fmt: skip
    others = " and ".join(f"`{name}`" for name in study.arms[1:])
    lines = [
        "# Preference study",
        "",
        f"`{study.arms[0]}` against {others}: {len(study.pairs)} pairs, of the same prompt and seed, sides and order "
        f"at random. {turnout.began} people began, {turnout.finished} answered all of their {study.questions} pairs; "
        "every answer counts.",
        "",
        told,
        "",
        f"Shares of the answers, of `{study.arms[0]}`; in brackets 95% intervals, bootstrapped over participants "
        "(none of fewer than 3, or where all answered alike). The left picture was chosen in "
        f"{estimated(left, percent)} of the answers that chose one.",
        "",
        f"![Wins, ties and losses by category]({FIGURE})",
        "",
        "| category | question |",
        "|---|---|",
        *(f"| {_cell(c.name)} | {_cell(c.question)} |" for c in study.categories),
    ]
    palette.require_matplotlib()
    with written(out, COMMAND) as scratch:
        (scratch / MARKDOWN).write_text("\n".join(lines) + "\n", encoding="utf-8")
        (scratch / NUMBERS).write_text(
            json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        bars(study, [row for row in rows if row.answers]).savefig(scratch / FIGURE)
    return told


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def tabled(study: Study, rows: Sequence[Tally]) -> str:
    """A row for each comparison and category."""
    head = ["against", "category", "answers", "participants", *OUTCOMES, "win - loss"]
    cells = [
        [
            study.arms[row.against], row.category, str(row.answers), str(row.participants),
            *(estimated(getattr(row, outcome), percent) for outcome in OUTCOMES),
            estimated(row.lead, spelled("{:+.1f}%")),
        ]
        for row in rows
    ]  # fmt: skip
    return table(head, cells, left=2)


def bars(study: Study, rows: Sequence[Tally]) -> Any:
    """Stacked bars of wins, ties and losses, with the intervals of wins and of losses where these end."""
    palette.require_matplotlib()
    from matplotlib.patheffects import withStroke

    looks = palette.looks(study.arms)
    against = [n for n in range(1, len(study.arms)) if any(row.against == n for row in rows)]
    figure = palette.new_figure(7.5, 1.3 + 0.5 * len(rows) + 0.6 * len(against))
    heights = [sum(row.against == n for row in rows) for n in against]
    grid = figure.subplots(len(against), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for n, axes in zip(against, grid, strict=True):
        own = [row for row in rows if row.against == n]
        colours = (looks[study.arms[0]].colour, _TIE, looks[study.arms[n]].colour)
        for y, row in enumerate(own):
            start = 0.0
            for outcome, colour in zip(OUTCOMES, colours, strict=True):
                wide = getattr(row, outcome).mean or 0.0
                axes.barh(y, wide, left=start, height=0.62, color=colour)
                if wide >= 7:
                    ink = "black" if outcome == "tie" else "white"
                    axes.text(
                        start + wide / 2,
                        y + 0.19,
                        f"{wide:.0f}%",
                        ha="center",
                        va="center",
                        color=ink,
                        fontsize=8,
                    )
                start += wide
            for held, flip, up in ((row.win, False, 0.2), (row.loss, True, 0.06)):
                if held.low is not None and held.high is not None:
                    ends = [100 - held.low, 100 - held.high] if flip else [held.low, held.high]
                    (line,) = axes.plot(
                        ends, [y - up] * 2, color="black", linewidth=1.4, marker="|", markersize=5
                    )
                    line.set_path_effects([withStroke(linewidth=3.2, foreground="white")])
        axes.set_yticks(range(len(own)), [f"{row.category} ({row.answers})" for row in own])
        axes.set_ylim(len(own) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        palette.plain(axes, f"{study.arms[0]} against {study.arms[n]}", grid="x")
        axes.tick_params(axis="y", length=0)
        for outcome, colour in zip(("wins", "tie", "wins"), colours, strict=True):
            name = "no difference" if outcome == "tie" else study.arms[0 if colour is colours[0] else n]
            axes.plot([], [], "s", color=colour, label=name)
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize="small", borderpad=0
        )
    grid[-1].set_xlabel("percent of the answers")
    heading(
        figure, "Which picture people prefer",
        "lines: 95% intervals of either arm's share, over participants; in brackets: answers",
    )  # fmt: skip
    return figure
