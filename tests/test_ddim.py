"""A DDIM schedule in use: what it says of itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pcpo_overlay.config import PCPOError, parse
from pcpo_overlay.schedules import ddim_timesteps, sd_alphas_cumprod
from pcpo_overlay.steps import Steps, ddim_steps, read_scheduler


def schedule(steps: int, mode: str, eta: float = 1.0) -> Steps:
    return ddim_steps(sd_alphas_cumprod(), ddim_timesteps(steps), steps, eta, parse(mode).on("ddpo"))


@pytest.mark.parametrize(("steps", "share"), [(10, 0.40), (20, 0.68), (25, 0.82), (30, 0.93), (50, 1.12)])
@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_share_of_the_samplers_noise(steps: int, share: float, eta: float) -> None:
    assert schedule(steps, "full,variance=paper", eta).std_share == pytest.approx(share, abs=0.005)
    assert schedule(steps, "full,variance=native", eta).std_share == 1


@pytest.mark.parametrize(
    ("steps", "variance"), [(10, "native"), (20, "native"), (25, "native"), (30, "paper"), (50, "paper")]
)
@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_auto_takes_the_papers_variance_where_it_leaves_the_noise(
    steps: int, variance: str, eta: float
) -> None:
    auto, asked = schedule(steps, "full", eta), schedule(steps, f"full,variance={variance}", eta)
    assert auto.variance == asked.variance == variance
    for column in ("std", "weight", "weight_policy"):
        assert torch.equal(getattr(auto, column), getattr(asked, column))
    assert auto.w_star == asked.w_star
    share = schedule(steps, "full,variance=paper", eta).std_share
    why = f"auto: the paper's leaves {share:.2f} of DDIM's noise, and from 0.9 on it is taken"
    assert (
        auto.why == why
        and why in auto.describe(parse("full"))
        and f"{variance} variance" in auto.describe(parse("full"))
    )
    assert asked.why is None


@pytest.mark.parametrize(("steps", "told"), [(10, True), (20, True), (25, True), (30, False), (50, False)])
def test_few_steps_are_told_what_the_papers_variance_does(steps: int, told: bool) -> None:
    paper = parse("full,variance=paper")
    banner = schedule(steps, "full,variance=paper").describe(paper)
    assert ("explores less" in banner) == told
    assert f"{schedule(steps, 'full,variance=paper').std_share:.2f} of DDIM's noise" in banner
    native = parse("full,variance=native")
    assert "explores" not in schedule(steps, "full,variance=native").describe(native)
    assert schedule(steps, "full,variance=native").describe(native).endswith("native variance")


def test_the_policys_weights_are_those_of_the_std_in_use() -> None:
    """MATH of the larger root: at w_star 4.5 the true c/s of a step is 0.513, 0.388, 3.37, 1.09."""
    steps = schedule(50, "full,variance=paper")
    at = dict(zip(steps.timestep.tolist(), steps.weight_policy.tolist(), strict=True))
    for timestep, weight in {981: 0.513, 501: 0.388, 21: 3.37, 1: 1.09}.items():
        assert at[timestep] == pytest.approx(weight, rel=5e-3)
    native = schedule(50, "full,variance=native")
    assert torch.equal(native.weight_policy, native.weight_native)


def test_zeta_over_the_trained_steps() -> None:
    """DanceGRPO's SD never trains the last step of its ten."""
    whole, trained = (
        ddim_steps(
            sd_alphas_cumprod(), ddim_timesteps(10), 10, 1.0, parse(mode).on("dancegrpo_sd"), trained=9
        )
        for mode in ("full,variance=native", "full,variance=native,zeta=trained")
    )
    assert sorted(map(float, (whole.weight[0], trained.weight[0]))) == pytest.approx(
        [1.8162, 1.9065], abs=5e-5
    )
    assert float(trained.weight[0]) == pytest.approx(float(trained.weight_native[:9].mean()))
    with pytest.raises(PCPOError, match="zeta=trained changes nothing on ddpo"):
        parse("full,zeta=trained").on("ddpo")


# ------------------------------------------------------- degenerate schedules


def diffusers_schedule(steps: int, mode: str, **settings: Any) -> Steps:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        **settings,
    )
    scheduler.set_timesteps(steps)
    return read_scheduler(scheduler, 1.0, parse(mode).on("ddpo"))


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize(("steps", "weight"), [(1, 34.2847), (2, 0.565585), (5, 0.134940), (20, 0.0247572)])
@pytest.mark.parametrize(("prediction", "sign"), [("v_prediction", 1), ("sample", -1)])
@pytest.mark.parametrize("mode", ["observe", "log", "match", "full,weights=native"])
def test_native_weights_at_zero_terminal_snr(
    steps: int, weight: float, prediction: str, sign: int, mode: str
) -> None:
    resolved = diffusers_schedule(steps, mode, prediction_type=prediction, **ZERO_SNR)
    assert resolved.timestep[0] == 999
    assert float(resolved.weight[0]) == pytest.approx(sign * weight, rel=1e-4)
    assert bool(resolved.weight.isfinite().all()) and bool((resolved.std > 0).all())
    assert resolved.mean_native is None and resolved.variance == "native"
    json.dumps(resolved.as_dict(), allow_nan=False)


@pytest.mark.parametrize("mode", ["full", "full,weights=uniform", "full,variance=native"])
def test_no_finite_mean_at_zero_terminal_snr_is_refused(mode: str) -> None:
    with pytest.raises(PCPOError, match="no finite mean on the noise estimate; use PCPO=match"):
        diffusers_schedule(5, mode, prediction_type="v_prediction", **ZERO_SNR)


@pytest.mark.parametrize("mode", ["log", "match", "full"])
def test_noise_prediction_at_zero_terminal_snr_is_refused(mode: str) -> None:
    with pytest.raises(PCPOError, match="predicts noise cannot be sampled there"):
        diffusers_schedule(5, mode, **ZERO_SNR)


@pytest.mark.parametrize("mode", ["match", "full,variance=native", "full,variance=paper"])
def test_a_step_that_draws_nothing_carries_no_credit(mode: str) -> None:
    """Linspace spacing ends at t = 0, between equal alphas."""
    resolved = diffusers_schedule(50, mode, timestep_spacing="linspace")
    assert resolved.timestep[-1] == 0
    assert resolved.std[-1] == resolved.weight[-1] == resolved.weight_policy[-1] == 0
    assert bool((resolved.weight[:-1] > 0).all())
    assert resolved.mean_native == pytest.approx(float(resolved.weight_native[:-1].mean()))
    if mode != "match":
        assert resolved.weight[:-1].unique().tolist() == [resolved.mean_native]


def test_weights_that_are_not_finite_are_refused() -> None:
    alphas = sd_alphas_cumprod()
    alphas[21] = float("nan")
    with pytest.raises(PCPOError, match="not a finite number at timestep 41"):
        ddim_steps(alphas, ddim_timesteps(50), 50, 1.0, parse("match"))


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_proportional_credit_is_measured_on_the_noise_estimate(prediction: str) -> None:
    """Whatever the network predicts: the weight on its output carries ``d eps / d pred``."""
    noise, ours = (
        ddim_steps(sd_alphas_cumprod(), ddim_timesteps(50), 50, 1.0, parse("full,variance=native"), kind)
        for kind in ("epsilon", prediction)
    )
    abar = sd_alphas_cumprod()[ours.timestep]
    scale = abar.sqrt() if prediction == "v_prediction" else -(abar / (1 - abar)).sqrt()
    assert ours.mean_native == noise.mean_native == pytest.approx(0.516900, abs=5e-7)
    assert ours.weight.tolist() == pytest.approx((noise.mean_native * scale).tolist())
    assert ours.weight_native.tolist() == pytest.approx((noise.weight_native * scale).tolist())
    assert ours.weight_policy.tolist() == ours.weight_native.tolist()


def test_an_interval_is_what_the_sampler_steps_over() -> None:
    assert schedule(30, "match").dt.tolist() == [0.033] * 30


def test_a_schedule_without_noise_is_refused() -> None:
    with pytest.raises(PCPOError, match="draws any noise"):
        ddim_steps(sd_alphas_cumprod(), torch.tensor([0]), 50, 1.0, parse("match"))


def test_a_std_that_is_lost_to_rounding_is_refused() -> None:
    with pytest.raises(PCPOError, match="falls below double precision"):
        ddim_steps(sd_alphas_cumprod(), ddim_timesteps(50), 50, 1e-200, parse("full,w_star=1e300"))


def test_log_needs_no_linear_step() -> None:
    assert diffusers_schedule(5, "log").trained == 5
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=True)
    scheduler.set_timesteps(5)
    assert read_scheduler(scheduler, 1.0, parse("log")).trained == 5
    with pytest.raises(PCPOError, match="clip_sample=true"):
        read_scheduler(scheduler, 1.0, parse("match"))


@pytest.mark.parametrize("steps", [10, 50])
def test_uniform_credit_on_ddim_is_the_proportional_one(steps: int) -> None:
    proportional, uniform = schedule(steps, "full"), schedule(steps, "full,weights=uniform")
    assert torch.equal(uniform.weight, proportional.weight)
    assert uniform.weight.unique().numel() == 1
