"""The overlay's functions against upstream's own code, called in this process from the unpatched clone."""

from __future__ import annotations

import pytest
import source
import torch
from source import load

from pcpo_overlay import compat, losses
from pcpo_overlay.config import parse
from pcpo_overlay.steps import StepTable, ddim_steps, read_scheduler

pytestmark = pytest.mark.upstream

SHAPE = (3, 4, 16, 16)


@pytest.fixture(scope="module")
def upstream(ddpo_pristine):
    compat.install()
    path = ddpo_pristine / "ddpo_pytorch" / "diffusers_patch" / "ddim_with_logprob.py"
    return load(path)


def scheduler(steps, prediction_type="epsilon", dtype=torch.float64):
    from diffusers import DDIMScheduler

    result = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    result.set_timesteps(steps)
    result.alphas_cumprod = result.alphas_cumprod.to(dtype)
    result.final_alpha_cumprod = result.final_alpha_cumprod.to(dtype)
    return result


def rollout_step(upstream, sched, t, eta, pred, x, seed=0):
    """One sampling step of upstream's and the noise it drew, found again from the same seed."""
    torch.manual_seed(seed)
    prev, log_prob = upstream.ddim_step_with_logprob(sched, pred, t, x, eta=eta)
    torch.manual_seed(seed)
    return prev, log_prob, torch.randn(pred.shape, dtype=pred.dtype)


@pytest.mark.parametrize("steps", [1, 5, 20, 50])
@pytest.mark.parametrize("eta", [0.2, 1.0])
def test_std_of_every_step(upstream, steps, eta):
    sched = scheduler(steps)
    schedule = ddim_steps(sched.alphas_cumprod, sched.timesteps, steps, eta, parse("match"))
    prev = (sched.timesteps - 1000 // steps).clamp(0, 999)
    theirs = eta * upstream._get_variance(sched, sched.timesteps, prev) ** 0.5
    torch.testing.assert_close(schedule.std, theirs, rtol=1e-10, atol=0)
    torch.testing.assert_close(schedule.std_native, theirs, rtol=1e-10, atol=0)


def log_ratios(upstream, steps, eta, prediction_type, dtype, scale):
    """(by matching, by upstream's difference) at every step of a schedule, each (steps, B), for predictions ``scale``
    apart. Samples stay in at least float32, so that what is compared is the formula and not the latents' rounding."""
    sched = scheduler(steps, prediction_type, torch.float64 if dtype == torch.float64 else torch.float32)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    table = StepTable(read_scheduler(sched, eta, parse("match")), torch.device("cpu"), precision)
    generator = torch.Generator().manual_seed(steps)
    ours, theirs = [], []
    for t in sched.timesteps:
        draw = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(3)]
        x = draw[0].to(torch.promote_types(dtype, torch.float32))
        old = draw[1].to(dtype)
        new = (old.double() + scale * draw[2]).to(dtype)
        prev, log_prob_old, z = rollout_step(upstream, sched, t, eta, old, x, seed=int(t))
        timestep = t.repeat(SHAPE[0])
        _, log_prob = upstream.ddim_step_with_logprob(sched, new, timestep, x, eta=eta, prev_sample=prev)
        theirs.append(log_prob - log_prob_old)
        ours.append(losses.log_ratio(new, old, z, table.weight(timestep, SHAPE[0])))
    return torch.stack(ours), torch.stack(theirs)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [5, 50])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_log_ratio_in_float64(upstream, steps, eta, prediction_type):
    ours, theirs = log_ratios(upstream, steps, eta, prediction_type, torch.float64, scale=1e-2)
    assert ours.dtype == torch.float64
    assert float(theirs.abs().max()) > 1e-5
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-6)], ids=["float32", "bfloat16"]
)
def test_log_ratio_in_lower_precision(upstream, dtype, bound):
    """Against upstream's difference, whose own float32 rounding sets the bound, and against float64."""
    ours, theirs = log_ratios(upstream, 50, 1.0, "epsilon", dtype, scale=5e-2)
    error = float((ours - theirs).abs().max())
    print(f"\n{dtype}: largest |difference of log ratios| {error:.2e}, of {float(theirs.abs().max()):.2e}")
    assert ours.dtype == torch.float32
    assert error < bound


@pytest.fixture(scope="module")
def ppo_loss(ddpo_pristine):
    return source.ppo_loss(ddpo_pristine / "scripts" / "train.py", "loss")


@pytest.mark.parametrize("objective", [losses.ppo_clip_loss, losses.ppo_hinge_loss])
def test_ppo_clip_gradient(ppo_loss, objective):
    generator = torch.Generator().manual_seed(0)
    n, clip_range = 4096, 1e-4
    advantages = torch.randn(n, generator=generator, dtype=torch.float64)
    old = torch.randn(n, generator=generator, dtype=torch.float64)
    # On both sides of both clip bounds, and exactly on-policy.
    shift = 3e-4 * torch.randn(n, generator=generator, dtype=torch.float64)
    shift[:64] = 0
    gradients = []
    for compute in (
        lambda log_prob: ppo_loss(log_prob, old, advantages, clip_range),
        lambda log_prob: objective(log_prob - old, advantages, clip_range).mean(),
    ):
        log_prob = (old + shift).requires_grad_()
        gradients.append(torch.autograd.grad(compute(log_prob), log_prob)[0])
    theirs, ours = gradients
    assert 0.1 < float((theirs == 0).double().mean()) < 0.9
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    stats = losses.clip_statistics(shift, torch.expm1(shift), advantages[None], clip_range)
    assert torch.equal(stats.masked, theirs == 0)
