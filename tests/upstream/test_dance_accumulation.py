"""What an optimizer step's record is of: the samples whose gradients it took, and their loss as it was trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dance.launch import TRAINERS

from pcpo_overlay import trainers

pytestmark = pytest.mark.upstream("DanceGRPO")

#: One timestep is trained of each sample, so that a sample is a backward pass.
ONE_TIMESTEP = {"timestep_fraction": 0.4}
#: Two rounds of 4 samples, 3 to a step; of the editing trainer there are three.
LEFT_OVER = {**ONE_TIMESTEP, "gradient_accumulation_steps": 3}


def assert_records_hold(run: Any, passes: list[int]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = run.metrics("step")
    assert run.record["passes"] == passes  # what upstream took
    assert [step["samples"] for step in steps] == passes
    return steps


# The SD trainer refuses an accumulation that does not divide.
# The SD trainer refuses an accumulation that does not divide.
@pytest.mark.parametrize("name", [name for name in TRAINERS if name != "sd"])
def test_what_an_accumulation_leaves_over(dance_run: Any, name: str) -> None:
    """Where the trainer zeroes its gradients at the start of a round the rest of the last one is lost. Qwen's do not:
    there it is part of the next step, and off the policy by the step between."""
    run = dance_run(name, "full", **LEFT_OVER)
    rounds = 3 if name == "qwenimage_edit" else 2
    carries = name in ("qwenimage", "qwenimage_edit")
    assert trainers.TRAINERS[f"dancegrpo_{name}"].carries_over == carries
    first, *others = assert_records_hold(run, [3, *[4 if carries else 3] * (rounds - 1)])
    assert first["ratio_min"] == first["ratio_max"] == 1
    # One step a round: what it is on was sampled by the policy that it moves, but for what was left over.
    assert {s["ratio_min"] == s["ratio_max"] == 1 for s in others} == {not carries}


@pytest.mark.parametrize(("name", "passes"), [("flux", [3, 3, 3, 3]), ("qwenimage", [3, 3, 5, 3])])
def test_eight_samples_three_to_a_step(dance_run: Any, name: str, passes: list[int]) -> None:
    steps = assert_records_hold(dance_run(name, "full", num_generations=8, **LEFT_OVER), passes)
    on_policy = [step["ratio_min"] == step["ratio_max"] == 1 for step in steps]
    assert on_policy == [True, False, passes[2] == 3, False]


@pytest.mark.parametrize("mq_coef", [0.0, 0.5])
def test_the_two_losses_of_hunyuan_count_as_they_are_trained(dance_run: Any, mq_coef: float) -> None:
    """Under upstream's own script (``mq_coef 0``) the second is computed, and trains nothing."""
    run = dance_run("hunyuan", "match", mq_coef=mq_coef, **ONE_TIMESTEP)
    steps = assert_records_hold(run, [2, 2, 2, 2])
    log_rho = torch.cat(
        run.record["training_log_probs"]
    ).double()  # in this mode it is what the sampler is compared by
    printed = run.stdout.splitlines()
    advantages, final = (
        torch.tensor(
            [[float(x) for x in line[len(said) :].split()] for line in printed if line.startswith(said)]
        )
        for said in ("vq advantage/mq advantage", "final loss")
    )
    assert len(advantages) == len(final) == len(log_rho) == 8
    hinge = 1e-4 * advantages.double().abs() - advantages.double() * log_rho[:, None]
    masked = (hinge < 0).all(1) if mq_coef else hinge[:, 0] < 0
    loss = hinge.relu() @ torch.tensor([1, mq_coef], dtype=torch.float64)
    assert final[:, 0].tolist() == pytest.approx((loss / 2).tolist(), rel=1e-4)  # 2 samples to a step
    for step, was_masked, was_lost in zip(steps, masked.split(2), loss.split(2), strict=True):
        assert step["fraction_masked"] == was_masked.double().mean()
        assert step["loss"] == pytest.approx(float(was_lost.mean()), rel=1e-4)
    totals = [float(v["train_loss"]) for _, v in run.record["logs"] if "train_loss" in v]
    assert totals == pytest.approx([sum(s["loss"] for s in steps[i : i + 2]) for i in (0, 2)], rel=1e-4)
