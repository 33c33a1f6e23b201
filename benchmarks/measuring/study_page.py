"""What a learning study found, as a page of Markdown: the report's own tables, and the sweeps."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from benchmarks.measuring.study import Sweep
from pcpo_overlay.tools.report import mixed_model, quality, speed, stats
from pcpo_overlay.tools.report.compare import Document
from pcpo_overlay.tools.report.text import digits_apart, number, reward, table, three
from pcpo_overlay.tools.runs import policies
from pcpo_overlay.tools.runs.labels import names
from pcpo_overlay.tools.runs.run import Run

#: Of the smaller batch, which is there for the mixed model, the page has these tables alone.
FIRST = (quality.TITLE, speed.TITLE)
#: What a page leaves to the report.
LEFT_OUT = (speed.BY_SEED, "Runs")


def page(
    title: str,
    document: Document,
    sweeps: Sequence[tuple[Sweep, str]],
    commands: Sequence[Sequence[str]],
    runs: Sequence[Run],
    figures: Sequence[tuple[str, str]],
) -> str:
    """The page: the evaluated reward first, which compares arms whatever they draw with.

    Args:
        title: what is trained, and what is compared where that is not the ladder.
        document: of the report on ladder and smaller batch.
        sweeps: what was swept, and its :func:`sweep_table`.
        commands: the study's own, and those that it ran.
        runs: all of them.
        figures: captions and paths relative to the page.
    """
    parts = [f"# {title}", "", *_provenance(commands, runs), ""]
    parts += [line for caption, path in figures for line in (f"![{caption}]({path})", "")]
    parts += [line for note in document.notes for line in (f"> {note}", "")]
    by_size = sorted(document.comparisons, key=lambda c: -(c.batch_size or 0))
    for comparison in by_size:
        parts += [f"## {comparison.title}", ""]
        parts += [line for warning in comparison.warnings for line in (f"> {warning}", "")]
        for title, text in comparison.tables().items():
            if (comparison is by_size[0] and title not in LEFT_OUT) or title in FIRST:
                parts += [f"### {title}", "", text, ""]
    for model in document.mixed_models:
        parts += [f"## {model.title}", ""]
        parts += [line for note in model.notes for line in (f"> {note}", "")]
        parts += [mixed_model.model_table(model), ""] if model.metrics else []
    for sweep, text in sweeps:
        parts += [f"## Other {sweep.told}s", "", text, ""]
    parts += ["## What each number is", ""]
    parts += [f"- **{name}**: {text}" for name, text in document.definitions.items()]
    return "\n".join(parts).rstrip() + "\n"


def _provenance(commands: Sequence[Sequence[str]], runs: Sequence[Run]) -> list[str]:
    """The commands, and :func:`machine`."""
    typed, *run = map(shlex.join, commands)
    told = [f"- {line}" for line in machine(runs)]
    return [f"- `{typed}`, which runs:", "", "```bash", *run, "```", "", *told]


def machine(runs: Sequence[Run]) -> list[str]:
    """Date, machine and versions, a line each."""
    days = sorted(str(run.info.get("started"))[:10] for run in runs)
    hardware = runs[0].info["hardware"]
    others = {str(run.info["hardware"].get("name")) for run in runs} - {str(hardware.get("name"))}
    return [
        f"{len(runs)} runs, of {days[0]}" + (f" to {days[-1]}" if days[-1] != days[0] else ""),
        f"{hardware.get('name')}, {hardware.get('threads')} thread(s) a run"
        + (f"; also {', '.join(sorted(others))}" if others else ""),
        ", ".join(f"{name} {version}" for name, version in runs[0].info["versions"].items()),
    ]


def sweep_table(
    sweep: Sweep, by_value: Mapping[float, Sequence[Run]], levels: Sequence[float], baseline: str
) -> str:
    """Values and arms down; what was evaluated at the end, and epochs to the ladder's levels across.

    The rewards are the evaluated ones: those of the training itself are drawn by samplers that differ between the arms.

    Args:
        sweep: of what.
        by_value: evaluated runs of the same arms and seeds at every value.
        levels: the ladder's levels of evaluated reward.
        baseline: the baseline's label.
    """
    rows = []
    digits = digits_apart(levels)
    labels = {run.label for runs in by_value.values() for run in runs}
    named = names(sorted(labels, key=lambda label: (label != baseline, len(label))))
    for value, runs in sorted(by_value.items()):
        arms = {label: [run for run in runs if run.label == label] for label in named}
        arms = {label: members for label, members in arms.items() if members}
        held = quality.describe_arms(arms, baseline, levels)
        for n, (label, members) in enumerate(arms.items()):
            ends = [policies.points(run)[-1].reward for run in members]
            last = held.last.arms[n]
            cells = [
                f"{reward(stats.mean(ends), digits)} [{reward(min(ends), digits)}, {reward(max(ends), digits)}]",
                " / ".join(three(_mean(members, key)) for key in ("fraction_outside", "fraction_masked")),
                three(last.values["accuracy"].mean),
                number(last.values["diversity"].mean),
                number(last.values["frechet_prompt"].mean),
                *(_epochs(level.arms[n], len(members)) for level in held.levels),
            ]
            rows.append([f"{value:g}", named[label], *cells])
    seeds = sorted({run.seed for runs in by_value.values() for run in runs if run.seed is not None})
    head = [
        sweep.told,
        "arm",
        "reward at the end",
        "outside / masked",
        "accuracy",
        "diversity",
        "Fréchet distance, by prompt",
    ]
    head += [f"epochs to {reward(level, digits)}" for level in levels]
    told = (
        f"Seeds {', '.join(map(str, seeds))} at every {sweep.told}; evaluation and levels are those above. "
        "In brackets: lowest and highest seed. Outside and masked: mean over the epochs. A level passed before the "
        "first checkpoint is dated by a straight line from the base model."
    )
    return told + "\n\n" + table(head, rows, left=2)


def _mean(runs: Sequence[Run], key: str) -> float | None:
    return stats.mean(m for run in runs if (m := stats.mean(run.series(key))) is not None)


def _epochs(arm: quality.ArmAtLevel, runs: int) -> str:
    """The mean of the seeds that reached a level, and how many did not."""
    if not arm.runs:
        return "never"
    some = "" if arm.runs == runs else f" ({arm.runs} of {runs} seeds)"
    return three(arm.epochs.mean) + some
