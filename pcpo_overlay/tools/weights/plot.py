"""The paper's Figure 2 for one sampler: what native weights do to credit, and what PCPO puts in their place."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.weights.table import WeightTable

# What the baseline has, and what `full` puts in its place.
_NATIVE, _FULL = palette.look("observe"), palette.look("full")

_TITLES = {
    "ddim": "DDIM, Stable Diffusion 1.x",
    "dancegrpo": "DanceGRPO",
    "flow-grpo": "Flow-GRPO",
    "flow-grpo-wan": "Flow-GRPO, Wan 2.1",
    "flow-grpo-bagel": "Flow-GRPO, BAGEL",
}


def _title(table: WeightTable) -> str:
    scheduler = table.parameters.get("scheduler")
    return f"{table.sampler} of {scheduler}" if scheduler else _TITLES[table.sampler]


def save_weights_plot(table: WeightTable, path: Path) -> None:
    """Draw a table as a PNG file.

    For ddim: (a) native and proportional weights, (b) the native and the paper's standard deviation. For the flow
    samplers: native and proportional weights over the interval of each step.

    Raises:
        ImportError: matplotlib is missing; the message names the extra to install.
        OSError: ``path`` cannot be written.
    """
    ddim = table.steps.sigma is None
    figure = palette.new_figure(*((11, 4.2) if ddim else (6.5, 4.6)))
    if ddim:
        left, right = figure.subplots(1, 2)
        _draw_ddim_weights(left, table)
        _draw_ddim_variance(right, table)
    else:
        _draw_flow_weights(figure.subplots(), table)
    numbers = {name: value for name, value in table.parameters.items() if isinstance(value, int | float)}
    parameters = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in numbers.items())
    figure.suptitle(f"{_title(table)}: {parameters}", x=0.01, ha="left", fontsize="medium")
    # Drawn aside first: a failure half-way leaves no broken file.
    image = io.BytesIO()
    figure.savefig(image, format="png")
    path.write_bytes(image.getvalue())


def _draw_ddim_weights(axes: Any, table: WeightTable) -> None:
    t = table.steps.timestep.tolist()
    _line(axes, t, table.steps.weight_native.tolist(), _NATIVE, "native")
    mean = f"{table.config.weights}, mean {float(table.steps.weight.mean()):.4g}"
    _line(axes, t, table.steps.weight.tolist(), _FULL, mean)
    _finish_timestep_axis(axes, "(a) weight of each step", "weight $w$")


def _draw_ddim_variance(axes: Any, table: WeightTable) -> None:
    t = table.steps.timestep.tolist()
    _line(axes, t, table.steps.std_native.tolist(), _NATIVE, "native")
    w_star = table.steps.w_star
    sampled = "as sampled: native" if w_star is None else f"paper's, $w^*$ = {w_star:.4g}"
    _line(axes, t, table.steps.std.tolist(), _FULL, sampled)
    _finish_timestep_axis(axes, "(b) standard deviation of each step", r"standard deviation $\sigma$")


def _line(axes: Any, x: Sequence[float], y: Sequence[float], look: palette.Look, told: str) -> None:
    axes.plot(
        x, y, color=look.colour, linestyle=look.line, marker=look.marker, markersize=3.5, label=told, zorder=3
    )


def _finish_timestep_axis(axes: Any, title: str, ylabel: str) -> None:
    axes.margins(y=0.2)
    axes.set_ylim(bottom=0)
    axes.set_xlim(1020, -20)
    palette.plain(axes, title, "timestep (the rollout runs left to right)", ylabel)
    axes.legend(frameon=False)


def _draw_flow_weights(axes: Any, table: WeightTable) -> None:
    steps = list(range(table.steps.dt.numel()))
    _line(axes, steps, table.steps.weight_native.tolist(), _NATIVE, "native")
    zeta = table.steps.zeta
    weights = table.config.weights if zeta is None else rf"{table.config.weights}, $\zeta$ = {zeta:.4g}"
    _line(axes, steps, table.steps.weight.tolist(), _FULL, weights)
    axes.set_ylim(bottom=0)
    palette.plain(axes, xlabel="step of the rollout", ylabel="weight $w$")
    axes.xaxis.get_major_locator().set_params(integer=True)

    # zeta*dt and dt share their shape, so the interval is drawn on a scale of its own, behind the lines.
    interval = axes.twinx()
    interval.bar(
        steps, table.steps.dt.tolist(), color=palette.NEUTRAL, alpha=0.35, width=0.8, label="interval $dt$"
    )
    interval.set_ylabel("interval $dt$")
    interval.set_ylim(bottom=0, top=1.35 * float(table.steps.dt.max()))
    interval.spines["top"].set_visible(False)
    axes.set_zorder(interval.get_zorder() + 1)
    axes.patch.set_visible(False)
    handles = [*axes.get_legend_handles_labels()[0], *interval.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, frameon=False)
