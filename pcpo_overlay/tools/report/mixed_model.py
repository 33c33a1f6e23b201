"""The linear mixed model of the paper's Tables 3 and 4, on evaluated runs at matched reward. Needs statsmodels.

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
from pcpo_overlay.tools.runs.run import Run
from pcpo_overlay.tools.runs.settings import samples_per_epoch

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
class Observation:
    """A metric of one prompt's images of one run; ``algorithm`` and ``batch`` are 0 or 1."""

    prompt: str
    algorithm: int
    batch: int
    value: float


def fit(observations: Sequence[Observation]) -> dict[str, Any]:
    """Fit the model.

    Args:
        observations: of both algorithms; of both batch sizes, each with both algorithms, or of one.

    Returns:
        ``effects`` (each with its name, ``coefficient``, ``std_error`` and two-sided ``p_value``, None where it has
        none), ``prompt_variance``, ``residual_variance``, and ``notes``: what the fit complained of.

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
        {
            "effect": name,
            "coefficient": _finite(float(result.fe_params[n]) * scale),
            "std_error": _finite(float(result.bse_fe[n]) * scale),
            "p_value": _finite(float(result.pvalues[n])),
        }
        for n, name in enumerate(names, start=1)
    ]
    intercepts = float(result.cov_re[0, 0])
    notes = [] if result.converged else ["did not converge"]
    if intercepts < 1e-6 or any("boundary" in complaint for complaint in complaints):
        notes.append("singular: the prompts' intercepts are estimated to have no variance")
    if result.scale < 1e-6:
        notes.append("nothing is left within the prompts, so errors and p mean nothing")
    return {
        "effects": effects,
        "prompt_variance": _finite(intercepts * scale**2),
        "residual_variance": _finite(float(result.scale) * scale**2),
        "notes": notes + [c for c in complaints if not _SAID_ALREADY.match(c)],
    }


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


def describe(
    upstream: str,
    arms: Mapping[str, Sequence[Run]],
    baseline: str,
    arm: str,
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """The model of each metric for one arm against the baseline, for the document.

    Args:
        upstream: the runs'.
        arms: evaluated runs by label, of every batch size.
        baseline, arm: two of the labels.
        thresholds: levels of reward; None lets :func:`quality.levels` choose them from the runs of both. The highest
            that every run passes is taken.

    Returns:
        Where there is no model, ``metrics`` is empty, and ``notes`` says why. Runs of a batch size that only one of the
        two arms has are left out, which ``notes`` says too.
    """
    runs = [
        (algorithm, samples_per_epoch(run.info), run)
        for algorithm, label in enumerate((baseline, arm))
        for run in arms[label]
    ]
    of_arm = [{size for a, size, _ in runs if a == algorithm and size is not None} for algorithm in (0, 1)]
    shared = of_arm[0] & of_arm[1]
    alone = of_arm[0] ^ of_arm[1] if shared else set()
    runs = [(algorithm, size, run) for algorithm, size, run in runs if size not in alone]
    sizes = sorted({size for _, size, _ in runs if size is not None})
    described: dict[str, Any] = {
        "upstream": upstream, "baseline": baseline, "arm": arm, "batch_sizes": sizes, "runs": len(runs),
        "reward": None, "prompts": None, "metrics": [], "notes": [],
    }  # fmt: skip
    if alone:
        told, kept = (" and ".join(map(str, sorted(held))) for held in (alone, shared))
        described["notes"].append(
            f"of {kept} samples an epoch alone: of {told} there are runs of one arm only"
        )
    if len(sizes) > 2:
        told = ", ".join(map(str, sizes))
        described["notes"].append(
            f"the model is of two batch sizes, and these runs are of {told}; leave some out"
        )
        return described
    ways = [quality.points(run) for *_, run in runs]
    choice = list(thresholds) if thresholds is not None else quality.levels([run for *_, run in runs])
    passed = [level for level in choice if all(quality.at_reward(way, level) is not None for way in ways)]
    if not passed:
        flat = [f"`{run.path.parent.name}/{run.path.name}`" for *_, run in runs if not quality.levels([run])]
        told = f"; never above the model it began as: {', '.join(flat)}" if flat else ""
        described["notes"].append(f"no level of reward that every one of these runs passes{told}")
        return described
    level = described["reward"] = max(passed)
    matched = [quality.at_reward(way, level) for way in ways]
    rows = [
        (prompt, algorithm, int(size != sizes[0]) if sizes else 0, values)
        for (algorithm, size, _), point in zip(runs, matched, strict=True)
        if point is not None
        for prompt, values in point.prompts.items()
    ]
    described["prompts"] = len({prompt for prompt, *_ in rows})
    for metric in quality.PER_PROMPT:
        observations = [Observation(prompt, a, b, values[metric]) for prompt, a, b, values in rows]
        try:
            entry = {"metric": metric, **fit(observations)}
        except CannotFit as why:
            entry = {"metric": metric, "effects": [], "notes": [f"not fitted: {why}"]}
        except ImportError as missing:
            described["notes"].append(str(missing))
            described["metrics"] = []
            break
        described["metrics"].append(entry)
    return described
