"""Writing a report: figures, ``report.md`` and ``report.json`` in one folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.report import figures, markdown, stats
from pcpo_overlay.tools.report.compare import compare
from pcpo_overlay.tools.runs.run import Run

MARKDOWN = "report.md"
JSON = "report.json"


def build(
    runs: Sequence[Run],
    out: Path,
    *,
    thresholds: Sequence[float] | None = None,
    window: int = stats.WINDOW,
    baseline: str | None = None,
) -> dict[str, Any]:
    """Compare runs and write the report; what an earlier report left in ``out`` under the same names is replaced.

    Args:
        runs: from :func:`runs.load`.
        out: made if missing.
        thresholds, window, baseline: as for :func:`compare.compare`.

    Returns:
        The document that ``report.json`` holds.

    Raises:
        ReportError: there is nothing to compare.
        ImportError: matplotlib is missing; the message names the extra to install.
        OSError: ``out`` cannot be written.
    """
    figures.require_matplotlib()
    document = compare(runs, thresholds=thresholds, window=window, baseline=baseline)
    document["definitions"] = markdown.definitions(document)
    out.mkdir(parents=True, exist_ok=True)
    many = len(document["comparisons"]) > 1
    for comparison in document["comparisons"]:
        size = comparison["batch_size"]
        prefix = f"{comparison['upstream']}-{'' if size is None else f'{size}-'}" if many else ""
        comparison["figures"] = figures.draw_all(comparison, window, out, prefix)
    (out / MARKDOWN).write_text(markdown.render(document), encoding="utf-8")
    (out / JSON).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return document
