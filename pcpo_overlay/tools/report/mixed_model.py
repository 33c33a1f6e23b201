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
from typing import Any

from pcpo_overlay.tools.faults import printable
from pcpo_overlay.tools.report import quality
from pcpo_overlay.tools.report.text import number, reward, signed, table
from pcpo_overlay.tools.runs import policies
from pcpo_overlay.tools.runs.arms import Arm
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
    batches = sorted({o.batch for o in observations})
    cells = {(o.algorithm, o.batch) for o in observations}
    if not cells or cells != {(a, b) for b in batches for a in (0, 1)}:
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
    fitted = zip(
        names, result.fe_params[1:] * scale, result.bse_fe[1:] * scale, result.pvalues[1:], strict=False
    )
    effects = [Effect(name, *map(_finite, held)) for name, *held in fitted]
    intercepts = float(result.cov_re[0, 0])
    notes = [] if result.converged else ["did not converge"]
    if intercepts < 1e-6 or any("boundary" in complaint for complaint in complaints):
        notes.append("singular: the prompts' intercepts are estimated to have no variance")
    if result.scale < 1e-6:
        notes.append("nothing is left within the prompts, so errors and p mean nothing")
    notes += [c for c in complaints if not _SAID_ALREADY.match(c)]
    return Fit(effects, _finite(intercepts * scale**2), _finite(result.scale * scale**2), notes)


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
    return float(value) if math.isfinite(value) else None


def describe_all(
    arms: Sequence[Arm], baseline: Arm, thresholds: Sequence[float] | None = None
) -> list[MixedModel]:
    """One model for each arm but the baseline, over the evaluated runs of both, of all batch sizes.

    They are taken at the highest level of reward that every run passes: of those given, or that :func:`quality.levels`
    chooses from the runs of both.
    """
    kept, _ = policies.evaluated(arms)
    models = []
    for label, runs in kept.items():
        if label != baseline.label and runs and kept[baseline.label]:
            model = MixedModel(baseline.upstream, baseline.label, label, [], 0, None, None, {}, [])
            _describe(model, (kept[baseline.label], runs), thresholds)
            models.append(model)
    return models


def _describe(
    model: MixedModel, arms: tuple[Sequence[Run], Sequence[Run]], thresholds: Sequence[float] | None
) -> None:
    """Fill in the model of two arms' runs; those of a batch size that only one has are left out, which is noted."""
    of_arm = [{size for run in runs if (size := run.samples_per_epoch) is not None} for runs in arms]
    shared = of_arm[0] & of_arm[1]
    alone = of_arm[0] ^ of_arm[1] if shared else set()
    runs = [(a, run) for a in (0, 1) for run in arms[a] if run.samples_per_epoch not in alone]
    model.batch_sizes, model.runs = sorted((of_arm[0] | of_arm[1]) - alone), len(runs)
    sizes = model.batch_sizes
    if alone:
        told, kept = (" and ".join(map(str, sorted(held))) for held in (alone, shared))
        model.notes.append(f"of {kept} samples an epoch alone: of {told} there are runs of one arm only")
    if len(sizes) > 2:
        told = ", ".join(map(str, sizes))
        model.notes.append(f"the model is of two batch sizes, and these runs are of {told}; leave some out")
        return
    ways = [policies.points(run) for _, run in runs]
    choice = quality.levels([run for _, run in runs], thresholds)
    passed = [level for level in choice if all(policies.at_reward(way, level) is not None for way in ways)]
    if not passed:
        flat = [f"`{printable(r.path.parent.name)}/{r.name}`" for _, r in runs if not quality.levels([r])]
        told = f"; never above the model it began as: {', '.join(flat)}" if flat else ""
        model.notes.append(f"no level of reward that every one of these runs passes{told}")
        return
    model.reward = max(passed)
    rows = [
        (prompt, algorithm, int(run.samples_per_epoch != sizes[0]) if sizes else 0, values)
        for (algorithm, run), way in zip(runs, ways, strict=True)
        if (point := policies.at_reward(way, model.reward)) is not None
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
            p = "-" if held.p_value is None else f"{held.p_value:.3f}" if held.p_value >= 0.001 else "< 0.001"
            name = "Fréchet distance" if metric == "frechet" else metric
            cells = [signed(held.coefficient), number(held.std_error, 3), p, "; ".join(fitted.notes)]
            rows.append([effect, name, *cells])
    return told + "\n\n" + table(["effect", "metric", "coefficient", "std. error", "p", "fit"], rows, left=2)
