"""The report as Markdown: warnings first, then the tables, the figures, and what each number is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pcpo_overlay.tools.report import quality_tables, stats
from pcpo_overlay.tools.report.text import level_digits, number, percent, reward, table

#: What each number is; in the Markdown and, word for word, in the JSON.
DEFINITIONS = {
    "epoch": "One round of sampling and the training on its samples, counted from 1 in tables and figures and from 0 "
    "in the JSON's curves. The reward of an epoch is that of its samples, drawn before its training.",
    "arm": "All runs of one mode with the same options. A curve of an arm is the mean over its seeds, at the epochs "
    "every seed has; bands and square brackets give the lowest and highest seed, not a standard deviation.",
    "moving average": "Trailing: the mean over an epoch and up to window - 1 before it. Curves are smoothed with it, "
    "and so is the reward before it is held against a threshold.",
    "thresholds": "Unless given with --thresholds: four levels evenly spaced strictly between the highest of the arms' "
    "rewards in the first epoch and the lowest of the arms' best smoothed rewards. The rule treats all arms alike: no "
    "arm starts at a level, and every arm reaches every level.",
    "speed-up": "100 * (baseline's epochs / this arm's epochs - 1) percent, as in the paper's Tables 1 and 10 (260 "
    "against 131 epochs is 98.5%). Negative: slower than the baseline. Epochs are those run until the moving average "
    "of the seed-mean reward first stands at the threshold, that epoch included. 'never': not within the epochs run.",
    "bootstrap interval": "In square brackets at epochs and speed-ups: the range of the same number over 95% of all "
    "resamples of the seeds with replacement (percentile bootstrap), given from 3 seeds on; for a speed-up both arms "
    "take the same seeds, and it has none where a resample of either arm never arrives. With so few seeds it is "
    "narrower than a 95% interval should be; it says how much hangs on single seeds.",
    "fraction outside": "Share of sample-timesteps with |rho - 1| > the clip range (upstream's clipfrac).",
    "fraction masked": "Share of sample-timesteps that give no gradient: outside on the side the advantage points to.",
    "on-policy": "The same in the first optimizer step of each epoch, whose samples the current weights drew: "
    "rho should be 1 there.",
    "gradient norm": "2-norm of the gradient over all trained parameters, before clipping; mean over the optimizer "
    "steps of an epoch.",
    "mean and variance of |grad|": "Over the entries of the first layer's gradient, mean over the optimizer steps of "
    "an epoch (paper, Figure 11). early and late are the first and last 5 epochs, fewer where they would overlap.",
    "error of log rho": "|log rho - (rho - 1)| / |rho - 1| where rho is not 1: what replacing rho - 1 by log rho in "
    "the objective changes.",
    "seconds": "Median over all epochs of all seeds of an arm, by the clock, so other load on the machine counts; "
    "ratio: against the baseline's median.",
    "peak memory": "Highest of an arm's runs: the allocator's peak on a GPU, the process's resident peak on a CPU. "
    "tape: the largest part of it that PCPO's record of a rollout took.",
}

#: The same for numbers that not every report has, by the key of a group, comparison or document that tells.
FURTHER_DEFINITIONS = {
    "validation": {
        "validation reward": "Mean reward on the test prompts, with upstream's own evaluation, after so many epochs of "
        "training: 0 is the model as it was given. Not smoothed.",
    },
    "kl": {
        "KL": "Upstream's KL term between the trained policy and the reference, on the training's own samples, mean "
        "over the backward passes of an epoch. running mean: over all of them from the first epoch on, which is what "
        "the paper's Figure 5 plots. late: over the last 5 epochs, fewer where they would overlap the first.",
        "reward against KL": "As in the paper's Figure 5 c, d: a point is the policy after so many epochs of training, "
        "by the running mean of the KL over those epochs (0 before the first) and its validation reward. Of a run that "
        "was not evaluated after any training the training reward stands in, on the moving average: that of an epoch "
        "is of the policy before its training. Up and to the left is better: more reward for less departure from the "
        "reference.",
    },
}

NO_LEVELS = "No threshold: at least one arm's smoothed reward never rose above where an arm started."

_CAPTIONS = {
    "overview": "Overview",
    "reward": "Reward",
    "validation": "Validation reward",
    "pareto": "Reward against KL, one line per run",
    "clipping": "Fraction outside and fraction masked",
    "gradients": "Gradient statistics",
    "timesteps": "Clipping per timestep, first and last epochs",
    "ratio": "The policy ratio and the error of log rho",
    "time": "Wall-clock time per epoch",
    "quality": "Accuracy, diversity and Fréchet distance against reward",
}


def definitions(document: dict[str, Any]) -> dict[str, str]:
    """What each number of a report on this document is."""
    chosen = dict(DEFINITIONS)
    comparisons = document["comparisons"]
    places = [
        document,
        *comparisons,
        *(group for comparison in comparisons for group in comparison["groups"]),
    ]
    for key, further in (FURTHER_DEFINITIONS | quality_tables.DEFINITIONS).items():
        if any(place.get(key) for place in places):
            chosen |= further
    return chosen


def render(document: dict[str, Any]) -> str:
    """The whole report of a document that :func:`compare.compare` made and ``build`` added ``figures`` to."""
    parts = ["# PCPO report", "", *_quoted("Note", document["notes"])]
    for comparison in document["comparisons"]:
        parts += [_comparison(comparison, document["window"]), ""]
    for model in document["mixed_models"]:
        parts += [f"## {quality_tables.title_of_model(model)}", "", *_quoted("Warning", model["notes"])]
        if model["metrics"]:
            parts += [quality_tables.mixed_model_table(model), ""]
    parts += ["## What each number is", ""]
    parts += [f"- **{name}**: {text}" for name, text in definitions(document).items()]
    return "\n".join(parts).rstrip() + "\n"


def _comparison(comparison: dict[str, Any], window: int) -> str:
    warnings = list(comparison["warnings"])
    if not comparison["baseline_is_observe"]:
        warnings.insert(
            0, f"the baseline here is `{comparison['baseline']}`, not `observe` (upstream's objective)"
        )
    parts = [f"## {title_of(comparison)}", "", *_quoted("Warning", warnings)]
    parts += [f"Baseline: `{comparison['baseline']}`. Moving average: {window} epochs.", ""]
    figures = comparison.get("figures", {})
    if "overview" in figures:
        parts += [f"![{_CAPTIONS['overview']}]({figures['overview']})", ""]
    for title, text in tables(comparison):
        parts += [f"### {title}", "", text, ""]
    parts += ["### Figures", ""]
    for name, file in figures.items():
        if name != "overview":
            parts += [f"![{_CAPTIONS[name]}]({file})", ""]
    return "\n".join(parts).rstrip()


def title_of(comparison: dict[str, Any]) -> str:
    """The upstream, with the batch size where there are several."""
    size = comparison["batch_size"]
    return str(comparison["upstream"]) + ("" if size is None else f", {size} samples an epoch")


def _quoted(kind: str, texts: Sequence[str]) -> list[str]:
    """One Markdown quotation of several paragraphs, and the empty line after it; nothing for no text."""
    return ["\n>\n".join(f"> **{kind}:** {text}" for text in texts), ""] if texts else []


def tables(comparison: dict[str, Any]) -> list[tuple[str, str]]:
    """Every table of one upstream's comparison: title and Markdown."""
    result = [
        ("Epochs to reach a reward", speedup_table(comparison) + _interval_note(comparison)),
        ("Reward", _reward_table(comparison)),
        ("Clipping", _clipping_table(comparison)),
        ("Gradients", _gradient_table(comparison)),
        ("Policy ratio", _ratio_table(comparison)),
        ("Time and memory", _time_table(comparison)),
        ("Runs", _run_table(comparison)),
    ]
    further = [(key, title) for key, title in _FURTHER_TABLE.items() if key in comparison["groups"][0]]
    if further:
        result.insert(2, (" and ".join(title for _, title in further), _validation_table(comparison)))
    if "quality" in comparison:
        result[2:2] = quality_tables.tables(comparison)
    if any(len(group["runs"]) > 1 for group in comparison["groups"]):
        result.insert(1, ("Epochs to reach a reward, seed by seed", _seed_table(comparison)))
    return result


def speedup_table(comparison: dict[str, Any]) -> str:
    """Thresholds down, arms across: epochs, and the speed-up against the baseline."""
    levels, baseline = comparison["thresholds"]["levels"], comparison["baseline"]
    if not levels:
        return NO_LEVELS
    head = ["reward"]
    for group in comparison["groups"]:
        head.append(group["label"])
        if group["label"] != baseline:
            head.append("speed-up")
    digits = level_digits(comparison)
    rows = []
    for level in levels:
        row = [reward(level["reward"], digits)]
        for arm in level["arms"]:
            row.append(_epochs(arm["epochs"]) + _bracketed(arm["epochs_interval"], _epochs))
            if arm["label"] != baseline:
                row.append(percent(arm["speedup_percent"]) + _bracketed(arm["speedup_interval"], percent))
        rows.append(row)
    return table(head, rows)


def _bracketed(held: dict[str, float | None] | None, shown: Callable[[Any], str]) -> str:
    """An interval as the tables print it; nothing for none."""
    return "" if held is None else f" [{shown(held['low'])}, {shown(held['high'])}]"


def _interval_note(comparison: dict[str, Any]) -> str:
    """What the brackets are, and why there are none where there are too few seeds."""
    few = [group["label"] for group in comparison["groups"] if len(group["runs"]) < stats.LEAST_SEEDS]
    if not comparison["thresholds"]["levels"]:
        return ""
    if len(few) < len(comparison["groups"]):
        told = f"; none for {', '.join(few)}, with fewer than {stats.LEAST_SEEDS} seeds" if few else ""
        return f"\n\nIn brackets: bootstrap interval of 95% over seeds{told}."
    return f"\n\nNo bootstrap intervals: they take {stats.LEAST_SEEDS} seeds an arm."


def _seed_table(comparison: dict[str, Any]) -> str:
    levels = comparison["thresholds"]["levels"]
    if not levels:
        return NO_LEVELS
    digits = level_digits(comparison)
    head = ["arm", "seed", *(reward(level["reward"], digits) for level in levels)]
    rows = []
    for index, group in enumerate(comparison["groups"]):
        for place, run in enumerate(group["runs"]):
            entries = [level["arms"][index]["seeds"][place] for level in levels]
            cells = [_epochs(e["epochs"]) + _with_speedup(e.get("speedup_percent")) for e in entries]
            rows.append([group["label"], _or_dash(run["seed"]), *cells])
    return (
        table(head, rows, left=1)
        + "\n\nIn brackets: the speed-up against the baseline's run of the same seed."
    )


def _with_speedup(value: float | None) -> str:
    return "" if value is None else f" ({percent(value)})"


def _reward_table(comparison: dict[str, Any]) -> str:
    last = comparison["last_common_epoch"]
    shared = "at the last common epoch" if last is None else f"at epoch {last + 1} (last common)"
    digits = level_digits(comparison)
    rows = []
    for group in comparison["groups"]:
        held = group["reward"]
        final = reward(held["final"], digits)
        if len(group["runs"]) > 1 and held["final"] is not None:
            final += f" [{reward(held['final_low'], digits)}, {reward(held['final_high'], digits)}]"
        shared_reward, best = reward(held["at_last_common_epoch"], digits), reward(held["best"], digits)
        rows.append([group["label"], final, shared_reward, best])
    return table(["arm", "final", shared, "best"], rows, left=1) + "\n\nAll on the moving average."


_FURTHER_TABLE = {"validation": "Validation reward", "kl": "KL"}


def _validation_table(comparison: dict[str, Any]) -> str:
    """What there is of validation reward and KL."""
    groups, digits = comparison["groups"], level_digits(comparison)
    columns: list[tuple[str, list[str]]] = []
    if "validation" in groups[0]:
        at = comparison["last_common_evaluation"]
        head = (
            "reward at the last common evaluation" if at is None else f"reward after epoch {at} (last common)"
        )
        for name, key in ((head, "at_last_common_evaluation"), ("best until then", "best")):
            columns.append((name, [_with_spread(g, g["validation"][key], digits) for g in groups]))
    if "kl" in groups[0]:
        last = comparison["last_common_kl_epoch"]
        until = "" if last is None else f" to epoch {last + 1}"
        for name, key in (
            (f"KL, running mean{until}", "running_mean"),
            ("KL, mean of epochs", "loss_mean"),
            ("KL, late", "loss_late"),
        ):
            columns.append((name, [_with_spread(g, g["kl"][key]) for g in groups]))
    rows = [[group["label"], *(cells[n] for _, cells in columns)] for n, group in enumerate(groups)]
    text = table(["arm", *(name for name, _ in columns)], rows, left=1)
    return f"{text}\n\nMean over seeds, in brackets the lowest and the highest; not smoothed."


def _with_spread(group: dict[str, Any], held: dict[str, float | None], digits: int | None = None) -> str:
    """A mean with its extremes over seeds; as a reward where ``digits`` are given."""

    def shown(value: float | None) -> str:
        return number(value, 3) if digits is None else reward(value, digits)

    if len(group["runs"]) > 1 and held["mean"] is not None:
        return f"{shown(held['mean'])} [{shown(held['low'])}, {shown(held['high'])}]"
    return shown(held["mean"])


def _clipping_table(comparison: dict[str, Any]) -> str:
    head = ["arm", "outside", "masked", "outside, on-policy", "masked, on-policy"]
    keys = ("fraction_outside", "fraction_masked", "on_policy_fraction_outside", "on_policy_fraction_masked")
    rows = [[g["label"], *(number(g["clipping"][key]) for key in keys)] for g in comparison["groups"]]
    return table(head, rows, left=1) + "\n\nMean over all epochs and seeds."


def _gradient_table(comparison: dict[str, Any]) -> str:
    head = [
        "arm",
        "norm, early",
        "norm, late",
        "mean, early",
        "mean, late",
        "variance, early",
        "variance, late",
    ]
    rows = []
    for group in comparison["groups"]:
        values = [
            group["gradients"][f"{key}_{when}"]["mean"]
            for key in ("grad_norm", "grad_abs_mean", "grad_abs_var")
            for when in ("early", "late")
        ]
        rows.append([group["label"], *map(number, values)])
    layers = sorted({g["gradients"]["layer"] for g in comparison["groups"] if g["gradients"]["layer"]})
    told = f" First layer: `{'`, `'.join(layers)}`." if layers else ""
    return table(head, rows, left=1) + f"\n\nmean and variance: of |grad| of the first layer.{told}"


def _ratio_table(comparison: dict[str, Any]) -> str:
    head = [
        "arm",
        "mean of rho",
        "std of rho",
        "mean of rho - 1, on-policy",
        "std, on-policy",
        "error of log rho, mean",
    ]
    head.append("max")
    rows = []
    for group in comparison["groups"]:
        log_ratio, clipping = group["log_ratio"], group["clipping"]
        on_policy = clipping["on_policy_ratio_mean"]
        rows.append(
            [
                group["label"],
                "-" if log_ratio["ratio_mean"] is None else f"{log_ratio['ratio_mean']:.6f}",
                number(log_ratio["ratio_std"]),
                number(None if on_policy is None else on_policy - 1),
                number(clipping["on_policy_ratio_std"]),
                number(log_ratio["error_mean"]),
                number(log_ratio["error_max"]),
            ]
        )
    return table(head, rows, left=1)


def _time_table(comparison: dict[str, Any]) -> str:
    head = [
        "arm",
        "sampling, s",
        "ratio",
        "training, s",
        "ratio",
        "epoch, s",
        "ratio",
        "peak memory, MiB",
        "tape, MiB",
    ]
    rows = []
    for group in comparison["groups"]:
        row = [group["label"]]
        for part in ("sampling", "training", "total"):
            row += [number(group["time"][f"{part}_median_s"]), number(group["time"][f"{part}_ratio"], 3)]
        rows.append([*row, _mebibytes(group["peak_memory_bytes"], 0), _mebibytes(group["tape_bytes"], 1)])
    return table(head, rows, left=1)


def _mebibytes(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value / 2**20:.{digits}f}"


def _run_table(comparison: dict[str, Any]) -> str:
    head = ["run", "arm", "seed", "status", "epochs", "upstream commit", "patched tree", "device"]
    rows = []
    for group in comparison["groups"]:
        for run in group["runs"]:
            planned = "" if run["planned_epochs"] is None else f" of {run['planned_epochs']}"
            rows.append(
                [
                    run["name"],
                    group["label"],
                    _or_dash(run["seed"]),
                    _or_dash(run["status"]),
                    f"{run['epochs']}{planned}",
                    _or_dash(run["upstream_commit"])[:12],
                    _or_dash(run["patched_tree"])[:12],
                    _or_dash(run["device"]),
                ]
            )
    return table(head, rows, left=2)


def _epochs(value: int | None) -> str:
    return "never" if value is None else str(value)


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
