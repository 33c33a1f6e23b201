"""The overlay's functions against flow_grpo's own code, called in this process from the unpatched clone."""

from __future__ import annotations

import types
from types import SimpleNamespace

import pytest
import torch
from source import load, ppo_loss

from pcpo_overlay import hooks, losses
from pcpo_overlay.config import parse
from pcpo_overlay.session import Session
from pcpo_overlay.steps import StepTable, read_scheduler

pytestmark = pytest.mark.upstream("flow_grpo")

STEP_FILE = "flow_grpo/diffusers_patch/sd3_sde_with_logprob.py"
SHAPE = (3, 16, 8, 8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def upstream(upstream_clone):
    return load(upstream_clone("flow_grpo", False) / STEP_FILE)


@pytest.fixture(scope="module")
def upstream64(upstream_clone):
    """Upstream's step function in double precision: it casts to float32, which is changed as the test runs."""
    source = (upstream_clone("flow_grpo", False) / STEP_FILE).read_text()
    assert source.count(".float()") == 3
    module = types.ModuleType("sd3_sde_with_logprob_float64")
    exec(source.replace(".float()", ".double()"), vars(module))
    return module


def scheduler(steps, dtype=torch.float64, dynamic=False):
    from diffusers import FlowMatchEulerDiscreteScheduler

    made = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    made.set_timesteps(steps, **({"mu": 1.15} if dynamic else {}))
    made.sigmas = made.sigmas.to(dtype)
    return made


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("steps", [1, 5, 10, 40])
@pytest.mark.parametrize("noise_level", [0.3, 0.7])
def test_std_of_every_step(upstream64, steps, noise_level, dynamic):
    sched = scheduler(steps, dynamic=dynamic)
    schedule = read_scheduler(sched, noise_level, parse("match"))
    x = torch.zeros(steps, 1, 1, 1, dtype=torch.float64)
    *_, scale = upstream64.sde_step_with_logprob(sched, x, sched.timesteps, x, noise_level, prev_sample=x)
    theirs = scale.flatten() * torch.sqrt(-torch.diff(sched.sigmas))
    torch.testing.assert_close(schedule.std, theirs, rtol=1e-10, atol=0)


def log_ratios(upstream, steps, noise_level, dtype, scale, dynamic=False):
    """(by matching, by upstream's difference) at every step of a schedule, each (steps, B), for predictions ``scale``
    apart. Samples stay in at least float32, so that what is compared is the formula and not the latents' rounding."""
    double = dtype == torch.float64
    sched = scheduler(steps, torch.float64 if double else torch.float32, dynamic)
    precision = torch.float64 if double else torch.float32
    table = StepTable(read_scheduler(sched, noise_level, parse("match")), CPU, precision)
    generator = torch.Generator().manual_seed(steps)
    ours, theirs = [], []
    for t in sched.timesteps:
        draw = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(3)]
        x = draw[0].to(torch.promote_types(dtype, torch.float32))
        old = draw[1].to(dtype)
        new = (old.double() + scale * draw[2]).to(dtype)
        step = [sched, old, t.unsqueeze(0), x, noise_level]
        torch.manual_seed(int(t))
        prev, log_prob_old, *_ = upstream.sde_step_with_logprob(*step)
        torch.manual_seed(int(t))
        z = torch.randn(SHAPE, dtype=torch.promote_types(dtype, torch.float32))
        timestep = t.repeat(SHAPE[0])
        _, log_prob, *_ = upstream.sde_step_with_logprob(
            sched, new, timestep, x, noise_level, prev_sample=prev
        )
        theirs.append(log_prob - log_prob_old)
        ours.append(losses.log_ratio(new, old, z, table.weight(timestep, SHAPE[0])))
    return torch.stack(ours), torch.stack(theirs)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("steps", [5, 10, 28])
@pytest.mark.parametrize("noise_level", [0.3, 0.7])
def test_log_ratio_in_float64(upstream64, steps, noise_level, dynamic):
    ours, theirs = log_ratios(upstream64, steps, noise_level, torch.float64, 1e-2, dynamic)
    assert ours.dtype == torch.float64
    assert float(theirs.abs().max()) > 1e-5
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_log_ratio_in_lower_precision(upstream, dtype):
    """Against upstream's difference, whose own float32 rounding sets the bound."""
    ours, theirs = log_ratios(upstream, 10, 0.7, dtype, scale=5e-2)
    error = float((ours - theirs).abs().max())
    print(f"\n{dtype}: largest |difference of log ratios| {error:.2e}, of {float(theirs.abs().max()):.2e}")
    assert ours.dtype == torch.float32
    assert error < 4e-6


@pytest.fixture
def session():
    made = Session(parse("full").on("flow_grpo"))
    with hooks.using(made):
        yield made


def test_the_patched_step_keeps_mean_and_std_for_the_kl_term(upstream, upstream_clone, session):
    """In training under ``full``: log rho by matching, and mean and std as upstream computes them, bit for bit."""
    patched = load(upstream_clone("flow_grpo", True) / STEP_FILE)
    sched = scheduler(10, torch.float32)
    x, pred = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)).unbind(0)
    hooks.begin_rollout(SimpleNamespace(mixed_precision="no"), None)
    prev, *_ = patched.sde_step_with_logprob(sched, pred, sched.timesteps[3:4], x)
    sample = {"log_probs": torch.ones(3, 1)}
    hooks.end_rollout(sample)
    timestep = sched.timesteps[3].repeat(3)
    live = (pred + 1e-3).requires_grad_()
    step = [sched, live, timestep, x, 0.7, prev]
    hooks.begin_step(sample, 0, timestep)
    same, log_rho, mean, std = patched.sde_step_with_logprob(*step)
    _, _, their_mean, their_std = upstream.sde_step_with_logprob(*step)
    assert same is prev
    assert torch.equal(mean, their_mean)
    assert torch.equal(std, their_std)
    z, w = (
        session.tape.lookup(sample["pcpo_index"], 0).z,
        session.rollout.table(sched, 0.7, CPU).steps.weight_policy[3],
    )
    expected = -(w * 1e-3 * z.double()).flatten(1).mean(1) - 0.5 * (w * 1e-3) ** 2
    torch.testing.assert_close(log_rho.double(), expected, rtol=1e-3, atol=1e-9)
    # The reference pass has no gradient: it is upstream's step, and no policy's prediction.
    with torch.no_grad():
        reference = patched.sde_step_with_logprob(*step)
    for ours, theirs in zip(reference, upstream.sde_step_with_logprob(*step), strict=True):
        assert torch.equal(ours, theirs)


def test_ppo_clip_gradient(upstream_clone):
    """Upstream's own policy loss, taken from the clone's source when the test runs, has our baseline's gradient."""
    script = upstream_clone("flow_grpo", False) / "scripts" / "train_sd3.py"
    policy_loss = ppo_loss(script, "policy_loss")
    generator = torch.Generator().manual_seed(0)
    n, clip_range = 4096, 1e-4
    advantages, old, shift = torch.randn(3, n, generator=generator, dtype=torch.float64).unbind(0)
    shift = 3e-4 * shift
    gradients = []
    for compute in (
        lambda log_prob: policy_loss(log_prob, old, advantages, clip_range),
        lambda log_prob: losses.ppo_clip_loss(log_prob - old, advantages, clip_range).mean(),
    ):
        log_prob = (old + shift).requires_grad_()
        gradients.append(torch.autograd.grad(compute(log_prob), log_prob)[0])
    theirs, ours = gradients
    assert 0.1 < float((theirs == 0).double().mean()) < 0.9
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
