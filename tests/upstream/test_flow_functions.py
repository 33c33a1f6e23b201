"""The overlay's functions against flow_grpo's own code, called in this process from the unpatched clone."""

from __future__ import annotations

import ast
import types
from types import SimpleNamespace

import pytest
import torch
from source import load, ppo_loss

from pcpo_overlay import hooks, losses
from pcpo_overlay.config import parse
from pcpo_overlay.session import Session
from pcpo_overlay.steps import StepTable, read_scheduler
from pcpo_overlay.tools.miniature import flow
from pcpo_overlay.variance import flow_grpo_scale

pytestmark = pytest.mark.upstream("flow_grpo")

STEP_FILE = "flow_grpo/diffusers_patch/sd3_sde_with_logprob.py"
WAN_FILE = "flow_grpo/diffusers_patch/wan_pipeline_with_logprob.py"
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


@pytest.mark.parametrize("steps", [5, 10, 28])
@pytest.mark.parametrize("noise_level", [0.3, 0.8, 1.0])
def test_coefficients_preserving_steps_in_float64(upstream64, steps, noise_level):
    """``match`` is upstream's own number; divided by ``2*std**2`` it is the policies' log ratio."""
    sched = scheduler(steps)
    resolved = read_scheduler(sched, noise_level, parse("match"), range(steps - 1), "cps")
    table = StepTable(resolved, CPU, torch.float64)
    generator = torch.Generator().manual_seed(steps)
    for i, t in enumerate(sched.timesteps[:-1]):
        x, old, d, z = torch.randn(4, *SHAPE, generator=generator, dtype=torch.float64).unbind(0)
        new, step = old + 1e-2 * d, t.repeat(SHAPE[0])
        settings = {"noise_level": noise_level, "sde_type": "cps"}
        _, _, mean, std = upstream64.sde_step_with_logprob(sched, old, step, x, prev_sample=x, **settings)
        drawn = mean + std * z
        both = [
            upstream64.sde_step_with_logprob(sched, pred, step, x, prev_sample=drawn, **settings)
            for pred in (old, new)
        ]
        theirs = both[1][1] - both[0][1]
        torch.testing.assert_close(std.flatten()[0], resolved.std[i], rtol=1e-10, atol=0)
        w = table.policy_weight(step, SHAPE[0])
        log_rho = losses.log_ratio(new, old, z, w)
        scale = table.clip_scale(step, SHAPE[0])
        assert scale is not None
        ours = log_rho * scale
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
        gaussian = [
            -((drawn - other[2]) ** 2).flatten(1).mean(1) / (2 * resolved.std[i] ** 2) for other in both
        ]
        torch.testing.assert_close(log_rho, gaussian[1] - gaussian[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_evaluate_draws_by_upstreams_own_steps(upstream64, kind):
    """The miniatures' step, with the noise that it drew, lands where upstream's does."""
    sched = scheduler(10)
    x, v = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unbind(0)
    scales = flow_grpo_scale(sched.sigmas, 0.8)
    for i, t in enumerate(sched.timesteps[:-1]):
        step, draw = t.repeat(SHAPE[0]), [torch.Generator().manual_seed(i) for _ in range(2)]
        _, _, mean, std = upstream64.sde_step_with_logprob(
            sched, v, step, x, prev_sample=x, noise_level=0.8, sde_type=kind
        )
        t, after = float(sched.sigmas[i]), float(sched.sigmas[i + 1])
        if kind == "cps":
            ours = flow.cps_step(x, v, t=t, after=after, noise_level=0.8, generator=draw[0])
        else:
            std = std * (t - after) ** 0.5
            ours = flow.sde_step(x, v, t=t, dt=t - after, scale=float(scales[i]), generator=draw[0])
        z = torch.randn(SHAPE, generator=draw[1], dtype=torch.float64)
        torch.testing.assert_close(ours, mean + std * z, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("steps", [2, 20, 50])
def test_wans_steps_in_float64(upstream_clone, steps):
    """Its noise scale is linear in the schedule value: std of every step, and the log ratio."""
    from diffusers import UniPCMultistepScheduler

    source = (upstream_clone("flow_grpo", False) / WAN_FILE).read_text()
    module = types.ModuleType("wan_float64")
    exec(source.replace(".float()", ".double()"), vars(module))
    sched = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    sched.set_timesteps(steps)
    sched.sigmas = sched.sigmas.double()
    resolved = read_scheduler(sched, float(sched.sigmas[1]), parse("match"), steps - 1, "linear")
    table = StepTable(resolved, CPU, torch.float64)
    generator = torch.Generator().manual_seed(steps)
    for i, t in enumerate(sched.timesteps):
        draw = torch.randn(4, 2, 16, 2, 4, 4, generator=generator, dtype=torch.float64)
        x, old, d, z = draw.unbind(0)
        new, step = old + 1e-2 * d, t.repeat(2)
        _, _, mean, std = module.sde_step_with_logprob(sched, old, step, x, prev_sample=x)
        torch.testing.assert_close(std.flatten()[0], resolved.std[i], rtol=1e-10, atol=0)
        drawn = mean + std * z
        theirs = [
            module.sde_step_with_logprob(sched, pred, step, x, prev_sample=drawn)[1] for pred in (old, new)
        ]
        ours = losses.log_ratio(new, old, z, table.policy_weight(step, 2))
        torch.testing.assert_close(ours, theirs[1] - theirs[0], rtol=1e-9, atol=1e-10)


def test_grpo_guard_weighs_every_step_alike(upstream_clone, upstream64):
    """What upstream calls ratio normalisation, from its source: its exponent is ``-mean(c*d*z)``, its loss over ``dt``.

    ``c/dt`` is ``1 + noise_level**2/2`` at every step but the first, so its gradient is that of ``weights=uniform``.
    """
    script = upstream_clone("flow_grpo", False) / "scripts" / "train_sd3_GRPO_Guard.py"
    names = {"sigma_t", "ratio_mean_bias", "ratio"}
    tree = ast.parse(script.read_text())
    (branch,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and {getattr(n.targets[0], "id", None) for n in node.body if isinstance(n, ast.Assign)} == names
    ]
    code = compile(ast.Module(branch.body, type_ignores=[]), script.name, "exec")
    noise_level, sched = 0.7, scheduler(10)
    generator, weights = torch.Generator().manual_seed(0), []
    for i, t in enumerate(sched.timesteps):
        # the bias is a mean over the batch too, so of one sample
        x, old, d, z = torch.randn(4, 1, *SHAPE[1:], generator=generator, dtype=torch.float64).unbind(0)
        new = (old + 1e-2 * d).requires_grad_()
        step = {"noise_level": noise_level, "return_sqrt_dt": True}
        _, _, mean, std, sqrt_dt = upstream64.sde_step_with_logprob(
            sched, old, t[None], x, prev_sample=x, **step
        )
        drawn = mean + std * sqrt_dt * z
        _, log_prob_old, *_ = upstream64.sde_step_with_logprob(
            sched, old, t[None], x, prev_sample=drawn, **step
        )
        _, log_prob, live, std, sqrt_dt = upstream64.sde_step_with_logprob(
            sched, new, t[None], x, prev_sample=drawn, **step
        )
        sample = {"log_probs": log_prob_old[:, None], "prev_sample_mean": mean[:, None]}
        scope = {"torch": torch, "j": 0, "log_prob": log_prob, "sample": sample}
        exec(code, {**scope, "prev_sample_mean": live, "std_dev_t": std, "sqrt_dt": sqrt_dt}, scope)
        exponent = scope["ratio"].log()
        resolved = read_scheduler(sched, noise_level, parse("match"))
        c = float(resolved.weight_native[i] * resolved.std[i])
        torch.testing.assert_close(exponent, -(c * 1e-2 * d * z).flatten(1).mean(1), rtol=1e-8, atol=1e-12)
        (gradient,) = torch.autograd.grad(exponent.sum(), new)
        weight = float((-gradient * z.numel() / z).mean() / sqrt_dt.mean() ** 2)
        assert weight == pytest.approx(c / float(resolved.dt[i]), rel=1e-8)
        weights.append(weight)
    assert weights[1:] == pytest.approx([1 + noise_level**2 / 2] * 9, rel=1e-6)
    assert weights[0] != pytest.approx(weights[1], rel=1e-2)


@pytest.mark.parametrize("sde_type", ["sde", "cps"])
def test_the_patched_step_returns_as_many_as_upstreams(upstream, upstream_clone, session, sde_type):
    """The fifth is asked for by GRPO-Guard."""
    patched = load(upstream_clone("flow_grpo", True) / STEP_FILE)
    sched = scheduler(10, torch.float32)
    x, pred = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)).unbind(0)
    hooks.begin_rollout(SimpleNamespace(mixed_precision="no"), None)
    prev, *_ = patched.sde_step_with_logprob(sched, pred, sched.timesteps[3:4], x, sde_type=sde_type)
    sample = {"log_probs": torch.ones(3, 1)}
    hooks.end_rollout(sample)
    timestep = sched.timesteps[3].repeat(3)
    for five in (False, True):
        hooks.begin_step(sample, 0, timestep)
        step = [sched, pred.clone().requires_grad_(), timestep, x, 0.7, prev, None, sde_type, five]
        ours, theirs = patched.sde_step_with_logprob(*step), upstream.sde_step_with_logprob(*step)
        assert len(ours) == len(theirs) == 4 + five
        assert not ours[1].any()  # on policy
        for a, b in zip((ours[0], *ours[2:]), (theirs[0], *theirs[2:]), strict=True):
            assert torch.equal(a, b)


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
