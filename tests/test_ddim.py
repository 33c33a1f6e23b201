"""A DDIM schedule in use: what it says of itself."""

from __future__ import annotations

import pytest

from pcpo_overlay.config import parse
from pcpo_overlay.schedules import ddim_timesteps, sd_alphas_cumprod
from pcpo_overlay.steps import Steps, ddim_steps


def schedule(steps: int, mode: str, eta: float = 1.0) -> Steps:
    return ddim_steps(sd_alphas_cumprod(), ddim_timesteps(steps), steps, eta, parse(mode).on("ddpo"))


@pytest.mark.parametrize(("steps", "share"), [(10, 0.40), (20, 0.68), (25, 0.82), (30, 0.93), (50, 1.12)])
@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_share_of_the_samplers_noise(steps: int, share: float, eta: float) -> None:
    assert schedule(steps, "full", eta).std_share == pytest.approx(share, abs=0.005)
    assert schedule(steps, "full,variance=native", eta).std_share == 1


@pytest.mark.parametrize(("steps", "told"), [(10, True), (20, True), (25, False), (50, False)])
def test_few_steps_are_told_what_the_papers_variance_does(steps: int, told: bool) -> None:
    banner = schedule(steps, "full").describe(parse("full"))
    assert ("explores less" in banner) == told
    assert f"{schedule(steps, 'full').std_share:.2f} of DDIM's std" in banner
    native = parse("full,variance=native")
    assert "explores" not in schedule(steps, "full,variance=native").describe(native)
    assert schedule(steps, "full,variance=native").describe(native).endswith("native variance")
