"""Chapter: the linear mixed model of the paper's Tables 3 and 4, on evaluated runs. Needs statsmodels.

A metric of a prompt's images ~ algorithm * batch size, with a random intercept per prompt, by restricted maximum
likelihood. Coded as in the paper: algorithm 0 for the baseline and 1 for the other arm, batch size 0 for the smaller
and 1 for the larger; where all runs are of one batch size, the algorithm alone.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pcpo_overlay.tools.faults import printable, require
from pcpo_overlay.tools.report import quality
from pcpo_overlay.tools.report.text import reward, signed, table, three
from pcpo_overlay.tools.runs import policies
from pcpo_overlay.tools.runs.arms import Arm
from pcpo_overlay.tools.runs.labels import names
from pcpo_overlay.tools.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

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


def fit(observations: pd.DataFrame) -> Fit:
    """Fit the model.

    Args:
        observations: a row for the images of a prompt of a run: ``prompt``, ``algorithm`` and ``batch``, which are 0 or
            1, and ``value``. Of both algorithms; of both batch sizes, each with both algorithms, or of one.

    Raises:
        CannotFit: there is nothing to fit, or the fit failed.
        ImportError: statsmodels is missing; the message names the extra to install.
    """
    batches = observations["batch"].nunique()
    if not batches or len(observations.groupby(["algorithm", "batch"])) != 2 * batches:
        raise CannotFit("an arm has no run" + (" at one of the batch sizes" if batches > 1 else ""))
    if observations["prompt"].nunique() < 2:
        raise CannotFit("a random intercept per prompt takes several prompts")
    # statsmodels' optimizer works to a fixed precision, and a reward may be of the order of 1e-3
    values = observations["value"]
    mean = math.fsum(values) / len(values)
    scale = math.sqrt(math.fsum((values - mean) ** 2) / len(values))
    if scale <= 1e-12 * max(1.0, abs(mean)):
        raise CannotFit("the same in every run and prompt")

    formula = "value ~ algorithm * batch" if batches > 1 else "value ~ algorithm"
    result, complaints = _fit(formula, observations.assign(value=(values - mean) / scale))
    numbers = (result.fe_params * scale, result.bse_fe * scale, result.pvalues)
    effects = [
        Effect(name, *map(_finite, held))
        for name, *held in zip(EFFECTS, *(held[1:] for held in numbers), strict=False)
    ]
    intercepts = float(result.cov_re.iloc[0, 0])
    notes = [] if result.converged else ["did not converge"]
    if intercepts < 1e-6 or any("boundary" in complaint for complaint in complaints):
        notes.append("singular: the prompts' intercepts are estimated to have no variance")
    if result.scale < 1e-6:
        notes.append("nothing is left within the prompts, so errors and p mean nothing")
    notes += [c for c in complaints if not _SAID_ALREADY.match(c)]
    return Fit(effects, _finite(intercepts * scale**2), _finite(result.scale * scale**2), notes)


def _fit(formula: str, observations: pd.DataFrame) -> tuple[Any, list[str]]:
    """statsmodels' result and what it warned of."""
    require("statsmodels.regression.mixed_linear_model", "the mixed model needs")
    import numpy as np
    from statsmodels.regression.mixed_linear_model import MixedLM

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = MixedLM.from_formula(formula, observations, groups="prompt")
            result: Any = model.fit(reml=True, method=_OPTIMIZERS)
            _ = result.pvalues, result.bse_fe
        except (np.linalg.LinAlgError, ValueError) as error:
            raise CannotFit(f"the fit failed ({error})") from None
    told = dict.fromkeys(" ".join(str(w.message).split()).rstrip(".") for w in caught)
    return result, list(told)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def describe_all(
    arms: Sequence[Arm], baseline: Arm, thresholds: Sequence[float] | None = None
) -> list[MixedModel]:
    """One model for each arm but the baseline, over the evaluated runs of both, of all batch sizes.

    They are taken at the highest level of reward that every run passes: of those given, or that
    :func:`quality.matched_levels` chooses from the runs of both.
    """
    kept, _ = policies.evaluated(arms)
    models = []
    for label, runs in kept.items():
        if label != baseline.label and runs and kept[baseline.label]:
            model = MixedModel(baseline.upstream, baseline.label, label, [], 0, None, None, {}, [])
            _describe(model, (kept[baseline.label], runs), thresholds)
            models.append(model)
    return models


def describe_as_drawn(baseline: Arm, arm: Arm) -> MixedModel:
    """The model of two arms' last policies, whatever their rewards; those of scored folders may have none."""
    model = MixedModel(baseline.upstream, baseline.label, arm.label, [], 0, None, None, {}, [])
    _describe(model, (baseline.runs, arm.runs), None, as_drawn=True)
    return model


def _describe(
    model: MixedModel,
    arms: tuple[Sequence[Run], Sequence[Run]],
    thresholds: Sequence[float] | None,
    as_drawn: bool = False,
) -> None:
    """Fill in the model of two arms' runs; those of a batch size that only one has are left out, which is noted."""
    first, second = ({n for run in runs if (n := run.samples_per_epoch) is not None} for runs in arms)
    alone = first ^ second if first & second else set()
    runs = [(a, run) for a in (0, 1) for run in arms[a] if run.samples_per_epoch not in alone]
    model.batch_sizes, model.runs = sorted((first | second) - alone), len(runs)
    if alone:
        told, kept = (" and ".join(map(str, sorted(held))) for held in (alone, first & second))
        model.notes.append(f"of {kept} samples an epoch alone: of {told} there are runs of one arm only")
    if len(model.batch_sizes) > 2:
        told = ", ".join(map(str, model.batch_sizes))
        model.notes.append(f"the model is of two batch sizes, and these runs are of {told}; leave some out")
        return
    if as_drawn:
        _fit_all(model, runs, [policies.points(run)[-1] for _, run in runs])
        return
    choice = quality.matched_levels([run for _, run in runs], thresholds)
    by_level = {
        level: [policies.at_reward(policies.points(run), level) for _, run in runs] for level in choice
    }
    passed = {level: points for level, points in by_level.items() if None not in points}
    if not passed:
        flat = [
            f"`{printable(r.path.parent.name)}/{r.name}`" for _, r in runs if not quality.matched_levels([r])
        ]
        told = f"; never above the model it began as: {', '.join(flat)}" if flat else ""
        model.notes.append(f"no level of reward that every one of these runs passes{told}")
        return
    model.reward = max(passed)
    _fit_all(model, runs, passed[model.reward])


def _fit_all(
    model: MixedModel, runs: Sequence[tuple[int, Run]], points: Sequence[policies.Point | None]
) -> None:
    """Fit every metric that the points have by prompt; ``runs`` are with which algorithm each is of."""
    import pandas as pd

    observed = pd.DataFrame(
        {
            "prompt": prompt,
            "algorithm": a,
            "batch": int([run.samples_per_epoch] != model.batch_sizes[:1]),
            **values,
        }
        for (a, run), point in zip(runs, points, strict=True)
        if point is not None
        for prompt, values in point.prompts.items()
    )
    model.prompts = observed["prompt"].nunique()
    for metric in sorted(set(observed.columns) - {"prompt", "algorithm", "batch"}):
        try:
            model.metrics[metric] = fit(observed.assign(value=observed[metric]))
        except CannotFit as why:
            model.metrics[metric] = Fit([], None, None, [f"not fitted: {why}"])
        except ImportError as missing:
            model.notes.append(str(missing))
            model.metrics = {}
            break


def model_table(model: MixedModel) -> str:
    """As in the paper's Table 3: effects down, each over the metrics, and what the fit complained of."""
    sizes, named = model.batch_sizes, names([model.baseline, model.arm])
    per_size = f", {sizes[0]} (0) and {sizes[1]} (1) samples an epoch" if len(sizes) == 2 else ""
    at = (
        "As drawn, whatever their rewards" if model.reward is None else f"At reward {reward(model.reward, 6)}"
    )
    told = (
        f"{at}: {model.runs} runs, {model.prompts} prompts{per_size}. "
        f"Algorithm: `{named[model.baseline]}` (0), `{named[model.arm]}` (1)."
    )
    rows = []
    for effect in EFFECTS if len(sizes) == 2 else EFFECTS[:1]:
        for metric, fitted in sorted(model.metrics.items()):
            held = next((e for e in fitted.effects if e.effect == effect), Effect(effect, None, None, None))
            p = "-" if held.p_value is None else f"{held.p_value:.3f}" if held.p_value >= 0.001 else "< 0.001"
            name = quality.TITLES.get(f"{metric}_prompt", quality.TITLES.get(metric, metric)).removesuffix(
                ", by prompt"
            )
            cells = [signed(held.coefficient), three(held.std_error), p, "; ".join(fitted.notes)]
            rows.append([effect, name, *cells])
    return told + "\n\n" + table(["effect", "metric", "coefficient", "std. error", "p", "fit"], rows, left=2)
