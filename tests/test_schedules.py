"""Our schedules against the schedulers that the upstreams really run (diffusers)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from pcpo_overlay.schedules import (
    dancegrpo_sigmas,
    ddim_previous,
    ddim_timesteps,
    sd3_sigmas,
    sd_alphas_cumprod,
    shift_sigmas,
    wan_sigmas,
)
from pcpo_overlay.variance import ddim_sigma


def sd15_scheduler(steps: int) -> DDIMScheduler:
    """DDIM with the scheduler configuration of Stable Diffusion 1.5."""
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(steps)
    return scheduler


def test_sd_alphas_cumprod_against_diffusers() -> None:
    reference = sd15_scheduler(50).alphas_cumprod.double()
    ours = sd_alphas_cumprod()
    assert ours.dtype == torch.float64 and ours.shape == (1000,)
    # The reference multiplies 1000 float32 factors.
    assert torch.allclose(ours, reference, rtol=5e-5, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 20, 50, 100, 333, 501, 999, 1000])
def test_ddim_timesteps_against_diffusers(steps: int) -> None:
    reference = sd15_scheduler(steps).timesteps
    ours = ddim_timesteps(steps)
    assert ours.dtype == torch.int64
    # Only 1000 steps lead beyond the trained range, where the reference has no alpha at all.
    assert int(reference.max()) == (1000 if steps == 1000 else int(ours.max()))
    assert ours.tolist() == reference.clamp(max=999).tolist()


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 333, 999])
def test_ddim_sigma_against_diffusers(steps: int) -> None:
    scheduler = sd15_scheduler(steps)
    t = ddim_timesteps(steps)
    previous = ddim_previous(t, steps)
    alphas_cumprod = sd_alphas_cumprod()
    ours = ddim_sigma(alphas_cumprod[t], alphas_cumprod[previous])
    variance = [scheduler._get_variance(int(a), int(b)) for a, b in zip(t, previous, strict=True)]
    assert torch.allclose(ours, torch.stack(variance).double().sqrt(), rtol=1e-3, atol=1e-6)


def test_ddim_edges() -> None:
    assert ddim_timesteps(1).tolist() == [1]
    assert ddim_timesteps(999)[[0, -1]].tolist() == [999, 1]
    assert ddim_timesteps(1000)[[0, 1, -1]].tolist() == [999, 999, 1]
    assert ddim_previous(ddim_timesteps(50), 50)[[0, -1]].tolist() == [961, 0]
    assert ddim_previous(torch.tensor([0, 1, 999]), 1000).tolist() == [0, 0, 998]


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 28, 40, 100, 999, 1000])
@pytest.mark.parametrize("shift", [3.0, 1.0, 0.1, 7.0])
def test_sd3_sigmas_against_diffusers(steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    scheduler.set_timesteps(steps)
    ours = sd3_sigmas(steps, shift)
    assert ours.dtype == torch.float64 and ours.shape == (steps + 1,)
    # The reference is float32, and subtracts 1 - shift from 1.
    assert torch.allclose(ours, scheduler.sigmas.double(), rtol=0, atol=5e-7 / min(shift, 1))
    assert float(ours[0]) == 1 and float(ours[-1]) == 0


@pytest.mark.parametrize("steps", [1, 2, 20, 50, 999])
@pytest.mark.parametrize("shift", [3.0, 5.0])
def test_wan_sigmas_against_diffusers(steps: int, shift: float) -> None:
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    scheduler.set_timesteps(steps)
    ours = wan_sigmas(steps, shift)
    assert ours.dtype == torch.float64 and ours.shape == (steps + 1,)
    assert torch.allclose(ours, scheduler.sigmas.double(), rtol=0, atol=1e-7)
    # the reference's sigmas are float32, which may round across an integer
    assert ((ours[:-1] * 1000).long() - scheduler.timesteps).abs().max() <= 1


@pytest.mark.parametrize("steps", [1, 12, 16, 1000])
def test_dancegrpo_sigmas(steps: int) -> None:
    sigmas = dancegrpo_sigmas(steps, shift=3.0)
    assert sigmas.dtype == torch.float64 and sigmas.shape == (steps + 1,)
    assert float(sigmas[0]) == 1 and float(sigmas[-1]) == 0
    linear = [1 - i / steps for i in range(steps + 1)]
    assert sigmas.tolist() == pytest.approx([3 * t / (1 + 2 * t) for t in linear], abs=1e-12)


def test_shift_keeps_the_ends_exactly() -> None:
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for shift in (i / 100 for i in range(1, 1001)):
        assert shift_sigmas(ends, shift).tolist() == [1.0, 0.0], shift


@pytest.mark.parametrize("steps", [0, -1, 1001])
@pytest.mark.parametrize("schedule", [ddim_timesteps, dancegrpo_sigmas, sd3_sigmas, wan_sigmas])
def test_steps_out_of_range(schedule: Any, steps: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 1000, got {steps}"):
        schedule(steps)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("schedule", [dancegrpo_sigmas, sd3_sigmas, wan_sigmas])
def test_shift_out_of_range(schedule: Any, shift: float) -> None:
    with pytest.raises(ValueError, match="shift must be positive"):
        schedule(10, shift)
