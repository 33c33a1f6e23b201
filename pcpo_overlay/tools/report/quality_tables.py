"""The report's tables on quality at matched reward, and of the mixed model, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pcpo_overlay.tools.report import stats
from pcpo_overlay.tools.report.mixed_model import EFFECTS
from pcpo_overlay.tools.report.text import level_digits, number, reward, table

#: What each number is, by the key of a comparison or document that has it.
DEFINITIONS = {
    "quality": {
        "quality": "What `evaluate` measured on images drawn from checkpoints, equally many of each of the ten "
        "prompts, with the run's steps, guidance and eta or noise level, upstream's native sampler in all arms "
        "and the same noise for every policy. reward: the mean of the run's own reward over these images. "
        "accuracy: the share that the digit classifier reads as prompted.",
        "diversity": "Mean distance of two images of one prompt in the features of the digit classifier's last but "
        "one layer, mean over the prompts. It falls where a policy collapses.",
        "Fréchet distance": "That of FID, in the same features: between a policy's images and the base model's, of "
        "all prompts together, and of each prompt by itself (mean over the prompts). 0 is the base model. As in "
        "Appendix B.3 of the paper it measures drift: at the same reward, lower is better. It falls with more "
        "samples, a prompt's own especially where they are fewer than the 64 features: compare it among equal "
        "numbers of samples only.",
        "matched reward": "A run's policy when its evaluated reward first reaches a level, with everything "
        "interpolated linearly between the last checkpoint below and the first at the level; the closer the "
        "checkpoints, the less hangs on that. Unless given with --thresholds the levels are four, evenly spaced "
        "strictly between the base model's reward and the lowest of the runs' best. Numbers are means over seeds, in "
        "brackets their bootstrap interval; a difference is taken seed by seed.",
    },
    "mixed_models": {
        "mixed model": "As in Tables 3 and 4 of the paper: a metric of one prompt's images ~ algorithm * batch size "
        "with a random intercept per prompt, by restricted maximum likelihood (statsmodels' MixedLM), at matched "
        "reward. algorithm: 0 baseline, 1 the other arm; batch size, samples of an epoch: 0 the smaller, 1 the "
        "larger; interaction: both 1. With one batch size the algorithm alone. p is two-sided, of the normal "
        "distribution: it sets a coefficient against what is left within a prompt. Runs are no random effect: "
        "with one run of a kind it says nothing of other seeds, and with several it takes their prompts for "
        "independent. The level is the highest of those that every run passes.",
    },
}

NO_MATCH = (
    "No level of reward: at least one run's evaluated reward never rose above that of the model it began as."
)
_QUALITY = {
    "reward": "reward",
    "accuracy": "accuracy",
    "diversity": "diversity",
    "frechet_prompt": "Fréchet distance, by prompt",
    "frechet": "Fréchet distance, all prompts",
}
_AT_LEVEL = [key for key in _QUALITY if key != "reward"]
METRIC_OF_PROMPT = {
    "frechet": "Fréchet distance",
    "diversity": "diversity",
    "accuracy": "accuracy",
    "reward": "reward",
}


def tables(comparison: dict[str, Any]) -> list[tuple[str, str]]:
    """Title and Markdown of what there is to show of a comparison with ``quality``."""
    return [
        ("Quality at matched reward", _quality_table(comparison)),
        ("Quality at matched reward, difference to the baseline", _difference_table(comparison)),
        ("Quality at the last checkpoint", _last_quality_table(comparison)),
    ]


def _estimated(held: dict[str, float | None], digits: int | None = None, sign: str = "") -> str:
    """A mean and its bootstrap interval, where there is one; as a reward where ``digits`` are given."""

    def shown(value: float | None) -> str:
        if digits is not None:
            return reward(value, digits)
        return "-" if value is None else f"{value:{sign}.4g}"

    interval = "" if held["low"] is None else f" [{shown(held['low'])}, {shown(held['high'])}]"
    return shown(held["mean"]) + interval


def _level_names(levels: Sequence[dict[str, Any]]) -> list[str]:
    digits = level_digits({"thresholds": {"levels": levels}})
    return [reward(level["reward"], digits) for level in levels]


def _quality_table(comparison: dict[str, Any]) -> str:
    """Levels of reward and arms down, what was measured across."""
    held = comparison["quality"]
    if not held["levels"]:
        return NO_MATCH
    rows = []
    for name, level in zip(_level_names(held["levels"]), held["levels"], strict=True):
        for group, arm in zip(comparison["groups"], level["arms"], strict=True):
            runs = f"{arm['runs']} of {len(group['runs'])}"
            cells = [_estimated(arm[key]) for key in ("epochs", *_AT_LEVEL)]
            rows.append([name, arm["label"], runs, *cells])
    head = ["reward", "arm", "seeds", "epochs", *(_QUALITY[key] for key in _AT_LEVEL)]
    return table(head, rows, left=2) + f"\n\n{_drawn(held)}"


def _difference_table(comparison: dict[str, Any]) -> str:
    held = comparison["quality"]
    if not held["levels"]:
        return NO_MATCH
    rows = [
        [name, arm["label"], str(arm["difference"]["runs"])]
        + [_estimated(arm["difference"][key], sign="+") for key in _AT_LEVEL]
        for name, level in zip(_level_names(held["levels"]), held["levels"], strict=True)
        for arm in level["arms"]
        if "difference" in arm
    ]
    if not rows:
        return "There is no other arm than the baseline."
    head = ["reward", "arm", "seeds", *(_QUALITY[key] for key in _AT_LEVEL)]
    few = all(int(row[2]) < stats.LEAST_SEEDS for row in rows)
    note = (
        f"\n\nNo bootstrap intervals: they take {stats.LEAST_SEEDS} seeds that both arms have." if few else ""
    )
    return table(head, rows, left=2) + note


def _last_quality_table(comparison: dict[str, Any]) -> str:
    last, digits = comparison["quality"]["last"], level_digits(comparison)
    if last["epoch"] is None:
        return "The runs have no checkpoint of the same epoch."
    rows = []
    if last["base"] is not None:
        base = last["base"]
        cells = [reward(base["reward"], digits), *(number(base[key]) for key in _AT_LEVEL)]
        rows.append(["(base model)", "", *cells])
    for arm in last["arms"]:
        cells = [_estimated(arm[key], digits if key == "reward" else None) for key in _QUALITY]
        rows.append([arm["label"], str(arm["runs"]), *cells])
    text = table(["arm", "seeds", *_QUALITY.values()], rows, left=1)
    return f"{text}\n\nAfter {last['epoch']} epochs of training, the last that every evaluated run has a checkpoint of."


def _drawn(held: dict[str, Any]) -> str:
    """How the images were drawn, and how densely checkpoints lie."""
    settings, counts = held["settings"], sorted(set(held["policies"]))
    sampler = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in (settings["sampler"] or {}).items()
    )
    several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    few = any(arm["runs"] < stats.LEAST_SEEDS for level in held["levels"] for arm in level["arms"])
    return (
        f"{settings['samples']} images a prompt and policy ({sampler}; native sampler in all arms), {several} policies "
        "a run, the model it began as among them."
        + (f" Intervals take {stats.LEAST_SEEDS} seeds." if few else "")
    )


def title_of_model(model: dict[str, Any]) -> str:
    """The heading of a mixed model."""
    return f"{model['upstream']}: mixed model of `{model['arm']}` against `{model['baseline']}`"


def mixed_model_table(model: dict[str, Any]) -> str:
    """A mixed model as in the paper's Table 3: effects down, each over the metrics, and what the fit complained of."""
    sizes = model["batch_sizes"]
    per_size = f", {sizes[0]} (0) and {sizes[1]} (1) samples an epoch" if len(sizes) == 2 else ""
    told = (
        f"At reward {reward(model['reward'], 6)}: {model['runs']} runs, {model['prompts']} prompts{per_size}. "
        f"Algorithm: `{model['baseline']}` (0), `{model['arm']}` (1)."
    )
    rows = []
    for effect in EFFECTS if len(sizes) == 2 else EFFECTS[:1]:
        for entry in model["metrics"]:
            held = {e["effect"]: e for e in entry["effects"]}.get(effect, {})
            coefficient, error, p = (held.get(key) for key in ("coefficient", "std_error", "p_value"))
            rows.append(
                [
                    effect,
                    METRIC_OF_PROMPT[entry["metric"]],
                    "-" if coefficient is None else f"{coefficient:+.4g}",
                    number(error, 3),
                    "-" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001",
                    "; ".join(entry["notes"]),
                ]
            )
    return told + "\n\n" + table(["effect", "metric", "coefficient", "std. error", "p", "fit"], rows, left=2)
