"""Equations 1-4 and 8 as properties, in float64 to 1e-10, values and gradients.

The samplers' means are written out here from the papers, independently of the weights under test.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

from pcpo_overlay import losses
from pcpo_overlay.losses import (
    clip_statistics,
    expand_to,
    kl_divergence,
    log_hinge_loss,
    log_ratio,
    match,
    ppo_clip_loss,
    ppo_hinge_loss,
)
from pcpo_overlay.schedules import (
    dancegrpo_sigmas,
    ddim_previous,
    ddim_timesteps,
    sd3_sigmas,
    sd_alphas_cumprod,
)
from pcpo_overlay.variance import ddim_sigma, flow_grpo_scale, paper_sigma, resolve_w_star
from pcpo_overlay.weights import PREDICTION_TYPES, ddim_weight, flow_weight

TOLERANCE = 1e-10
repeatable = settings(deadline=None, derandomize=True, max_examples=100)

advantages = st.floats(-10, 10)
clip_ranges = st.floats(1e-6, 0.5)
log_ratios = st.floats(-2, 2)
seeds = st.integers(0, 2**32 - 1)


def with_gradient(
    loss: Callable[[Tensor, Tensor, float], Tensor], log_rho: float, advantage: float, clip_range: float
) -> tuple[float, float]:
    """The loss of one sample and its derivative by the log ratio."""
    x = torch.tensor([log_rho], dtype=torch.float64, requires_grad=True)
    value = loss(x, torch.tensor([advantage], dtype=torch.float64), clip_range)
    assert value.shape == (1,)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return float(value.detach()), float(gradient)


# --- Equations 1 to 3 -------------------------------------------------------------------------------------------


@repeatable
@given(log_rho=log_ratios, advantage=advantages, clip_range=clip_ranges)
def test_ppo_clip_is_a_hinge_up_to_its_constant(log_rho: float, advantage: float, clip_range: float) -> None:
    clip, clip_gradient = with_gradient(ppo_clip_loss, log_rho, advantage, clip_range)
    hinge, hinge_gradient = with_gradient(ppo_hinge_loss, log_rho, advantage, clip_range)
    constant = -advantage * (1 + clip_range if advantage > 0 else 1 - clip_range)
    assert clip == pytest.approx(hinge + constant, abs=TOLERANCE)
    at_the_kink = abs(abs(math.expm1(log_rho)) - clip_range) < 1e-12
    assert at_the_kink or clip_gradient == pytest.approx(hinge_gradient, abs=TOLERANCE)


@repeatable
@given(log_rho=log_ratios, advantage=advantages, clip_range=clip_ranges)
def test_ppo_clip_is_what_the_trainers_compute(log_rho: float, advantage: float, clip_range: float) -> None:
    rho = math.exp(log_rho)
    clipped = min(max(rho, 1 - clip_range), 1 + clip_range)
    value, _ = with_gradient(ppo_clip_loss, log_rho, advantage, clip_range)
    assert value == pytest.approx(max(-advantage * rho, -advantage * clipped), abs=TOLERANCE)


@repeatable
@given(log_rho=log_ratios, advantage=advantages, clip_range=clip_ranges)
def test_log_hinge(log_rho: float, advantage: float, clip_range: float) -> None:
    value, gradient = with_gradient(log_hinge_loss, log_rho, advantage, clip_range)
    inside = clip_range * abs(advantage) - advantage * log_rho
    assert value == pytest.approx(max(0.0, inside), abs=TOLERANCE)
    assert gradient == (-advantage if inside > 0 else 0.0)


@repeatable
@given(size=st.floats(-1, 1), advantage=advantages)
def test_log_hinge_is_the_ppo_hinge_to_second_order(size: float, advantage: float) -> None:
    log_rho, clip_range = 1e-6 * size, 1e-5
    log_value, _ = with_gradient(log_hinge_loss, log_rho, advantage, clip_range)
    ppo_value, _ = with_gradient(ppo_hinge_loss, log_rho, advantage, clip_range)
    assert abs(log_value - ppo_value) <= abs(advantage) * log_rho**2 + 1e-18


@repeatable
@given(log_rho=log_ratios, advantage=advantages, clip_range=clip_ranges, log_objective=st.booleans())
def test_clip_statistics(log_rho: float, advantage: float, clip_range: float, log_objective: bool) -> None:
    x = torch.tensor([log_rho], dtype=torch.float64, requires_grad=True)
    credit = x if log_objective else torch.expm1(x)
    statistics = clip_statistics(x, credit, torch.tensor([[advantage]], dtype=torch.float64), clip_range)
    for field in vars(statistics).values():
        assert field.shape == (1,) and not field.requires_grad
    assert statistics.masked.dtype == statistics.outside.dtype == torch.bool

    rho_minus_1 = math.expm1(log_rho)
    u = log_rho if log_objective else rho_minus_1
    masked = clip_range * abs(advantage) - advantage * u < 0
    assert bool(statistics.masked) == masked
    if abs(abs(rho_minus_1) - clip_range) > 1e-12:
        assert bool(statistics.outside) == (abs(rho_minus_1) > clip_range)
    assert float(statistics.ratio) == pytest.approx(math.exp(log_rho), rel=1e-12)
    assert float(statistics.approx_kl) == pytest.approx(0.5 * log_rho**2, rel=1e-12, abs=1e-300)
    if abs(rho_minus_1) > 1e-3:
        expected = abs(log_rho - rho_minus_1) / abs(rho_minus_1)
        assert float(statistics.log_ratio_error) == pytest.approx(expected, rel=1e-9)

    # Masked is what it says: no gradient through the objective in use.
    _, gradient = with_gradient(
        log_hinge_loss if log_objective else ppo_hinge_loss, log_rho, advantage, clip_range
    )
    if masked:
        assert gradient == 0
    elif clip_range * abs(advantage) - advantage * u > 0:
        assert gradient != 0 or advantage == 0 or abs(advantage) < 1e-300


def test_outside_and_masked_are_different_numbers() -> None:
    log_rho = torch.tensor([0.2, 0.2, -0.2, -0.2, 0.0])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    statistics = clip_statistics(log_rho, log_rho, advantage[None], 0.1)
    assert statistics.outside.tolist() == [True, True, True, True, False]
    assert statistics.masked.tolist() == [True, False, False, True, False]


def test_statistics_of_an_unchanged_policy() -> None:
    statistics = clip_statistics(torch.zeros(3), torch.zeros(3), torch.tensor([[1.0, -1.0, 0.0]]), 1e-4)
    assert statistics.ratio.tolist() == [1.0] * 3
    assert statistics.log_ratio_error.tolist() == [0.0] * 3
    assert not statistics.masked.any() and not statistics.outside.any()


# --- Equations 4 and 8: prediction matching against log densities of an explicit sampler step -----------------------


def mean_log_density(sample: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B,) Gaussian log densities, the mean over the other dimensions."""
    return Normal(mean, std.reshape(-1, 1, 1, 1)).log_prob(sample).mean(dim=(1, 2, 3))


def ddim_mean(kind: str, x: Tensor, pred: Tensor, abar: Tensor, abar_prev: Tensor, sigma: Tensor) -> Tensor:
    """The mean of a DDIM step (Song et al., 2021, Eq. 12) from any kind of prediction."""
    abar, abar_prev, sigma = (value.reshape(-1, 1, 1, 1) for value in (abar, abar_prev, sigma))
    if kind == "epsilon":
        eps = pred
        x0 = (x - (1 - abar) ** 0.5 * eps) / abar**0.5
    elif kind == "v_prediction":
        eps = abar**0.5 * pred + (1 - abar) ** 0.5 * x
        x0 = abar**0.5 * x - (1 - abar) ** 0.5 * pred
    else:
        x0 = pred
        eps = (x - abar**0.5 * x0) / (1 - abar) ** 0.5
    return abar_prev**0.5 * x0 + (1 - abar_prev - sigma**2) ** 0.5 * eps


def dancegrpo_mean(x: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor, eta: float) -> Tensor:
    """DanceGRPO's Euler-Maruyama step, with its score of the estimated clean sample."""
    sigma, sigma_next = sigma.reshape(-1, 1, 1, 1), sigma_next.reshape(-1, 1, 1, 1)
    x0 = x - sigma * v
    score = -(x - x0 * (1 - sigma)) / sigma**2
    return x + (sigma_next - sigma) * v - 0.5 * eta**2 * score * (sigma_next - sigma)


def flow_grpo_mean(x: Tensor, v: Tensor, t: Tensor, t_next: Tensor, scale: Tensor) -> Tensor:
    """Euler-Maruyama step of Eq. 7: the drift ``v - s**2/2 * score``, the score being ``-(x + (1-t)*v)/t``."""
    t, t_next, scale = (value.reshape(-1, 1, 1, 1) for value in (t, t_next, scale))
    drift = v + scale**2 / (2 * t) * (x + (1 - t) * v)
    return x + drift * (t_next - t)


def check_matching(
    mean: Callable[[Tensor, Tensor], Tensor],
    std: Tensor,
    w: Tensor,
    size: float,
    seed: int,
    tolerance: float = TOLERANCE,
) -> None:
    """Compare log ratio and its gradient with the difference of log densities of a sampled step.

    Args:
        mean: from latents and prediction, both (B, C, H, W), to the mean of the step.
        std, w: (B,) standard deviation and weight under test.
        size: how far the policy moved, in units in which the log ratio is of order one.
        tolerance: relative and absolute.
    """
    random = torch.Generator().manual_seed(seed)
    x, pred_old, z, direction = (
        torch.randn(std.numel(), 2, 3, 3, dtype=torch.float64, generator=random) for _ in range(4)
    )
    pred = (pred_old + size * direction / w.abs().reshape(-1, 1, 1, 1)).requires_grad_()

    mean_old = mean(x, pred_old)
    sample = mean_old + std.reshape(-1, 1, 1, 1) * z
    expected = mean_log_density(sample, mean(x, pred), std) - mean_log_density(sample, mean_old, std)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), pred)

    actual = log_ratio(pred, pred_old, z, w)
    (gradient,) = torch.autograd.grad(actual.sum(), pred)
    assert actual.shape == std.shape and actual.dtype == torch.float64
    assert torch.allclose(actual, expected, rtol=tolerance, atol=tolerance)
    # By the chain rule a gradient is of the order of w.
    per_weight = w.abs().reshape(-1, 1, 1, 1)
    assert torch.allclose(
        gradient / per_weight, expected_gradient / per_weight, rtol=tolerance, atol=tolerance
    )


def some_steps(data: st.DataObject, steps: int) -> Tensor:
    """First and last step of a schedule and one between, as indices."""
    return torch.tensor([0, data.draw(st.integers(0, steps - 1), label="step"), steps - 1])


@repeatable
@given(
    data=st.data(),
    steps=st.integers(1, 1000),
    eta=st.floats(0.01, 1),
    kind=st.sampled_from(PREDICTION_TYPES),
    variance=st.sampled_from(["native", "paper"]),
    size=st.floats(1e-6, 2),
    seed=seeds,
)
def test_log_ratio_of_a_ddim_step(
    data: st.DataObject, steps: int, eta: float, kind: str, variance: str, size: float, seed: int
) -> None:
    t = ddim_timesteps(steps)
    alphas_cumprod = sd_alphas_cumprod()
    abar, abar_prev = alphas_cumprod[t], alphas_cumprod[ddim_previous(t, steps)]
    sigma = ddim_sigma(abar, abar_prev)
    if variance == "paper":
        sigma = paper_sigma(abar, abar_prev, resolve_w_star(abar, abar_prev))
    index = some_steps(data, steps)
    abar, abar_prev, sigma = abar[index], abar_prev[index], eta * sigma[index]
    w = ddim_weight(abar, abar_prev, sigma, kind)
    check_matching(lambda x, pred: ddim_mean(kind, x, pred, abar, abar_prev, sigma), sigma, w, size, seed)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("eta", [1e-3, 1e-5])
def test_log_ratio_of_a_ddim_step_with_hardly_any_noise(kind: str, eta: float) -> None:
    t = ddim_timesteps(50)
    alphas_cumprod = sd_alphas_cumprod()
    abar, abar_prev = alphas_cumprod[t], alphas_cumprod[ddim_previous(t, 50)]
    sigma = eta * ddim_sigma(abar, abar_prev)
    w = ddim_weight(abar, abar_prev, sigma, kind)
    # The densities themselves lose digits here: they divide a difference of means by a tiny deviation.
    tolerance = 1e-12 / eta
    check_matching(lambda x, p: ddim_mean(kind, x, p, abar, abar_prev, sigma), sigma, w, 0.5, 0, tolerance)


@repeatable
@given(
    data=st.data(),
    steps=st.integers(1, 1000),
    shift=st.floats(0.1, 20),
    eta=st.floats(0.01, 2),
    size=st.floats(1e-6, 2),
    seed=seeds,
)
def test_log_ratio_of_a_dancegrpo_step(
    data: st.DataObject, steps: int, shift: float, eta: float, size: float, seed: int
) -> None:
    sigmas = dancegrpo_sigmas(steps, shift)
    index = some_steps(data, steps)
    sigma, sigma_next = sigmas[index], sigmas[index + 1]
    dt = sigma - sigma_next
    w = flow_weight(sigma, dt, torch.full_like(sigma, eta))
    std = eta * dt**0.5
    check_matching(lambda x, v: dancegrpo_mean(x, v, sigma, sigma_next, eta), std, w, size, seed)


@repeatable
@given(
    data=st.data(),
    steps=st.integers(1, 1000),
    shift=st.floats(0.5, 10),
    noise_level=st.floats(0.05, 2),
    size=st.floats(1e-6, 2),
    seed=seeds,
)
def test_log_ratio_of_a_flow_grpo_step(
    data: st.DataObject, steps: int, shift: float, noise_level: float, size: float, seed: int
) -> None:
    sigmas = sd3_sigmas(steps, shift)
    index = some_steps(data, steps)
    t, t_next = sigmas[index], sigmas[index + 1]
    scale = flow_grpo_scale(sigmas, noise_level)[index]
    dt = t - t_next
    w = flow_weight(t, dt, scale)
    check_matching(lambda x, v: flow_grpo_mean(x, v, t, t_next, scale), scale * dt**0.5, w, size, seed)


def test_flow_grpo_scale_replaces_t_at_the_first_step_only() -> None:
    sigmas = sd3_sigmas(10)
    scale = flow_grpo_scale(sigmas, 0.7)
    expected = [0.7 * math.sqrt(1 / (1 - float(sigmas[1])))]
    expected += [0.7 * math.sqrt(t / (1 - t)) for t in sigmas[1:-1].tolist()]
    assert scale.tolist() == pytest.approx(expected, rel=1e-12)


# --- dtypes and shapes ----------------------------------------------------------------------------------------------

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("w_dtype", [torch.float64, torch.float32])
def test_an_unchanged_prediction_gives_exactly_zero(dtype: torch.dtype, w_dtype: torch.dtype) -> None:
    pred = (100 * torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))).to(dtype)
    z = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    w = torch.tensor([1e-3, 0.5, 4.5, 1e6], dtype=w_dtype)
    result = log_ratio(pred.clone().requires_grad_(), pred, z, w)
    assert (result == 0).all() and (torch.exp(result) == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_ratio_is_float32_or_better(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    pred, pred_old, z = (torch.randn(3, 4, 8, 8, generator=random).to(dtype) for _ in range(3))
    w = torch.tensor([0.3, 0.5, 3.0])
    result = log_ratio(pred, pred_old, z, w)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert result.shape == (3,)
    # The exact value for these inputs; bfloat16 arithmetic would be off by 1e-2.
    exact = log_ratio(pred.double(), pred_old.double(), z.double(), w.double())
    assert torch.allclose(result.double(), exact, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_difference_of_half_precision_predictions_is_not_rounded(dtype: torch.dtype) -> None:
    # 0.99609375 - (-256) needs more digits than half precision has.
    pred = torch.full((1, 1, 1, 1), 0.99609375, dtype=dtype)
    pred_old = torch.full((1, 1, 1, 1), -256.0, dtype=dtype)
    z = torch.ones(1, 1, 1, 1, dtype=dtype)
    d = 256.99609375
    assert float((pred - pred_old).float()) != d
    result = log_ratio(pred, pred_old, z, torch.tensor([2.0**-8]))
    assert float(result) == pytest.approx(-(d / 256 + 0.5 * (d / 256) ** 2), rel=1e-6)


def test_gradient_reaches_a_half_precision_prediction() -> None:
    pred = torch.ones(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    z = torch.ones(2, 3, 4, 4, dtype=torch.bfloat16)
    log_ratio(pred, pred.detach(), z, torch.tensor([1.0, 2.0])).sum().backward()
    assert pred.grad is not None and pred.grad.dtype == torch.bfloat16
    assert pred.grad[:, 0, 0, 0].tolist() == pytest.approx([-1 / 48, -2 / 48], rel=1e-2)


@pytest.mark.parametrize("shape", [(5, 7), (5, 4, 3, 2), (5, 16, 64), (5, 2, 3, 4, 5)])
def test_log_ratio_takes_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(0)
    pred, pred_old, z = (torch.randn(shape, dtype=torch.float64, generator=random) for _ in range(3))
    w = torch.rand(5, dtype=torch.float64, generator=random)
    result = log_ratio(pred, pred_old, z, w)
    for i in range(5):
        wd = w[i] * (pred[i] - pred_old[i])
        assert float(result[i]) == pytest.approx(-float((wd * z[i]).mean() + 0.5 * (wd**2).mean()), abs=1e-13)


def test_the_gradient_written_by_hand() -> None:
    random = torch.Generator().manual_seed(0)
    pred, pred_old, z = (
        torch.randn(3, 2, 4, dtype=torch.float64, generator=random, requires_grad=n == 0) for n in range(3)
    )
    w = torch.tensor([0.3, 1.0, 4.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: log_ratio(x, pred_old, z, w), pred)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_gradient_in_lower_precision(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    pred, pred_old, z = (torch.randn(3, 4, 8, 8, generator=random).to(dtype) for _ in range(3))
    w = torch.tensor([0.3, 0.5, 3.0])
    gradients = []
    for upcast in (lambda x: x, lambda x: x.double()):
        live = upcast(pred).detach().clone().requires_grad_()
        log_ratio(live, upcast(pred_old), upcast(z), upcast(w)).sum().backward()
        assert live.grad is not None and live.grad.dtype == live.dtype
        gradients.append(live.grad.double())
    # One rounding to the prediction's dtype, and below its normal numbers an absolute one.
    epsilon = torch.finfo(dtype)
    bound = gradients[1].abs() * (epsilon.eps + 2e-6) + epsilon.smallest_normal * epsilon.eps
    assert ((gradients[0] - gradients[1]).abs() <= bound + 1e-9).all()


def test_operands_of_several_dtypes() -> None:
    # A sampler without autocast, a trainer with it: each computes in float32 or better.
    pred = torch.full((1, 1), 0.5, dtype=torch.bfloat16, requires_grad=True)
    pred_old, z = torch.full((1, 1), 0.25, dtype=torch.float32), torch.full((1, 1), 2.0, dtype=torch.float16)
    for w_dtype in (torch.float32, torch.float64):
        result = log_ratio(pred, pred_old, z, torch.tensor([2.0], dtype=w_dtype))
        assert result.dtype == w_dtype
        assert float(result.detach()) == -(0.5 * 2 + 0.5 * 0.25)
        (gradient,) = torch.autograd.grad(result.sum(), pred)
        assert gradient.dtype == torch.bfloat16 and float(gradient) == -2 * (2 + 0.5)


def test_shapes_that_do_not_agree_are_named() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 4)
    w = torch.ones(2)
    for arguments in ((a, b, a), (a, a, b), (b, a, a)):
        with pytest.raises(ValueError, match=r"\(2, 4\).* must agree"):
            log_ratio(*arguments, w)
    with pytest.raises(ValueError, match=r"batch of 2, got shape \(3,\)"):
        log_ratio(a, a, a, torch.ones(3))
    with pytest.raises(ValueError, match=r"got shape \(2, 1\)"):
        log_ratio(a, a, a, torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"got shape \(\)"):
        expand_to(torch.tensor(1.0), a)


# --- MATH of the policy: credit, log ratio and KL divergence from the same two moments -------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_match_has_the_policys_ratio_beside_the_credit(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    pred_old, z, d = (torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=random) for _ in range(3))
    pred_old, z = pred_old.to(dtype), z.to(dtype)
    pred = (pred_old.double() + 0.1 * d).to(dtype).requires_grad_()
    w = torch.tensor([0.5, 1.5, 0.0], dtype=torch.float64)
    w_policy = torch.tensor([2.0, 0.3, 0.0], dtype=torch.float64)
    matched = match(pred, pred_old, z, w, w_policy)
    assert torch.equal(matched.credit, log_ratio(pred, pred_old, z, w))
    exact, exact_old, exact_z = (x.detach().double() for x in (pred, pred_old, z))
    expected = log_ratio(exact, exact_old, exact_z, w_policy)
    torch.testing.assert_close(matched.log_rho, expected, rtol=1e-6, atol=1e-7)
    difference = (exact - exact_old).flatten(1)
    kl = 0.5 * w_policy**2 * difference.square().mean(1)
    torch.testing.assert_close(matched.kl, kl, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(kl_divergence(pred, pred_old, w_policy), kl, rtol=1e-6, atol=1e-12)
    assert not matched.log_rho.requires_grad and not matched.kl.requires_grad
    (gradient,) = torch.autograd.grad(matched.credit.sum(), pred, retain_graph=True)
    (expected,) = torch.autograd.grad(log_ratio(pred, pred_old, z, w).sum(), pred)
    assert torch.equal(gradient, expected)


def test_under_the_samplers_own_weights_the_credit_is_the_log_ratio_bit_for_bit() -> None:
    random = torch.Generator().manual_seed(0)
    pred, pred_old, z = (torch.randn(3, 4, generator=random) for _ in range(3))
    w = torch.tensor([0.3, 1.0, 4.5])
    matched = match(pred, pred_old, z, w, w)
    assert torch.equal(matched.credit, matched.log_rho)
    same = match(pred, pred, z, w, 2 * w)
    assert not same.credit.any() and not same.log_rho.any() and not same.kl.any()


@repeatable
@given(std=st.floats(0.05, 3), shift=st.floats(-2, 2))
def test_the_kl_divergence_is_that_of_two_gaussians(std: float, shift: float) -> None:
    """Against torch.distributions, for one value of a step whose mean moves by ``c*d``."""
    c = 0.7
    mean, scale = torch.tensor([c * shift], dtype=torch.float64), torch.tensor([std], dtype=torch.float64)
    old, new = Normal(0 * mean, scale), Normal(mean, scale)
    moved, w = torch.tensor([[shift]], dtype=torch.float64), torch.tensor([c / std], dtype=torch.float64)
    kl = kl_divergence(moved, 0 * moved, w)
    expected = torch.distributions.kl_divergence(old, new)
    assert float(kl) == pytest.approx(float(expected), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_the_trainer_computed_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Also where an upcast would be none, and so no copy."""
    monkeypatch.setattr(losses, "_HALF", (torch.float32, torch.float16, torch.bfloat16))
    pred, pred_old, z = (torch.randn(2, 4, 8, 8).to(dtype) for _ in range(3))
    pred.requires_grad_()
    kept = [x.detach().clone() for x in (pred, pred_old, z)]
    w = torch.ones(2)
    losses.kl_divergence(pred, pred_old, w)
    losses.match(pred, pred_old, z, w, w).credit.sum().backward()
    assert all(torch.equal(x, y) for x, y in zip((pred, pred_old, z), kept, strict=True))
