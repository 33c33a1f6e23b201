"""Writing a report: figures, ``report.md`` and ``report.json`` in one folder."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.faults import require, told
from pcpo_overlay.tools.folders import check_writable, written
from pcpo_overlay.tools.report import mixed_model, stats
from pcpo_overlay.tools.report.compare import Comparison, Document, compare
from pcpo_overlay.tools.report.text import quoted
from pcpo_overlay.tools.runs.run import Run

#: What writes reports, ``ab``'s too.
COMMAND = "pcpo report"
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
    """Compare runs and write the report, whole or not at all; an earlier one in ``out`` is replaced.

    ``out`` is made if missing; the options are those of :func:`compare.compare`.

    Raises:
        ReportError: there is nothing to compare.
        FolderError: ``out`` holds what no report left there.
        ImportError: matplotlib or pandas is missing; the message names the extra to install.
        OSError: ``out`` cannot be written.
    """
    palette.require_matplotlib()
    require("pandas", "the report needs")
    try:
        out = out.resolve()
    except (RuntimeError, ValueError) as error:  # links in a circle, a NUL
        raise OSError(told(error)) from None
    check_writable(out, COMMAND)
    document = compare(runs, thresholds=thresholds, window=window, baseline=baseline)
    with written(out, COMMAND) as folder:
        for comparison in document.comparisons:
            size = "" if comparison.batch_size is None else f"{comparison.batch_size}-"
            prefix = f"{comparison.upstream}-{size}" if len(document.comparisons) > 1 else ""
            comparison.figures = draw_all(comparison, folder, prefix)
        (folder / MARKDOWN).write_text(render(document), encoding="utf-8")
        text = json.dumps(document.as_dict(), indent=1, allow_nan=False)
        (folder / JSON).write_text(text + "\n", encoding="utf-8")
    return document


def draw_all(comparison: Comparison, out: Path, prefix: str = "") -> dict[str, str]:
    """Write the figures of a comparison as PNG, their names after ``prefix``; the files by the figures' names."""
    drawn = comparison.draw()
    files = {name: f"{prefix}{name}.png" for name in CAPTIONS if drawn.get(name) is not None}
    for name, file in files.items():
        save(drawn[name], out / file)
    return files


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG; drawn aside first, so that a failure half-way leaves no broken file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image.getvalue())


def render(document: Document) -> str:
    """The whole report as Markdown: warnings first, then the tables, the figures, and what each number is."""
    parts = ["# PCPO report", "", *quoted("Note", document.notes)]
    for comparison in document.comparisons:
        parts += [*_render(comparison), ""]
    for model in document.mixed_models:
        parts += [f"## {model.title}", "", *quoted("Warning", model.notes)]
        parts += [mixed_model.model_table(model), ""] if model.metrics else []
    parts += ["## What each number is", ""]
    parts += [f"- **{name}**: {text}" for name, text in document.definitions.items()]
    return "\n".join(parts).rstrip() + "\n"


def _render(comparison: Comparison) -> list[str]:
    shown, warnings = comparison.shown, list(comparison.warnings)
    baseline = shown.names[shown.baseline]
    if not comparison.baseline_is_observe:
        warnings.insert(0, f"the baseline here is `{baseline}`, not upstream's objective (mode `observe`)")
    told = "" if baseline == comparison.baseline else f" (mode `{comparison.baseline}`)"
    pictures = {name: [f"![{CAPTIONS[name]}]({file})", ""] for name, file in comparison.figures.items()}
    parts = [f"## {comparison.title}", "", *quoted("Warning", warnings)]
    parts += [f"Baseline: `{baseline}`{told}. Moving average: {shown.window} epochs.", ""]
    parts += pictures.pop("overview", [])
    for title, text in comparison.tables().items():
        parts += [f"### {title}", "", text, ""]
    parts += ["### Figures", "", *(line for lines in pictures.values() for line in lines)]
    return parts[:-1]
