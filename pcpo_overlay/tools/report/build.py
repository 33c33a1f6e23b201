"""Writing a report: figures, ``report.md`` and ``report.json`` in one folder."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import (
    clipping,
    cost,
    gradients,
    mixed_model,
    overview,
    quality,
    ratio,
    reward,
    settings,
    speed,
    stats,
    validation,
)
from pcpo_overlay.tools.report.compare import Comparison, Document, compare
from pcpo_overlay.tools.report.text import quoted
from pcpo_overlay.tools.runs.run import Run

MARKDOWN = "report.md"
JSON = "report.json"
#: Every figure there may be, in the order of the report, with its caption.
CAPTIONS = {
    "overview": "Overview",
    "quality": "Accuracy, diversity and Fréchet distance at matched reward, against the baseline",
    "validation": "Validation reward",
    "pareto": "Reward against KL, one line per run",
    "reward": "Training reward",
    "clipping": "Fraction outside and fraction masked",
    "timesteps": "Clipping per timestep, first and last epochs",
    "gradients": "Gradient statistics",
    "ratio": "The policy ratio and the error of log rho",
    "time": "Wall-clock time per epoch",
}


def build(
    runs: Sequence[Run],
    out: Path,
    *,
    thresholds: Sequence[float] | None = None,
    window: int = stats.WINDOW,
    baseline: str | None = None,
) -> Document:
    """Compare runs and write the report; what an earlier report left in ``out`` under the same names is replaced.

    Args:
        runs: from :func:`runs.run.load`.
        out: made if missing.
        thresholds, window, baseline: as for :func:`compare.compare`.

    Returns:
        The document that ``report.json`` holds.

    Raises:
        ReportError: there is nothing to compare.
        ImportError: matplotlib or pandas is missing; the message names the extra to install.
        OSError: ``out`` cannot be written.
    """
    palette.require_matplotlib()
    stats.require_pandas()
    document = compare(runs, thresholds=thresholds, window=window, baseline=baseline)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except ValueError as error:  # a NUL in the path
        raise OSError(str(error)) from None
    many = len(document.comparisons) > 1
    for comparison in document.comparisons:
        size = "" if comparison.batch_size is None else f"{comparison.batch_size}-"
        prefix = f"{comparison.upstream}-{size}" if many else ""
        comparison.figures = draw_all(comparison, window, out, prefix)
    (out / MARKDOWN).write_text(render(document), encoding="utf-8")
    text = json.dumps(document.as_dict(), indent=1, allow_nan=False)
    (out / JSON).write_text(text + "\n", encoding="utf-8")
    return document


def figures(comparison: Comparison, window: int) -> dict[str, Any]:
    """The figures of a comparison by name; those that nothing was recorded for are absent.

    Raises:
        ImportError: matplotlib is missing; the message names the extra to install.
    """
    c, shown = comparison, comparison.shown(window)
    drawn = {
        **overview.figures(shown, c),
        **(quality.figures(shown, c.quality) if c.quality else {}),
        **validation.figures(shown, c.validation, c.kl),
        **reward.figures(shown, c.reward, [level.reward for level in c.thresholds.levels]),
        **clipping.figures(shown, c.clipping, c.timesteps),
        **gradients.figures(shown, c.gradients),
        **ratio.figures(shown, c.ratio),
        **cost.figures(shown, c.cost),
    }
    return {name: drawn[name] for name in CAPTIONS if drawn.get(name) is not None}


def draw_all(comparison: Comparison, window: int, out: Path, prefix: str = "") -> dict[str, str]:
    """Write the figures of a comparison as PNG, their names after ``prefix``; the files by the figures' names."""
    files = {}
    for name, figure in figures(comparison, window).items():
        files[name] = f"{prefix}{name}.png"
        save(figure, out / files[name])
    return files


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG; drawn aside first, so that a failure half-way leaves no broken file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image.getvalue())


def tables(comparison: Comparison, window: int) -> list[tuple[str, str]]:
    """Every table of a comparison, what the arms are evaluated with first: title and Markdown."""
    c, shown = comparison, comparison.shown(window)
    layers = f" First layer: `{'`, `'.join(c.gradient_layers)}`." if c.gradient_layers else ""
    return [
        *(quality.tables(shown, c.quality) if c.quality else []),
        *validation.tables(shown, c.validation, c.kl),
        *speed.tables(shown, c.thresholds),
        *reward.tables(shown, c.reward, c.last_common_epoch),
        clipping.CHAPTER.table(shown, c.clipping),
        gradients.CHAPTER.table(shown, c.gradients, layers),
        ratio.CHAPTER.table(shown, c.ratio),
        cost.CHAPTER.table(shown, c.cost),
        *settings.tables(c.arms),
    ]


def main_table(comparison: Comparison, window: int) -> tuple[str, str]:
    """Title and Markdown of the table that says which arm is faster: of evaluated rewards where there are any."""
    shown = comparison.shown(window)
    if comparison.quality is not None:
        return quality.TITLE, quality.epochs_table(shown, comparison.quality)
    return speed.tables(shown, comparison.thresholds)[0]


def render(document: Document) -> str:
    """The whole report as Markdown: warnings first, then the tables, the figures, and what each number is."""
    parts = ["# PCPO report", "", *quoted("Note", document.notes)]
    for comparison in document.comparisons:
        parts += [_render(comparison, document.window), ""]
    for model in document.mixed_models:
        parts += [f"## {model.title}", "", *quoted("Warning", model.notes)]
        parts += [mixed_model.model_table(model), ""] if model.metrics else []
    parts += ["## What each number is", ""]
    parts += [f"- **{name}**: {text}" for name, text in document.definitions.items()]
    return "\n".join(parts).rstrip() + "\n"


def _render(comparison: Comparison, window: int) -> str:
    shown, warnings = comparison.shown(window), list(comparison.warnings)
    baseline = shown.names[shown.baseline]
    if not comparison.baseline_is_observe:
        warnings.insert(0, f"the baseline here is `{baseline}`, not upstream's objective (mode `observe`)")
    parts = [f"## {comparison.title}", "", *quoted("Warning", warnings)]
    told = "" if baseline == comparison.baseline else f" (mode `{comparison.baseline}`)"
    parts += [f"Baseline: `{baseline}`{told}. Moving average: {window} epochs.", ""]
    if "overview" in comparison.figures:
        parts += [f"![{CAPTIONS['overview']}]({comparison.figures['overview']})", ""]
    for title, text in tables(comparison, window):
        parts += [f"### {title}", "", text, ""]
    parts += ["### Figures", ""]
    for name, file in comparison.figures.items():
        if name != "overview":
            parts += [f"![{CAPTIONS[name]}]({file})", ""]
    return "\n".join(parts).rstrip()
