"""The published numbers of every sampler, and the identities that tie weights, means and variances together."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from pcpo_overlay.config import PCPOError, parse
from pcpo_overlay.schedules import (
    dancegrpo_sigmas,
    ddim_previous,
    ddim_timesteps,
    sd3_sigmas,
    sd_alphas_cumprod,
)
from pcpo_overlay.steps import cps_steps
from pcpo_overlay.tools.weights.table import (
    WeightTable,
    dancegrpo_table,
    ddim_table,
    flow_grpo_table,
    wan_table,
)
from pcpo_overlay.variance import (
    PAPER_W_STAR,
    ddim_noise_coefficient,
    ddim_sigma,
    flow_grpo_scale,
    linear_scale,
    paper_sigma,
    resolve_w_star,
    smallest_w_star,
)
from pcpo_overlay.weights import (
    ddim_weight,
    flow_weight,
    power_weights,
    prediction_scale,
    proportional_weights,
)

# The numbers are printed to six decimals; half a unit of the last one.
SIX_DECIMALS = 5.1e-7


def alphas(steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Timesteps (steps,) of SD 1.x and the cumulative alphas of each and of the next-lower one."""
    t = ddim_timesteps(steps)
    alphas_cumprod = sd_alphas_cumprod()
    return t, alphas_cumprod[t], alphas_cumprod[ddim_previous(t, steps)]


def native_ddim(steps: int) -> tuple[list[int], torch.Tensor]:
    t, abar_t, abar_prev = alphas(steps)
    return t.tolist(), ddim_weight(abar_t, abar_prev, ddim_sigma(abar_t, abar_prev))


@pytest.mark.parametrize(
    ("timestep", "weight"),
    [(981, 0.512551), (481, 0.375685), (41, 1.017260), (21, 3.274788), (1, 1.003189)],
)
def test_ddim_native_weight_at_50_steps(timestep: int, weight: float) -> None:
    t, w = native_ddim(50)
    assert float(w[t.index(timestep)]) == pytest.approx(weight, abs=SIX_DECIMALS)


def test_ddim_native_weights_at_50_steps_as_a_whole() -> None:
    t, w = native_ddim(50)
    assert len(t) == w.numel() == 50
    assert w.dtype == torch.float64
    assert t[0] == 981 and t[-1] == 1
    assert float(w.mean()) == pytest.approx(0.516900, abs=SIX_DECIMALS)
    assert float(w.min()) == pytest.approx(0.374150, abs=SIX_DECIMALS)


def test_ddim_weight_at_eta_1_has_the_closed_form() -> None:
    _, abar_t, abar_prev = alphas(50)
    a = ddim_noise_coefficient(abar_t, abar_prev)
    closed = torch.sqrt(a**2 / (1 - abar_prev) - 1)
    assert torch.allclose(
        ddim_weight(abar_t, abar_prev, ddim_sigma(abar_t, abar_prev)), closed, rtol=1e-10, atol=0
    )


def dancegrpo_native(steps: int) -> torch.Tensor:
    sigmas = dancegrpo_sigmas(steps, shift=3.0)
    return flow_weight(sigmas[:-1], sigmas[:-1] - sigmas[1:], torch.full((steps,), 0.3, dtype=torch.float64))


def test_dancegrpo_native_weights_at_12_steps() -> None:
    w = dancegrpo_native(12)
    assert w[:4].tolist() == pytest.approx([0.571662, 0.607165, 0.647434, 0.693516], abs=1.1e-6)
    assert w[-2:].tolist() == pytest.approx([1.436529, 1.797634], abs=SIX_DECIMALS)
    assert float(w.sum()) == pytest.approx(11.484157, abs=SIX_DECIMALS)


def test_dancegrpo_native_weights_at_16_steps() -> None:
    assert float(dancegrpo_native(16).sum()) == pytest.approx(13.343191, abs=SIX_DECIMALS)


def test_flow_grpo_native_weights_at_10_steps() -> None:
    sigmas = sd3_sigmas(10, shift=3.0)
    dt = sigmas[:-1] - sigmas[1:]
    w = flow_weight(sigmas[:-1], dt, flow_grpo_scale(sigmas, 0.7))
    assert float(w.sum()) == pytest.approx(5.705396, abs=SIX_DECIMALS)
    assert float(w[-1]) == pytest.approx(1.77, abs=5e-3)
    # Over the nine steps a trainer trains, the schedule's zeta gives another mean than the native weights have.
    assert float(w[:-1].mean()) == pytest.approx(0.437, abs=5e-4)
    assert float(proportional_weights(w, dt)[0][:-1].mean()) == pytest.approx(0.628, abs=5e-4)


@pytest.mark.parametrize(("steps", "w_star"), [(50, 4.5), (20, 5.431), (10, 8.319)])
def test_w_star_by_step_count(steps: int, w_star: float) -> None:
    _, abar_t, abar_prev = alphas(steps)
    resolved = resolve_w_star(abar_t, abar_prev)
    assert resolved == pytest.approx(w_star, abs=5e-4)
    assert resolved == max(PAPER_W_STAR, smallest_w_star(abar_t, abar_prev))


def test_paper_sigma_against_the_native_one_at_50_steps() -> None:
    _, abar_t, abar_prev = alphas(50)
    ratio = paper_sigma(abar_t, abar_prev, 4.5) / ddim_sigma(abar_t, abar_prev)
    assert float(ratio.min()) == pytest.approx(0.713, abs=5e-4)
    assert float(ratio.max()) == pytest.approx(1.247, abs=5e-4)
    assert float(ratio.mean()) == pytest.approx(1.104, abs=5e-4)


def test_paper_sigma_divides_the_loss_by_the_published_factor() -> None:
    _, w = native_ddim(50)
    # The published figure divides by the mean rounded to 0.516900.
    assert 4.5 / round(float(w.mean()), 6) == pytest.approx(8.70575, abs=5.1e-6)
    assert 4.5 / float(w.mean()) == pytest.approx(8.705743, abs=SIX_DECIMALS)


@pytest.mark.parametrize(("timestep", "true_weight"), [(981, 0.513), (501, 0.388), (21, 3.37), (1, 1.09)])
def test_paper_sigma_does_not_make_the_true_weight_constant(timestep: int, true_weight: float) -> None:
    t, abar_t, abar_prev = alphas(50)
    w = ddim_weight(abar_t, abar_prev, paper_sigma(abar_t, abar_prev, 4.5))
    assert float(w[t.tolist().index(timestep)]) == pytest.approx(
        true_weight, abs=5e-3 if true_weight > 1 else 5e-4
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 20, 50, 100, 333, 999, 1000])
@pytest.mark.parametrize("above", [0.0, 0.5, 100.0])
def test_paper_sigma_solves_the_squared_equation_with_its_larger_root(steps: int, above: float) -> None:
    _, abar_t, abar_prev = alphas(steps)
    w_star = resolve_w_star(abar_t, abar_prev) + above
    sigma = paper_sigma(abar_t, abar_prev, w_star)
    a = ddim_noise_coefficient(abar_t, abar_prev)
    assert torch.allclose((a - w_star * sigma) ** 2, 1 - abar_prev - sigma**2, rtol=1e-10, atol=1e-13)
    # The sum of the roots is 2*a*w_star/(1 + w_star**2); half of it lies between them.
    middle = a * w_star / (1 + w_star**2)
    assert bool((sigma >= middle * (1 - 1e-12)).all())
    # Squaring brought in the other sign, except where w_star hardly exceeds the native weight of the step.
    native = ddim_weight(abar_t, abar_prev, ddim_sigma(abar_t, abar_prev))
    assert torch.equal(a - w_star * sigma > 0, w_star < torch.sqrt(1 + native**2))
    genuine = w_star < torch.sqrt(1 + native**2)
    true_weight = ddim_weight(abar_t, abar_prev, sigma)
    assert torch.equal((true_weight / w_star - 1).abs() < 1e-6, genuine)


@pytest.mark.parametrize("steps", range(1, 1001, 37))
def test_the_w_star_named_by_the_error_is_accepted_and_nothing_below_it(steps: int) -> None:
    _, abar_t, abar_prev = alphas(steps)
    smallest = smallest_w_star(abar_t, abar_prev)
    with pytest.raises(PCPOError, match="no real root") as error:
        resolve_w_star(abar_t, abar_prev, smallest * (1 - 1e-9))
    named = float(str(error.value).rsplit(" ", 1)[1])
    assert smallest <= named <= smallest + 1.1e-6
    assert resolve_w_star(abar_t, abar_prev, named) == named
    assert bool(torch.isfinite(paper_sigma(abar_t, abar_prev, named)).all())


def test_paper_sigma_of_a_huge_w_star_does_not_overflow() -> None:
    _, abar_t, abar_prev = alphas(50)
    sigma = paper_sigma(abar_t, abar_prev, 1e200)
    assert bool((sigma > 0).all()) and float(sigma.max()) < 1e-198


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 1000])
def test_ddim_weight_is_never_nan(steps: int) -> None:
    _, abar_t, abar_prev = alphas(steps)
    for eta in (1.0, 0.5, 1e-6):
        w = ddim_weight(abar_t, abar_prev, eta * ddim_sigma(abar_t, abar_prev))
        assert bool((w > 0).all()) and bool(w.isfinite().all())


def test_ddim_weight_between_equal_alphas_is_zero() -> None:
    abar = torch.tensor([0.5], dtype=torch.float64)
    assert ddim_weight(abar, abar, ddim_sigma(abar, abar)).tolist() == [0.0]


def test_prediction_type_names_its_choices() -> None:
    with pytest.raises(ValueError, match="epsilon, v_prediction, sample"):
        prediction_scale(torch.tensor([0.5]), "noise")


@pytest.mark.parametrize(
    "made", [dancegrpo_table(), flow_grpo_table(), dancegrpo_table(steps=1), ddim_table()]
)
def test_proportional_and_uniform_weights_keep_the_mean(made: WeightTable) -> None:
    table = made.steps
    proportional, zeta = proportional_weights(table.weight_native, table.dt)
    assert torch.allclose(proportional / table.dt, torch.full_like(table.dt, zeta), rtol=1e-12)
    assert float(proportional.mean()) == pytest.approx(float(table.weight_native.mean()), rel=1e-12)
    uniform = power_weights(table.weight_native, 0)
    assert uniform.unique().numel() == 1
    assert float(uniform[0]) == pytest.approx(float(table.weight_native.mean()), rel=1e-12)


@pytest.mark.parametrize("power", [2.0, 1.0, 0.5, 0.0, -0.5, -1.0])
def test_powers_of_the_native_weights_keep_the_mean(power: float) -> None:
    native = flow_grpo_table().steps.weight_native
    some = torch.arange(10) < 9
    for over in (slice(None), some):
        weight = power_weights(native, power, over)
        assert float(weight[over].mean()) == pytest.approx(float(native[over].mean()), rel=1e-12)
        # to the power and no other: the ratio of two steps' weights is that of their native ones to it
        torch.testing.assert_close(weight / weight[0], (native / native[0]) ** power, rtol=1e-12, atol=0)
    torch.testing.assert_close(power_weights(native, 1.0), native, rtol=1e-14, atol=0)


@pytest.mark.parametrize("table", [flow_grpo_table, dancegrpo_table, ddim_table])
def test_power_as_a_run_resolves_it(table: Callable[..., WeightTable]) -> None:
    variance = ",variance=native" if table is ddim_table else ""
    native = table(mode=f"full,weights=native{variance}").steps
    for power, like in ((1.0, native.weight), (0.0, table(mode="full,weights=uniform").steps.weight)):
        ours = table(mode=f"full,weights=power,power={power}").steps
        torch.testing.assert_close(ours.weight, like, rtol=1e-12, atol=0)
        assert ours.zeta is None
    half = table(mode="full,weights=power,power=-0.5").steps
    assert float(half.weight.mean()) == pytest.approx(float(native.weight_native.mean()))
    lightest = int(half.weight.argmin())
    assert lightest == int(native.weight_native.argmax())


def test_coefficients_preserving_steps() -> None:
    """SD3, 10 steps, noise level 0.8: the policy's weight and upstream's own, in float64."""
    steps = cps_steps(sd3_sigmas(10), torch.arange(10.0), 0.8, parse("match"), range(5))
    assert [round(float(w), 4) for w in steps.weight_policy[:5]] == [0.0437, 0.0828, 0.1312, 0.1930, 0.2758]
    assert [round(float(w), 4) for w in steps.weight[:5]] == [0.0728, 0.1250, 0.1746, 0.2181, 0.2496]
    assert float(steps.std[-1]) == float(steps.weight_policy[-1]) == float(steps.weight[-1]) == 0
    assert steps.clip_scale is not None
    torch.testing.assert_close(steps.weight, steps.weight_policy * steps.clip_scale)


@pytest.mark.parametrize(
    "mode", ["full", "full,weights=uniform", "full,weights=power,power=-1", "full,zeta=schedule"]
)
def test_the_last_step_has_no_weight_by_coefficients_preserving_ones(mode: str) -> None:
    config = parse(mode).on("flow_grpo_sd3_fast")
    steps = cps_steps(sd3_sigmas(10), torch.arange(10.0), 0.8, config, range(5))
    over = slice(5) if config.zeta == "trained" else slice(9)
    assert float(steps.weight[-1]) == 0
    assert float(steps.weight[over].mean()) == pytest.approx(float(steps.weight_native[over].mean()))
    if config.weights == "proportional":
        zeta = float(steps.weight_native[over].sum() / steps.dt[over].sum())
        assert steps.zeta == pytest.approx(zeta)
        torch.testing.assert_close(steps.weight[:9], zeta * steps.dt[:9])


@pytest.mark.parametrize("noise_level", [0.0, -0.1, 1.5, float("nan")])
def test_a_noise_level_that_coefficients_cannot_be_preserved_at(noise_level: float) -> None:
    with pytest.raises(PCPOError, match=r"sample\.noise_level is"):
        cps_steps(sd3_sigmas(10), torch.arange(10.0), noise_level, parse("match"))


def test_ddim_table_columns() -> None:
    table = ddim_table(50, eta=0.5, mode="full,w_star=5").steps
    t, abar_t, abar_prev = alphas(50)
    assert table.timestep.tolist() == t.tolist()
    assert table.dt.tolist() == [0.02] * 50
    sigma = ddim_sigma(abar_t, abar_prev)
    assert torch.equal(table.std_native, 0.5 * sigma)
    assert torch.equal(table.std, 0.5 * paper_sigma(abar_t, abar_prev, 5.0))
    assert torch.equal(table.weight_native, ddim_weight(abar_t, abar_prev, 0.5 * sigma))
    assert table.w_star == 5.0 and table.mean_native is not None
    assert torch.allclose(table.weight, torch.full((50,), table.mean_native, dtype=torch.float64))
    assert table.weight.unique().numel() == 1


def test_flow_table_columns() -> None:
    table = dancegrpo_table(12, shift=3.0, eta=0.3).steps
    assert float(table.dt.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.allclose(table.std, 0.3 * torch.sqrt(table.dt))
    assert table.zeta == pytest.approx(11.484157, abs=SIX_DECIMALS)
    assert torch.equal(table.std_native, table.std)

    table = flow_grpo_table(10, shift=3.0, noise_level=0.7).steps
    sigma = table.sigma
    assert sigma is not None
    expected = 0.7 * math.sqrt(1 / (1 - sigma[1])) * torch.sqrt(table.dt[0])
    assert float(table.std[0]) == pytest.approx(float(expected), rel=1e-12)
    assert torch.allclose(
        table.std[1:], 0.7 * torch.sqrt(sigma[1:] / (1 - sigma[1:])) * torch.sqrt(table.dt[1:])
    )
    assert table.zeta == pytest.approx(5.705396, abs=SIX_DECIMALS)


def test_wans_noise_scale_is_linear_in_the_schedule_value() -> None:
    table = wan_table(20, shift=3.0).steps
    sigma = table.sigma
    assert sigma is not None
    assert torch.allclose(table.std, sigma[1] * sigma * torch.sqrt(table.dt), rtol=1e-12)
    native = table.weight_native
    assert float(native.sum()) == pytest.approx(10.608, abs=5e-4)
    assert native[[0, -2, -1]].tolist() == pytest.approx([0.134, 1.497, 2.914], abs=5e-4)
    # a schedule that ends elsewhere than in 0
    scale = linear_scale(torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64), 0.5)
    assert scale.tolist() == pytest.approx([0.5, 0.375])
    with pytest.raises(PCPOError, match="one step of Wan's draws no noise"):
        wan_table(1)


@pytest.mark.parametrize("shift", [0.01, 0.1, 0.3, 1.0, 3.0, 6.93, 20.0])
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_flow_tables_exist_for_every_shift(steps: int, shift: float) -> None:
    for table in (dancegrpo_table(steps, shift), flow_grpo_table(steps, shift)):
        assert bool((table.steps.weight_native > 0).all()) and bool((table.steps.std > 0).all())


def test_roots_that_rounding_makes_negative_are_zero() -> None:
    """Equal alphas, all of the noise drawn anew, and the smallest target weight: each is the edge of a real root."""
    abar = torch.linspace(0.001, 0.999, 5000, dtype=torch.float64)
    silent = torch.zeros_like(abar)
    assert bool(ddim_weight(silent, abar, torch.sqrt(1 - abar), "v_prediction").isfinite().all())
    for value in abar[::50]:
        assert smallest_w_star(value, value) == pytest.approx(0, abs=1e-7)
    t, prev = abar[:-1], abar[1:]
    a = ddim_noise_coefficient(t, prev)
    for i, w_star in enumerate(torch.sqrt(a**2 / (1 - prev) - 1)[::50].tolist()):
        assert bool(paper_sigma(t[50 * i], prev[50 * i], w_star).isfinite())
