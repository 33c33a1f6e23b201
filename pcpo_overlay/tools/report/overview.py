"""Chapter: the four panels that tell most, in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, levels
from pcpo_overlay.tools.report.arms import Shown
from pcpo_overlay.trainers import TRAINERS

if TYPE_CHECKING:
    from pcpo_overlay.tools.report.compare import Comparison


def figures(shown: Shown, comparison: Comparison) -> dict[str, Any]:
    """Reward, what is outside the clip range, gradient norm, epochs to a reward: evaluated where it can be."""
    evaluated = comparison.quality
    trained = [arm.curves["reward_mean"] for arm in comparison.reward]
    if evaluated is None and not any(curve.epoch for curve in trained):
        return {}
    figure = palette.new_figure(11, 7.4)
    (first, second), (third, fourth) = figure.subplots(2, 2)
    validated = comparison.validation
    if evaluated is not None or validated is not None:
        held = evaluated.rewards if evaluated else validated.curves if validated else []
        title = "(a) reward of evaluated checkpoints" if evaluated else "(a) validation reward"
        draw.curves(first, shown, held, title, first=0, xlabel="epochs of training", window=1)
    else:
        draw.curves(first, shown, trained, "(a) reward of the training's samples")
    outside = [arm.curves["fraction_outside"] for arm in comparison.clipping]
    draw.curves(second, shown, outside, r"(b) share outside the clip range, $|\rho-1|>\xi$")
    draw.curves(third, shown, [arm.curves["grad_norm"] for arm in comparison.gradients], "(c) gradient norm")
    if evaluated is not None and evaluated.levels:
        told = ("(d) epochs to reach an evaluated reward", "evaluated reward", "epochs of training")
        levels.panel(fourth, shown, evaluated.levels, *told)
    else:
        reached = comparison.thresholds.levels
        levels.panel(fourth, shown, reached, "(d) epochs to reach a training reward", "training reward")
    trainer = TRAINERS.get(shown.upstream)
    title = trainer.title if trainer else shown.upstream
    size = "" if comparison.batch_size is None else f", {comparison.batch_size} samples an epoch"
    few = "; lines in (d): bootstrap interval of 95%" if max(a.seeds for a in shown.arms) >= 3 else ""
    small = draw.caption(shown) + few
    if shown.samplers_differ and evaluated is None:
        small += "; the arms draw with different samplers, so their training rewards do not compare them"
    return {"overview": draw.finished(figure, first, f"{title}{size}", small)}
