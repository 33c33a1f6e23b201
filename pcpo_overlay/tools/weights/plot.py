"""The paper's Figure 2 for one sampler: what native weights do to credit, and what PCPO puts in their place."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.weights.table import WeightTable

# Okabe and Ito's palette: told apart with every common colour vision.
NATIVE, PCPO, INTERVAL = "#D55E00", "#0072B2", "#999999"

_TITLES = {"ddim": "DDIM, Stable Diffusion 1.x", "dancegrpo": "DanceGRPO", "flow-grpo": "Flow-GRPO"}


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
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            'plots need matplotlib; install it with: pip install "pcpo-overlay[report]"'
        ) from None

    # A bare Figure draws with Agg: no display, and nothing global is changed.
    ddim = table.steps.sigma is None
    figure = Figure(figsize=(11, 4) if ddim else (6.5, 4.2), dpi=150, layout="constrained")
    if ddim:
        left, right = figure.subplots(1, 2)
        _draw_ddim_weights(left, table)
        _draw_ddim_variance(right, table)
    else:
        _draw_flow_weights(figure.subplots(), table)
    numbers = {name: value for name, value in table.parameters.items() if isinstance(value, int | float)}
    parameters = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in numbers.items())
    figure.suptitle(f"{_title(table)}: {parameters}")
    # Drawn aside first: a failure half-way leaves no broken file.
    image = io.BytesIO()
    figure.savefig(image, format="png")
    path.write_bytes(image.getvalue())


def _draw_ddim_weights(axes: Any, table: WeightTable) -> None:
    t = table.steps.timestep.tolist()
    axes.plot(t, table.steps.weight_native.tolist(), color=NATIVE, marker="o", markersize=3, label="native")
    mean = f"{table.config.weights}, mean {float(table.steps.weight.mean()):.4g}"
    axes.plot(
        t, table.steps.weight.tolist(), color=PCPO, linestyle="--", marker="s", markersize=3, label=mean
    )
    axes.set_title("(a) weight of each step", loc="left", fontsize="medium")
    axes.set_ylabel("weight $w$")
    _finish_timestep_axis(axes)


def _draw_ddim_variance(axes: Any, table: WeightTable) -> None:
    t = table.steps.timestep.tolist()
    axes.plot(t, table.steps.std_native.tolist(), color=NATIVE, marker="o", markersize=3, label="native")
    w_star = table.steps.w_star
    sampled = "as sampled: native" if w_star is None else f"paper's, $w^*$ = {w_star:.4g}"
    axes.plot(
        t, table.steps.std.tolist(), color=PCPO, linestyle="--", marker="s", markersize=3, label=sampled
    )
    axes.set_title("(b) standard deviation of each step", loc="left", fontsize="medium")
    axes.set_ylabel(r"standard deviation $\sigma$")
    _finish_timestep_axis(axes)


def _finish_timestep_axis(axes: Any) -> None:
    axes.margins(y=0.2)
    axes.set_ylim(bottom=0)
    axes.set_xlim(1020, -20)
    axes.set_xlabel("timestep (the rollout runs left to right)")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_flow_weights(axes: Any, table: WeightTable) -> None:
    steps = list(range(table.steps.dt.numel()))
    axes.plot(
        steps,
        table.steps.weight_native.tolist(),
        color=NATIVE,
        marker="o",
        markersize=4,
        label="native",
        zorder=3,
    )
    zeta = table.steps.zeta
    weights = table.config.weights if zeta is None else rf"{table.config.weights}, $\zeta$ = {zeta:.4g}"
    axes.plot(
        steps,
        table.steps.weight.tolist(),
        color=PCPO,
        linestyle="--",
        marker="s",
        markersize=4,
        label=weights,
        zorder=3,
    )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("weight $w$")
    axes.set_xlabel("step of the rollout")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)

    # zeta*dt and dt share their shape, so the interval is drawn on a scale of its own, behind the lines.
    interval = axes.twinx()
    interval.bar(steps, table.steps.dt.tolist(), color=INTERVAL, alpha=0.35, width=0.8, label="interval $dt$")
    interval.set_ylabel("interval $dt$")
    interval.set_ylim(bottom=0, top=1.35 * float(table.steps.dt.max()))
    axes.set_zorder(interval.get_zorder() + 1)
    axes.patch.set_visible(False)
    handles = [*axes.get_legend_handles_labels()[0], *interval.get_legend_handles_labels()[0]]
    axes.legend(handles=handles)
