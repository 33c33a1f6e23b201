"""Alarms: once each, in words and in the metrics, and none on a run that learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import Toy, records, start

from pcpo_overlay import hooks
from pcpo_overlay.record.alarms import EXPLODES, LEAST_NORMS, WINDOW, Alarms

__all__ = ["start"]


def step(norm: float | None = None, nonfinite: int = 0) -> dict[str, Any]:
    return {"epoch": 3, "step": 7, "nonfinite": nonfinite, **({} if norm is None else {"grad_norm": norm})}


def epoch(mean: float, spread: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"epoch": 9, "reward_mean": mean, "reward_std": spread, **more}


def test_a_gradient_norm_explodes_against_what_it_was() -> None:
    alarms = Alarms()
    for n in range(LEAST_NORMS):
        assert not alarms.of_step(step(1 + n % 3))  # median 2
    assert not alarms.of_step(step(2 * EXPLODES))
    (words,) = alarms.of_step(step(2.1 * EXPLODES)).values()
    assert words.startswith("the gradient norm is 21 in epoch 3, optimizer step 7, 10 times its median of 2;")
    assert not alarms.of_step(step(1e6))  # once
    assert alarms.count == 1


def test_steps_without_any_advantage_are_no_measure() -> None:
    alarms = Alarms()
    for _ in range(2 * LEAST_NORMS):
        assert not alarms.of_step(step(0.0))
    assert not alarms.of_step(step(1.0))


def test_the_first_steps_of_a_run_may_be_what_they_are() -> None:
    alarms = Alarms()
    assert not any(alarms.of_step(step(10.0**n)) for n in range(LEAST_NORMS))


def test_a_norm_that_is_not_finite_is_no_norm() -> None:
    """A GradScaler's first steps overflow; and what is not finite in the loss has an alarm of its own."""
    alarms = Alarms()
    for _ in range(2 * LEAST_NORMS):
        assert (
            not alarms.of_step(step(1.0))
            and not alarms.of_step(step(math.inf))
            and not alarms.of_step(step())
        )


def test_a_reward_that_falls() -> None:
    alarms = Alarms()
    for mean in [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]:  # rises: 3 over the last five
        assert not alarms.of_epoch(epoch(mean))
    for mean in [3.0, 2.0, 2.0]:  # the last five: 3.2
        assert not alarms.of_epoch(epoch(mean))
    assert not alarms.of_epoch(epoch(1.0))  # 2.6, best was 3.4
    assert "reward" in alarms.of_epoch(epoch(1.0))  # 1.8
    assert not alarms.of_epoch(epoch(-9.0))


def test_jitter_of_a_reward_that_has_converged_is_no_fall() -> None:
    """Its spread at the best was small; that of the epochs now says what a fall is."""
    alarms = Alarms()
    for n in range(40):
        assert not alarms.of_epoch(epoch(0.995 - 0.01 * (n >= 20), 0.004 if n < 20 else 0.023))


def test_a_policy_that_collapses_at_its_first_updates() -> None:
    """ddpo-pytorch on the miniature with a learning rate of 0.03: no window and few norms are from before."""
    alarms = Alarms()
    norms = [(0.143, 11.0), (0.0991, 17.6), (0.0446, 8.0), (0.0216, 4.3), (0.015, 0.816)]
    rewards = [(-1.047, 0.035), (-1.2, 0.015), (-1.097, 0.01), (-1.106, 0.012), (-1.121, 0.013)]
    raised = [
        (number, name)
        for number, (of_steps, (mean, spread)) in enumerate(zip(norms, rewards, strict=True))
        for found in (
            *(alarms.of_step(step(norm)) for norm in of_steps),
            alarms.of_epoch(epoch(mean, spread)),
        )
        for name in found
    ]
    assert raised == [(2, "gradient"), (4, "reward")]


def test_all_groups_without_spread() -> None:
    alarms = Alarms()
    assert not alarms.of_epoch(epoch(0.0, groups_without_spread=0.99))
    assert not alarms.of_epoch(epoch(0.0))
    assert list(alarms.of_epoch(epoch(0.0, groups_without_spread=1.0))) == ["spread"]


def test_a_collapse_to_one_image_is_a_fall() -> None:
    """The spread is gone with it, and that of the best is the measure."""
    alarms = Alarms()
    raised = [alarms.of_epoch(epoch(0.9, 0.2)) for _ in range(WINDOW)]
    raised += [alarms.of_epoch(epoch(0.1, 0.0)) for _ in range(WINDOW)]
    assert [list(found) for found in raised if found] == [["reward"]]


def test_less_than_the_spread_at_the_best_is_no_fall() -> None:
    alarms = Alarms()
    for mean, spread in [(0.9, 0.2)] * WINDOW + [(0.8, 0.0)] * WINDOW:
        assert not alarms.of_epoch(epoch(mean, spread))


def test_before_a_window_is_full_nothing_falls() -> None:
    """A reward below 0, as jpeg's is: the sum of fewer epochs lies above it."""
    alarms = Alarms()
    assert not any(alarms.of_epoch(epoch(-9.0)) for _ in range(2 * WINDOW))


def test_of_an_epoch_in_a_run(start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start("ddpo", "observe")
    for number in range(2 * WINDOW):
        hooks.begin_epoch(number)
        hooks.log_rewards(torch.arange(6.0) - (0 if number < WINDOW else 100))
        hooks.end_epoch(number)
    (alarm,) = records(tmp_path, "alarm")
    assert (alarm["alarm"], alarm["epoch"]) == ("reward", WINDOW)
    assert f"[pcpo] warning: {alarm['message']}" in capsys.readouterr().err


@pytest.mark.parametrize("alarms", [True, False])
def test_in_a_run(start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], alarms: bool) -> None:
    start("ddpo", "observe" if alarms else "observe,alarms=false")
    toy = Toy("observe")
    for number in range(2):
        samples = toy.rollout(number)
        with torch.no_grad():
            toy.policy.theta.fill_(math.nan)
        toy.train(samples, 1, 0, number)
        hooks.end_epoch(number)
    written = records(tmp_path, "alarm")
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    if not alarms:
        assert not written and not said
        return
    (alarm,) = written
    assert (alarm["alarm"], alarm["epoch"], alarm["step"]) == ("nonfinite", 0, 0)
    assert said == [f"[pcpo] warning: {alarm['message']}"]
    assert (
        "non-finite log ratios or losses in epoch 0, optimizer step 0, first at timestep" in alarm["message"]
    )


def test_the_readme_and_the_page_say_the_amounts() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "metrics.md").read_text()
    assert f"{EXPLODES:g} times the median" in page
    assert f"the last {WINDOW} epochs" in page
