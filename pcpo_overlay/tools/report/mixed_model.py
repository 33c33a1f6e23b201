"""Chapter: the linear mixed model of the paper's Tables 3 and 4, on evaluated runs. Needs statsmodels.

A metric of a prompt's images ~ algorithm * batch size, with a random intercept per prompt, by restricted maximum
likelihood. Coded as in the paper: algorithm 0 for the baseline and 1 for the other arm, batch size 0 for the smaller
and 1 for the larger; where all runs are of one batch size, the algorithm alone.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools.report import quality
from pcpo_overlay.tools.report.text import number, reward, signed, table
from pcpo_overlay.tools.runs import policies
from pcpo_overlay.tools.runs.arms import Arm
from pcpo_overlay.tools.runs.files import printable
from pcpo_overlay.tools.runs.labels import names
from pcpo_overlay.tools.runs.run import Run

DEFINITIONS = {
    "mixed model": "As in Tables 3 and 4 of the paper: a metric of one prompt's images ~ algorithm * batch size "
    "with a random intercept per prompt, by restricted maximum likelihood (statsmodels' MixedLM), at matched "
    "reward. algorithm: 0 baseline, 1 the other arm; batch size, samples of an epoch: 0 the smaller, 1 the "
    "larger; interaction: both 1. With one batch size the algorithm alone. p is two-sided, of the normal "
    "distribution: it sets a coefficient against what is left within a prompt. Runs are no random effect: "
    "with one run of a kind it says nothing of other seeds, and with several it takes their prompts for "
    "independent. The level is the highest of those that every run passes.",
}
EFFECTS = ("algorithm", "batch size", "interaction")
#: The last does without gradients, which vanish where the intercepts' variance is estimated at its boundary of 0.
_OPTIMIZERS = ["bfgs", "lbfgs", "cg", "powell"]
#: What statsmodels says of an optimizer before it tries the next; whether the last one got there is told by itself.
_SAID_ALREADY = re.compile(
    "Maximum Likelihood optimization failed|Retrying MixedLM|MixedLM optimization failed|The MLE may be"
)


class CannotFit(Exception):
    """There is no such model of these observations; the message says why."""


@dataclass(frozen=True)
class Effect:
    """A fixed effect; what it has not is None. ``p_value`` is two-sided."""

    effect: str
    coefficient: float | None
    std_error: float | None
    p_value: float | None


@dataclass(frozen=True)
class Fit:
    """A fitted model, with what the fit complained of in ``notes``; without effects where there is none."""

    effects: list[Effect]
    prompt_variance: float | None
    residual_variance: float | None
    notes: list[str]


@dataclass
class MixedModel:
    """The models of one arm against the baseline, by metric; without any where ``notes`` says why.

    Attributes:
        batch_sizes: samples an epoch, of which the runs are.
        reward: the level that all runs are taken at.
    """

    upstream: str
    baseline: str
    arm: str
    batch_sizes: list[int]
    runs: int
    reward: float | None
    prompts: int | None
    metrics: dict[str, Fit]
    notes: list[str]

    @property
    def title(self) -> str:
        """A heading."""
        named = names([self.baseline, self.arm])
        return f"{self.upstream}: mixed model of `{named[self.arm]}` against `{named[self.baseline]}`"


@dataclass(frozen=True)
class Observation:
    """A metric of one prompt's images of one run; ``algorithm`` and ``batch`` are 0 or 1."""

    prompt: str
    algorithm: int
    batch: int
    value: float


def fit(observations: Sequence[Observation]) -> Fit:
    """Fit the model.

    Args:
        observations: of both algorithms; of both batch sizes, each with both algorithms, or of one.

    Raises:
        CannotFit: there is nothing to fit, or the fit failed.
        ImportError: statsmodels is missing; the message names the extra to install.
    """
    cells = {(o.algorithm, o.batch) for o in observations}
    batches = sorted({o.batch for o in observations})
    missing = [(a, b) for b in batches for a in (0, 1) if (a, b) not in cells]
    if missing or not cells:
        raise CannotFit("an arm has no run" + (" at one of the batch sizes" if len(batches) > 1 else ""))
    if len({o.prompt for o in observations}) < 2:
        raise CannotFit("a random intercept per prompt takes several prompts")
    values = [o.value for o in observations]
    # statsmodels' optimizer works to a fixed precision, and a reward may be of the order of 1e-3
    mean = math.fsum(values) / len(values)
    scale = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    if scale <= 1e-12 * max(1.0, abs(mean)):
        raise CannotFit("the same in every run and prompt")

    result, complaints = _fit([(v - mean) / scale for v in values], observations, len(batches) > 1)
    names = EFFECTS if len(batches) > 1 else EFFECTS[:1]
    effects = [
        Effect(
            name,
            _finite(float(result.fe_params[n]) * scale),
            _finite(float(result.bse_fe[n]) * scale),
            _finite(float(result.pvalues[n])),
        )
        for n, name in enumerate(names, start=1)
    ]
    intercepts = float(result.cov_re[0, 0])
    notes = [] if result.converged else ["did not converge"]
    if intercepts < 1e-6 or any("boundary" in complaint for complaint in complaints):
        notes.append("singular: the prompts' intercepts are estimated to have no variance")
    if result.scale < 1e-6:
        notes.append("nothing is left within the prompts, so errors and p mean nothing")
    return Fit(
        effects,
        _finite(intercepts * scale**2),
        _finite(float(result.scale) * scale**2),
        notes + [c for c in complaints if not _SAID_ALREADY.match(c)],
    )


def _fit(
    values: Sequence[float], observations: Sequence[Observation], batches: bool
) -> tuple[Any, list[str]]:
    """statsmodels' result and what it warned of."""
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM
    except ImportError:
        raise ImportError(
            'the mixed model needs statsmodels; install it with: pip install "pcpo-overlay[report]"'
        ) from None
    import numpy as np

    columns = [[1.0, o.algorithm, o.batch, o.algorithm * o.batch] for o in observations]
    design = np.array(columns, dtype=float)[:, : 4 if batches else 2]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result: Any = MixedLM(np.array(values), design, groups=[o.prompt for o in observations]).fit(
                reml=True, method=_OPTIMIZERS
            )
            _ = result.pvalues, result.bse_fe
        except (np.linalg.LinAlgError, ValueError) as error:
            raise CannotFit(f"the fit failed ({error})") from None
    told = dict.fromkeys(" ".join(str(w.message).split()).rstrip(".") for w in caught)
    return result, list(told)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def describe_all(
    arms: Sequence[Arm], baseline: Arm, thresholds: Sequence[float] | None = None
) -> list[MixedModel]:
    """One model for each arm but the baseline, over the evaluated runs of both, of all batch sizes."""
    held, _ = policies.evaluated([run for arm in arms for run in arm.runs])
    paths = {run.path for run in held}
    by_label = {arm.label: [run for run in arm.runs if run.path in paths] for arm in arms}
    return [
        describe(arms[0].upstream, by_label, baseline.label, label, thresholds)
        for label, runs in by_label.items()
        if label != baseline.label and runs and by_label[baseline.label]
    ]


def describe(
    upstream: str,
    arms: Mapping[str, Sequence[Run]],
    baseline: str,
    arm: str,
    thresholds: Sequence[float] | None = None,
) -> MixedModel:
    """The model of each metric for one arm against the baseline.

    Args:
        upstream: the runs'.
        arms: evaluated runs by label, of every batch size.
        baseline, arm: two of the labels.
        thresholds: levels of reward; None lets :func:`quality.levels` choose them from the runs of both. The highest
            that every run passes is taken.

    Returns:
        Runs of a batch size that only one of the two arms has are left out, which ``notes`` says.
    """
    runs = [
        (algorithm, run.samples_per_epoch, run)
        for algorithm, label in enumerate((baseline, arm))
        for run in arms[label]
    ]
    of_arm = [{size for a, size, _ in runs if a == algorithm and size is not None} for algorithm in (0, 1)]
    shared = of_arm[0] & of_arm[1]
    alone = of_arm[0] ^ of_arm[1] if shared else set()
    runs = [(algorithm, size, run) for algorithm, size, run in runs if size not in alone]
    sizes = sorted({size for _, size, _ in runs if size is not None})
    model = MixedModel(upstream, baseline, arm, sizes, len(runs), None, None, {}, [])
    if alone:
        told, kept = (" and ".join(map(str, sorted(held))) for held in (alone, shared))
        model.notes.append(f"of {kept} samples an epoch alone: of {told} there are runs of one arm only")
    if len(sizes) > 2:
        told = ", ".join(map(str, sizes))
        model.notes.append(f"the model is of two batch sizes, and these runs are of {told}; leave some out")
        return model
    ways = [policies.points(run) for *_, run in runs]
    choice = list(thresholds) if thresholds is not None else quality.levels([run for *_, run in runs])
    passed = [level for level in choice if all(policies.at_reward(way, level) is not None for way in ways)]
    if not passed:
        flat = [
            f"`{printable(run.path.parent.name)}/{run.name}`" for *_, run in runs if not quality.levels([run])
        ]
        told = f"; never above the model it began as: {', '.join(flat)}" if flat else ""
        model.notes.append(f"no level of reward that every one of these runs passes{told}")
        return model
    model.reward = max(passed)
    matched = [policies.at_reward(way, model.reward) for way in ways]
    rows = [
        (prompt, algorithm, int(size != sizes[0]) if sizes else 0, values)
        for (algorithm, size, _), point in zip(runs, matched, strict=True)
        if point is not None
        for prompt, values in point.prompts.items()
    ]
    model.prompts = len({prompt for prompt, *_ in rows})
    for metric in policies.PER_PROMPT:
        observations = [Observation(prompt, a, b, values[metric]) for prompt, a, b, values in rows]
        try:
            model.metrics[metric] = fit(observations)
        except CannotFit as why:
            model.metrics[metric] = Fit([], None, None, [f"not fitted: {why}"])
        except ImportError as missing:
            model.notes.append(str(missing))
            model.metrics = {}
            break
    return model


def model_table(model: MixedModel) -> str:
    """As in the paper's Table 3: effects down, each over the metrics, and what the fit complained of."""
    sizes, named = model.batch_sizes, names([model.baseline, model.arm])
    per_size = f", {sizes[0]} (0) and {sizes[1]} (1) samples an epoch" if len(sizes) == 2 else ""
    told = (
        f"At reward {reward(model.reward, 6)}: {model.runs} runs, {model.prompts} prompts{per_size}. "
        f"Algorithm: `{named[model.baseline]}` (0), `{named[model.arm]}` (1)."
    )
    rows = []
    for effect in EFFECTS if len(sizes) == 2 else EFFECTS[:1]:
        for metric, fitted in sorted(model.metrics.items()):
            held = next((e for e in fitted.effects if e.effect == effect), Effect(effect, None, None, None))
            p = held.p_value
            rows.append(
                [
                    effect,
                    "Fréchet distance" if metric == "frechet" else metric,
                    signed(held.coefficient),
                    number(held.std_error, 3),
                    "-" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001",
                    "; ".join(fitted.notes),
                ]
            )
    return told + "\n\n" + table(["effect", "metric", "coefficient", "std. error", "p", "fit"], rows, left=2)
