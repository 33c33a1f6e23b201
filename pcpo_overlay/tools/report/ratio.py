"""Chapter: the policy ratio, the divergence it stands for, and the number inside the objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Arm, Shown
from pcpo_overlay.tools.report.stats import Curve
from pcpo_overlay.tools.report.text import number, table

DEFINITIONS = {
    "policy ratio": "rho, the probability of a drawn step under the trained policy over that under the policy that "
    "drew it, with the weights of the sampler in use, in every mode.",
    "kl per step": "Divergence of the policy that drew a step from the trained one, exact, mean over sample-timesteps; "
    "where the runs' version recorded it. credit: the number inside PCPO's objective, the policy ratio's logarithm but "
    "for the weights of the timesteps.",
    "error of log rho": "|log rho - (rho - 1)| / |rho - 1| where rho is not 1: what replacing rho - 1 by log rho in "
    "the objective changes.",
}
#: Curves by epoch, of which a run has those that its version recorded, and their titles.
_CURVES = {
    "ratio_std": r"standard deviation of the policy ratio $\rho$",
    "kl": "divergence of the new policy from the old, per step",
    "credit_std": "standard deviation of the objective's credit",
    "log_ratio_error_mean": r"mean of $|\log\rho-(\rho-1)|\,/\,|\rho-1|$ where $\rho\neq 1$",
}
#: A column that a run has or has not, by its heading in the table.
_FURTHER = {"kl": "kl per step", "credit_std": "std of the credit"}


@dataclass(frozen=True)
class Ratio:
    """Means over all epochs and seeds of an arm; None where its runs have no such column.

    Attributes:
        of_credit: whether the numbers are those of the objective's credit, which older versions recorded in ``full``
            under the ratio's name.
    """

    ratio_mean: float | None
    ratio_std: float | None
    on_policy_ratio_mean: float | None
    on_policy_ratio_std: float | None
    log_ratio_error_mean: float | None
    log_ratio_error_max: float | None
    further: dict[str, float | None]
    of_credit: bool
    curves: dict[str, Curve]


def describe(arm: Arm, measured: Arm, window: int) -> Ratio:
    """The policy ratio of an arm: numbers as far as ``measured`` goes, curves of the whole."""

    def on_policy(key: str) -> float | None:
        return stats.mean(v for run in measured.runs for v in run.on_policy(key))

    columns = {key for run in measured.runs for line in run.epochs for key in line}
    return Ratio(
        stats.mean(measured.values("ratio_mean")),
        stats.mean(measured.values("ratio_std")),
        on_policy("ratio_mean"),
        on_policy("ratio_std"),
        stats.mean(measured.values("log_ratio_error_mean")),
        max(measured.values("log_ratio_error_max"), default=None),
        {key: stats.mean(measured.values(key)) for key in _FURTHER},
        arm.mode == "full" and "ratio_std" in columns and not any(c.startswith("credit_") for c in columns),
        {key: arm.curve(key, window) for key in _CURVES},
    )


def warning(names: Sequence[str], ratio: Sequence[Ratio]) -> str | None:
    """What a reader has to know where an older version recorded the credit under the ratio's name."""
    named = [name for name, held in zip(names, ratio, strict=True) if held.of_credit]
    if not named:
        return None
    return (
        f"{', '.join(named)}: recorded by a version that called the objective's credit the ratio in `full`: its "
        "fraction outside, spread and error are in other units than the baseline's, and do not compare with it"
    )


def tables(shown: Shown, ratio: Sequence[Ratio]) -> list[tuple[str, str]]:
    """Title and Markdown."""
    further = {k: name for k, name in _FURTHER.items() if any(a.further[k] is not None for a in ratio)}
    head = ["arm", "mean of rho", "std of rho", "mean of rho - 1, on-policy", "std, on-policy"]
    head += ["error of log rho, mean", "max", *further.values()]
    rows = []
    for arm, held in zip(shown.arms, ratio, strict=True):
        on_policy = held.on_policy_ratio_mean
        rows.append(
            [
                arm.name,
                "-" if held.ratio_mean is None else f"{held.ratio_mean:.6f}"[:24],
                number(held.ratio_std),
                number(None if on_policy is None else on_policy - 1),
                number(held.on_policy_ratio_std),
                number(held.log_ratio_error_mean),
                number(held.log_ratio_error_max),
                *(number(held.further[key]) for key in further),
            ]
        )
    return [("Policy ratio", table(head, rows, left=1))]


def figures(shown: Shown, ratio: Sequence[Ratio]) -> dict[str, Any]:
    """Its spread, how far log rho is from rho - 1, and what else was recorded, by epoch."""
    keys = [key for key in _CURVES if any(arm.curves[key].epoch for arm in ratio)]
    if "ratio_std" not in keys:
        return {}
    rows = (len(keys) + 1) // 2
    figure = palette.new_figure(10, 0.9 + 3.5 * rows)
    panels = list(figure.subplots(rows, 2, squeeze=False).flat)
    for n, (axes, key) in enumerate(zip(panels, keys, strict=False)):
        draw.curves(
            axes, shown, [arm.curves[key] for arm in ratio], f"({'abcd'[n]}) {_CURVES[key]}", log=True
        )
    for axes in panels[len(keys) :]:
        axes.set_axis_off()
    draw.heading(figure, "The policy ratio", f"{draw.caption(shown)}; zeros are not drawn")
    palette.legend_below(figure, panels[0])
    return {"ratio": figure}
