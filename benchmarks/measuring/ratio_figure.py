"""The ratios before the first update as a figure: a panel for each setting, the baseline against PCPO."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring.ratios import BASELINE, MATCHED, Ratios, Setting
from pcpo_overlay.tools.weights.plot import INTERVAL, NATIVE, PCPO

CLIP_RANGE = 1e-4
COLUMNS = 4
#: Below this the axis is linear, so that exactly 1 has a place on it.
LINEAR = 1e-7
COLOURS = {BASELINE: NATIVE, "full": PCPO, MATCHED: "#009E73"}
LABELS = {
    BASELINE: "baseline (median; shaded: all)",
    "full": "full",
    MATCHED: "full,precision=match",
}


def draw(found: dict[Setting, dict[str, Ratios]], path: Path) -> None:
    """Write the figure.

    Args:
        found: by setting and mode.
        path: of the image; its folder is made.
    """
    from matplotlib.figure import Figure

    rows, columns = math.ceil(len(found) / COLUMNS), min(COLUMNS, len(found))
    # A bare Figure draws with Agg: no display, and nothing global is changed.
    figure = Figure(figsize=(3.8 * columns, 2.7 * rows + 1), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for panel, (setting, modes) in zip(panels, found.items(), strict=False):
        _panel(panel, setting, modes)
    for panel in panels[len(found) :]:
        panel.set_axis_off()
    for row in grid:
        row[0].set_ylabel("|ratio - 1|")
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(2, columns) * 2, frameon=False
    )
    figure.suptitle("Before the first update every policy ratio should be 1")
    image = io.BytesIO()  # drawn aside first: a failure half-way leaves no broken file
    figure.savefig(image, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image.getvalue())


def _panel(panel: Any, setting: Setting, modes: dict[str, Ratios]) -> None:
    panel.axhspan(0, CLIP_RANGE, color=INTERVAL, alpha=0.3, linewidth=0, label="within the clip range")
    for mode, ratios in modes.items():
        if mode not in COLOURS:
            continue
        steps = range(1, len(ratios.timesteps) + 1)
        off = [torch.expm1(ratios.at(t).log_rho).abs() for t in ratios.timesteps]
        low, middle, high = ([float(q(x)) for x in off] for q in (torch.min, torch.median, torch.max))
        colour = COLOURS[mode]
        if not ratios.is_exact:
            panel.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)
        panel.plot(steps, middle, color=colour, linewidth=2, marker=".", label=LABELS[mode], clip_on=False)
    panel.set_yscale("symlog", linthresh=LINEAR)
    panel.set_ylim(0, 1)
    panel.set_yticks(
        [0, 1e-6, 1e-4, 1e-2, 1], labels=["exactly 1", "$10^{-6}$", "$10^{-4}$", "$10^{-2}$", "1"]
    )
    panel.set_title(f"{setting.name}\n{_outcome(modes)}", fontsize=8)
    panel.set_xlabel("sampling step", fontsize=8)


def _outcome(modes: dict[str, Ratios]) -> str:
    """What a panel says in a line: the share that clipping meets without any update."""
    said = []
    for mode, label in ((BASELINE, "baseline"), ("full", "full"), (MATCHED, "matched")):
        if mode not in modes:
            continue
        outside = float(modes[mode].outside.double().mean())
        off = float(torch.expm1(modes[mode].log_rho).abs().max())
        said.append(f"{label} " + ("exactly 1" if off == 0 else f"{outside:.0%} outside"))
    return ", ".join(said)
