"""The report's figures, drawn from the document that :func:`compare.compare` makes. Needs matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.report import stats, text

# Okabe and Ito's palette, told apart with every common colour vision; the ladder has the colours of the paper's
# Figure 6 (blue, green, red, orange). Line styles differ too, for arms that lie on top of each other and for print.
_LADDER = {
    "observe": ("#0072B2", "-"),
    "log": ("#009E73", "--"),
    "match": ("#D55E00", "-."),
    "full": ("#E69F00", "-"),
}
_OTHERS = (("#CC79A7", "--"), ("#56B4E9", "-."), ("#000000", ":"), ("#7F7F7F", "--"), ("#8C510A", ":"))
#: Markers of the arms where lines may cross and run back.
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p")
#: Up to this many epochs every one gets a marker.
_MARKED = 30


def draw_all(comparison: dict[str, Any], window: int, out: Path, prefix: str = "") -> dict[str, str]:
    """Draw every figure of one upstream's comparison as PNG.

    Args:
        comparison: one entry of ``comparisons``.
        window: the moving average's window, for the captions inside the figures.
        out: an existing folder.
        prefix: put before every file name.

    Returns:
        File name by figure name; figures nothing was recorded for are absent.

    Raises:
        ImportError: matplotlib is missing; the message names the extra to install.
    """
    drawn = {}
    for name, draw in FIGURES.items():
        figure = draw(comparison, window)
        if figure is None:
            continue
        file = f"{prefix}{name}.png"
        image = io.BytesIO()
        figure.savefig(image, format="png")
        (out / file).write_bytes(image.getvalue())
        drawn[name] = file
    return drawn


def require_matplotlib() -> None:
    """Raise an ImportError that names the extra, where matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ImportError(
            'the figures need matplotlib; install it with: pip install "pcpo-overlay[report]"'
        ) from None


def _figure(width: float, height: float) -> Any:
    require_matplotlib()
    from matplotlib.figure import Figure

    # A bare Figure draws with Agg: no display, and nothing global is changed.
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _styles(groups: Sequence[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    others = iter(_OTHERS * len(groups))
    return {g["label"]: _LADDER.get(g["label"]) or next(others) for g in groups}


def _named(group: dict[str, Any]) -> str:
    seeds = len(group["runs"])
    return f"{group['label']} ({seeds} seeds)" if seeds > 1 else str(group["label"])


def _has(comparison: dict[str, Any], key: str) -> bool:
    return any(group["curves"][key]["epoch"] for group in comparison["groups"])


def _draw_curves(
    axes: Any, comparison: dict[str, Any], key: str, window: int, *, raw: bool = False, log: bool = False
) -> None:
    """One curve of every group by epoch, counted from 1."""
    curves = [group["curves"][key] for group in comparison["groups"]]
    _draw_arms(axes, comparison, curves, window, first=1, raw=raw, log=log)
    _finish(axes, "epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_arms(
    axes: Any,
    comparison: dict[str, Any],
    curves: Sequence[dict[str, Any]],
    window: int,
    *,
    first: int,
    raw: bool = False,
    log: bool = False,
) -> None:
    """The moving average of the mean over seeds, the seeds' lowest to highest as a band, optionally the raw mean.

    Args:
        axes: where.
        comparison: whose groups the curves belong to.
        curves: one per group.
        window: the moving average's, in entries of the curves.
        first: the number that the entry 0 of a curve is drawn at.
        raw: whether to draw the mean before smoothing too.
        log: whether the axis is to be logarithmic.
    """
    styles = _styles(comparison["groups"])
    for group, curve in zip(comparison["groups"], curves, strict=True):
        colour, line = styles[group["label"]]
        if not curve["epoch"]:
            continue
        x = [epoch + first for epoch in curve["epoch"]]
        marker = "o" if len(x) <= _MARKED else None
        if raw:
            axes.plot(x, curve["mean"], color=colour, linewidth=0.7, alpha=0.45)
        axes.plot(
            x, curve["smoothed"], color=colour, linestyle=line, linewidth=1.8, marker=marker, markersize=3,
            label=_named(group),
        )  # fmt: skip
        if len(group["runs"]) > 1:
            axes.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
        _draw_longer_seeds(axes, curve, colour, window, first)
    values = [v for curve in curves for v in curve["smoothed"]]
    if log and any(v > 0 for v in values):
        axes.set_yscale("log", nonpositive="mask")


def _draw_longer_seeds(axes: Any, curve: dict[str, Any], colour: str, window: int, first: int) -> None:
    """Seeds that went on after the shortest one of their arm, from where the mean ends, each as a dotted line."""
    end = max(curve["epoch"])
    for seed in curve["seeds"]:
        smoothed = stats.moving_average(dict(zip(seed["epoch"], seed["value"], strict=True)), window)
        beyond = {epoch: value for epoch, value in smoothed.items() if epoch >= end}
        if len(beyond) > 1:
            axes.plot(
                [epoch + first for epoch in beyond],
                list(beyond.values()),
                color=colour,
                linewidth=1,
                linestyle=":",
            )


def _finish(axes: Any, xlabel: str) -> None:
    axes.set_xlabel(xlabel)
    axes.grid(alpha=0.3, linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _title(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize="medium")


def _legend_below(figure: Any, axes: Any) -> None:
    handles, names = axes.get_legend_handles_labels()
    if names:
        # About 13 characters an inch at this size, and 5 for each line's sample.
        columns = int(figure.get_figwidth() * 13 / (max(map(len, names)) + 5))
        figure.legend(
            handles, names, loc="outside lower center", ncols=max(1, min(columns, len(names))), frameon=False,
            fontsize="small",
        )  # fmt: skip


def _caption(comparison: dict[str, Any], window: int) -> str:
    return f"moving average of {window} epochs{_bands(comparison)}"


def _bands(comparison: dict[str, Any]) -> str:
    many = any(len(group["runs"]) > 1 for group in comparison["groups"])
    band = "; band: lowest to highest seed" if many else ""
    if any(len({run["epochs"] for run in group["runs"]}) > 1 for group in comparison["groups"]):
        band += "; dotted on: seeds longer than their arm's shortest"
    return band


def reward(comparison: dict[str, Any], window: int) -> Any:
    """Reward by epoch, with the thresholds of the speed-up table."""
    if not _has(comparison, "reward_mean"):
        return None
    figure = _figure(7, 4.4)
    axes = figure.subplots()
    for level in comparison["thresholds"]["levels"]:
        axes.axhline(level["reward"], color="#999999", linewidth=0.6, linestyle=":")
    _draw_curves(axes, comparison, "reward_mean", window, raw=True)
    axes.set_ylabel("reward")
    thin = "thin lines: each epoch's mean over seeds"
    dotted = "; grey: thresholds" if comparison["thresholds"]["levels"] else ""
    _title(axes, textwrap.fill(f"{_caption(comparison, window)}; {thin}{dotted}", 90))
    axes.title.set_fontsize("small")
    figure.suptitle("Reward", fontsize="medium")
    _legend_below(figure, axes)
    return figure


def validation(comparison: dict[str, Any], window: int) -> Any:
    """Validation reward by epochs of training."""
    groups = comparison["groups"]
    if not any("validation" in group for group in groups):
        return None
    figure = _figure(7, 4.4)
    axes = figure.subplots()
    _draw_arms(axes, comparison, [group["validation"]["curve"] for group in groups], 1, first=0)
    _finish(axes, "epochs of training")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("validation reward")
    _title(axes, textwrap.fill(f"each evaluation on the test prompts, not smoothed{_bands(comparison)}", 90))
    axes.title.set_fontsize("small")
    figure.suptitle("Validation reward", fontsize="medium")
    _legend_below(figure, axes)
    return figure


def pareto(comparison: dict[str, Any], window: int) -> Any:
    """Reward against KL, as in the paper's Figure 5 c and d: a line per run, from a hollow marker to a large one."""
    groups = comparison["groups"]
    ways = [(group, way) for group in groups for way in group.get("reward_against_kl", []) if way["kl"]]
    if not ways:
        return None
    figure = _figure(7, 4.8)
    axes = figure.subplots()
    styles = _styles(groups)
    shapes = {group["label"]: _SHAPES[n % len(_SHAPES)] for n, group in enumerate(groups)}
    named = set()
    for group, way in ways:
        (colour, line), shape = styles[group["label"]], shapes[group["label"]]
        once = None if group["label"] in named else _named(group)
        named.add(group["label"])
        axes.plot(
            way["kl"], way["reward"], color=colour, linestyle=line, linewidth=1.5, label=once,
            marker=shape, markersize=3.5 if len(way["kl"]) <= _MARKED else 0,
        )  # fmt: skip
        _end_marker(axes, way["kl"][0], way["reward"][0], shape, facecolor="white", edgecolor=colour)
        _end_marker(axes, way["kl"][-1], way["reward"][-1], shape, facecolor=colour, edgecolor="black")
    _end_marker(axes, [], [], "o", facecolor="white", edgecolor="#555555", label="start of a run")
    _end_marker(axes, [], [], "o", facecolor="#999999", edgecolor="black", label="its end")
    _finish(axes, "KL to the reference policy, mean over the epochs so far")
    axes.set_ylabel(_pareto_reward({way["source"] for _, way in ways}, window))
    figure.suptitle("Reward against KL, one line per run", fontsize="medium")
    _legend_below(figure, axes)
    return figure


def _end_marker(axes: Any, x: Any, y: Any, shape: str, **options: Any) -> None:
    axes.scatter(x, y, s=64, marker=shape, linewidths=1.3, zorder=3, **options)


def _pareto_reward(sources: set[str], window: int) -> str:
    training = f"training reward, moving average of {window} epochs"
    if sources == {"validation"}:
        return "validation reward"
    return training if sources == {"training"} else f"validation reward; where there is none,\n{training}"


_QUALITY_PANELS = (
    ("accuracy", "(a) accuracy"),
    ("diversity", "(b) diversity within a prompt"),
    ("frechet_prompt", "(c) Fréchet distance to base, by prompt"),
)


def quality(comparison: dict[str, Any], window: int) -> Any:
    """What checkpoints draw against their reward: a thin line per run, and each arm's mean at the matched levels."""
    held = comparison.get("quality")
    if held is None:
        return None
    figure = _figure(12, 4.4)
    panels = figure.subplots(1, len(_QUALITY_PANELS))
    styles = _styles(comparison["groups"])
    for axes, (key, name) in zip(panels, _QUALITY_PANELS, strict=True):
        for group in comparison["groups"]:
            colour, line = styles[group["label"]]
            for way in held["ways"][group["label"]]:
                axes.plot(
                    way["reward"], way[key], color=colour, linestyle=line, linewidth=0.8, alpha=0.55, marker="o",
                    markersize=2.5,
                )  # fmt: skip
            _matched(axes, held["levels"], group, key, colour)
        _title(axes, name)
        _finish(axes, "reward of the evaluated images")
    caption = (
        "thin: checkpoints of a run, from the base model on; squares: mean over seeds at a level of reward"
    )
    if any(arm["epochs"]["low"] is not None for level in held["levels"] for arm in level["arms"]):
        caption += ", with its bootstrap interval of 95%"
    figure.suptitle(f"Quality at matched reward ({caption})", fontsize="medium")
    _legend_below(figure, panels[0])
    return figure


def _matched(
    axes: Any, levels: Sequence[dict[str, Any]], group: dict[str, Any], key: str, colour: str
) -> None:
    """An arm's means at the levels of reward that it reached, as squares, the intervals as bars."""
    arms = [
        (level["reward"], arm[key])
        for level in levels
        for arm in level["arms"]
        if arm["label"] == group["label"] and arm[key]["mean"] is not None
    ]
    means = [value["mean"] for _, value in arms]
    # a mean may differ in the last bit from equal numbers
    bars = [
        [max(0.0, v["mean"] - (v["mean"] if v["low"] is None else v["low"])) for _, v in arms],
        [max(0.0, (v["mean"] if v["high"] is None else v["high"]) - v["mean"]) for _, v in arms],
    ]
    axes.errorbar(
        [x for x, _ in arms], means, yerr=bars, color=colour, linestyle="none", marker="s", markersize=5, capsize=2,
        label=_named(group),
    )  # fmt: skip


def clipping(comparison: dict[str, Any], window: int) -> Any:
    """Fraction outside and fraction masked by epoch."""
    if not _has(comparison, "fraction_outside"):
        return None
    figure = _figure(10, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    _draw_curves(panels[0], comparison, "fraction_outside", window)
    _draw_curves(panels[1], comparison, "fraction_masked", window)
    _title(panels[0], r"(a) outside: $|\rho-1|>\xi$")
    _title(panels[1], r"(b) masked: no gradient")
    panels[0].set_ylabel("fraction of sample-timesteps")
    panels[0].set_ylim(bottom=0)
    figure.suptitle(f"Clipping ({_caption(comparison, window)})", fontsize="medium")
    _legend_below(figure, panels[0])
    return figure


_GRADIENT_PANELS = (
    ("grad_norm", "gradient norm"),
    ("grad_abs_mean", r"mean of $|\mathrm{grad}|$, first layer"),
    ("grad_abs_var", r"variance of $|\mathrm{grad}|$, first layer"),
)


def gradients(comparison: dict[str, Any], window: int) -> Any:
    """Gradient statistics by epoch, and early against late as in the paper's Figure 11."""
    panels = [(key, name) for key, name in _GRADIENT_PANELS if _has(comparison, key)]
    if not panels:
        return None
    figure = _figure(3.9 * len(panels), 7)
    grid = figure.subplots(2, len(panels), squeeze=False)
    for column, (key, name) in enumerate(panels):
        _draw_curves(grid[0][column], comparison, key, window)
        _title(grid[0][column], name)
        grid[0][column].set_ylim(bottom=0)
        _early_late_bars(grid[1][column], comparison, key)
        _title(grid[1][column], "the same, first and last epochs")
        for axes in (grid[0][column], grid[1][column]):
            axes.yaxis.set_major_formatter("{x:.3g}")
    figure.suptitle(f"Gradients before clipping ({_caption(comparison, window)})", fontsize="medium")
    _legend_below(figure, grid[0][0])
    return figure


def _early_late_bars(axes: Any, comparison: dict[str, Any], key: str) -> None:
    groups, styles = comparison["groups"], _styles(comparison["groups"])
    width = 0.8 / len(groups)
    for index, group in enumerate(groups):
        for place, when in enumerate(("early", "late")):
            value = group["gradients"][f"{key}_{when}"]
            if value["mean"] is None:
                continue
            x = place + (index - (len(groups) - 1) / 2) * width
            bar = axes.bar(x, value["mean"], width * 0.9, color=styles[group["label"]][0])
            bar[0].set_hatch("" if place == 0 else "//")
            bar[0].set_edgecolor("white")
            if len(group["runs"]) > 1:
                # The mean of equal numbers may differ from them in the last bit.
                spread = [[max(0.0, value["mean"] - value["low"])], [max(0.0, value["high"] - value["mean"])]]
                axes.errorbar(x, value["mean"], yerr=spread, color="black", capsize=2, linewidth=0.8)
    axes.set_xticks([0, 1], ["early", "late"])
    axes.set_xlim(-0.6, 1.6)
    _finish(axes, "")


def timesteps(comparison: dict[str, Any], window: int) -> Any:
    """Fraction outside and masked per timestep, early and late."""
    groups = comparison["groups"]
    if not any(group["per_timestep"]["early"]["timestep"] for group in groups):
        return None
    figure = _figure(10, 6.6)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    styles = _styles(groups)
    for row, (key, name) in enumerate((("fraction_outside", "outside"), ("fraction_masked", "masked"))):
        for column, when in enumerate(("early", "late")):
            axes = grid[row][column]
            for group in groups:
                table, (colour, line) = group["per_timestep"][when], styles[group["label"]]
                axes.plot(
                    table["timestep"], table[key], color=colour, linestyle=line, marker="o", markersize=2.5,
                    linewidth=1.2, label=_named(group),
                )  # fmt: skip
            _finish(axes, "timestep (noise to image)" if row else "")
            _title(axes, f"{name}, {'first' if when == 'early' else 'last'} epochs")
            if column == 0:
                axes.set_ylabel("fraction")
    grid[0][0].set_ylim(bottom=0)
    grid[0][0].invert_xaxis()
    figure.suptitle("Clipping per timestep", fontsize="medium")
    _legend_below(figure, grid[0][0])
    return figure


def ratio(comparison: dict[str, Any], window: int) -> Any:
    """Spread of the policy ratio, and how far log rho is from rho - 1."""
    if not _has(comparison, "ratio_std"):
        return None
    figure = _figure(10, 4.2)
    panels = figure.subplots(1, 2)
    _draw_curves(panels[0], comparison, "ratio_std", window, log=True)
    _draw_curves(panels[1], comparison, "log_ratio_error_mean", window, log=True)
    _title(panels[0], r"(a) standard deviation of $\rho$")
    _title(panels[1], r"(b) mean of $|\log\rho-(\rho-1)|\,/\,|\rho-1|$ where $\rho\neq 1$")
    figure.suptitle(f"Policy ratio ({_caption(comparison, window)}; zeros are not drawn)", fontsize="medium")
    _legend_below(figure, panels[0])
    return figure


def time(comparison: dict[str, Any], window: int) -> Any:
    """Median wall-clock seconds of an epoch, sampling and training."""
    groups = [g for g in comparison["groups"] if g["time"]["total_median_s"] is not None]
    if not groups:
        return None
    figure = _figure(7, max(2.6, 1.7 + 0.55 * len(groups)))
    axes = figure.subplots()
    for y, group in enumerate(groups):
        left = 0.0
        for part, colour, hatch in (("sampling", "#56B4E9", ""), ("training", "#999999", "//")):
            seconds = group["time"][f"{part}_median_s"]
            if seconds is None:
                continue
            axes.barh(
                y, seconds, left=left, color=colour, hatch=hatch, edgecolor="white", height=0.6,
                label=part if y == 0 else None,
            )  # fmt: skip
            left += seconds
        total, against = group["time"]["total_median_s"], group["time"]["total_ratio"]
        told = f" {total:.3g} s" + (
            f" ({against:.2f}x)" if against is not None and group["label"] != comparison["baseline"] else ""
        )
        axes.text(max(left, total), y, told, va="center")
    axes.set_yticks(range(len(groups)), [_named(group) for group in groups])
    axes.invert_yaxis()
    # Room for the text: set by hand, since text beyond the axes would squeeze them.
    axes.set_xlim(0, 1.35 * max(g["time"]["total_median_s"] for g in groups) or 1)
    _finish(axes, "median seconds per epoch")
    _title(axes, f"Wall-clock time of an epoch (x: against {comparison['baseline']})")
    _legend_below(figure, axes)
    return figure


def overview(comparison: dict[str, Any], window: int) -> Any:
    """The four curves that tell most, in one picture."""
    if not _has(comparison, "reward_mean"):
        return None
    figure = _figure(10, 7)
    grid = figure.subplots(2, 2)
    _draw_curves(grid[0][0], comparison, "reward_mean", window)
    _title(grid[0][0], "(a) reward")
    _draw_curves(grid[0][1], comparison, "fraction_outside", window)
    _title(grid[0][1], r"(b) fraction outside, $|\rho-1|>\xi$")
    grid[0][1].set_ylim(bottom=0)
    _draw_curves(grid[1][0], comparison, "grad_norm", window)
    _title(grid[1][0], "(c) gradient norm")
    grid[1][0].set_ylim(bottom=0)
    _speedups(grid[1][1], comparison)
    figure.suptitle(f"{comparison['upstream']}: {_caption(comparison, window)}", fontsize="medium")
    _legend_below(figure, grid[0][0])
    return figure


def _speedups(axes: Any, comparison: dict[str, Any]) -> None:
    """Epochs to reach each threshold; a cross at the top where an arm never does."""
    groups, styles = comparison["groups"], _styles(comparison["groups"])
    levels = comparison["thresholds"]["levels"]
    _title(axes, "(d) epochs to reach a reward")
    width = 0.8 / len(groups)
    reached = [arm["epochs"] for level in levels for arm in level["arms"] if arm["epochs"] is not None]
    for place, level in enumerate(levels):
        for index, arm in enumerate(level["arms"]):
            x, colour = place + (index - (len(groups) - 1) / 2) * width, styles[arm["label"]][0]
            if arm["epochs"] is None:
                axes.plot(x, 1.08 * max(reached, default=1), marker="x", color=colour)
            else:
                axes.bar(x, arm["epochs"], width * 0.9, color=colour)
    digits = text.level_digits(comparison)
    axes.set_xticks(range(len(levels)), [text.reward(level["reward"], digits) for level in levels])
    if not levels:
        axes.text(0.5, 0.5, "no threshold: see the table", ha="center", transform=axes.transAxes)
    axes.set_ylabel("epochs (x: never)")
    _finish(axes, "reward threshold")


FIGURES: dict[str, Callable[[dict[str, Any], int], Any]] = {
    "overview": overview,
    "reward": reward,
    "validation": validation,
    "pareto": pareto,
    "quality": quality,
    "clipping": clipping,
    "gradients": gradients,
    "timesteps": timesteps,
    "ratio": ratio,
    "time": time,
}
