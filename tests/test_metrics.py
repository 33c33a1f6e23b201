"""Metrics on cases worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pcpo_overlay.objective import Trained
from pcpo_overlay.record.gradients import GradientMetrics, first_layer, readable
from pcpo_overlay.record.metrics import PADDING, Samples, StepMetrics


def trained(timestep, log_rho, advantage, loss, divisor=1, **more):
    more.setdefault("advantages", [advantage])
    return Trained(timestep, log_rho.detach(), loss=loss.detach(), clip_range=0.1, divisor=divisor, **more)


def reduced(log_rho, advantage, timestep, *, log_objective=True, loss=0.5):
    metrics = StepMetrics(log_objective=log_objective)
    for i in range(0, len(log_rho), 2):  # two samples a backward pass
        metrics.add(
            trained(
                torch.tensor(timestep[i : i + 2]),
                torch.tensor(log_rho[i : i + 2]),
                torch.tensor(advantage[i : i + 2], dtype=torch.float64),
                torch.tensor(loss),
            )
        )
    return metrics.reduce(lambda x: x)


def test_summary():
    samples = reduced([0.0, 0.2, -0.2, 0.05], [1.0, 1.0, 1.0, -1.0], [21, 1, 21, 1])
    summary = samples.summary()
    ratios = [1.0, math.exp(0.2), math.exp(-0.2), math.exp(0.05)]
    mean = sum(ratios) / 4
    assert summary["samples"] == 4
    assert summary["loss"] == 0.5
    assert summary["fraction_outside"] == 0.5
    assert (
        summary["fraction_masked"] == 0.25
    )  # 0.1 - 0.2 < 0; the one at -0.2 is outside, but still pulled back
    assert summary["ratio_mean"] == pytest.approx(mean, rel=1e-7)
    assert summary["ratio_std"] == pytest.approx((sum((r - mean) ** 2 for r in ratios) / 4) ** 0.5, rel=1e-6)
    assert summary["ratio_min"] == pytest.approx(ratios[2], rel=1e-7)
    assert summary["ratio_max"] == pytest.approx(ratios[1], rel=1e-7)
    errors = [abs(x - math.expm1(x)) / abs(math.expm1(x)) for x in (0.2, -0.2, 0.05)]
    assert summary["log_ratio_error_mean"] == pytest.approx(sum(errors) / 3, rel=1e-5)
    assert summary["log_ratio_error_max"] == pytest.approx(max(errors), rel=1e-5)
    assert summary["approx_kl"] == pytest.approx((0.04 + 0.04 + 0.0025) / 8, rel=1e-6)
    assert summary["credit_mean"] == pytest.approx(0.0125, rel=1e-6)
    assert summary["credit_min"] == pytest.approx(-0.2) and summary["credit_max"] == pytest.approx(0.2)
    assert summary["nonfinite"] == 0
    assert "kl" not in summary  # nothing was recorded to compute it from
    per_timestep = summary["per_timestep"]
    assert per_timestep["timestep"] == [21, 1]
    assert per_timestep["count"] == [2, 2]
    assert per_timestep["fraction_outside"] == [0.5, 0.5]
    assert per_timestep["fraction_masked"] == [0.0, 0.5]


def test_masking_follows_the_objective():
    """Between log rho and rho - 1 lies a sample that one hinge masks and the other does not."""
    log_rho = [0.0975]  # rho - 1 = 0.1024
    assert reduced(log_rho, [1.0], [1], log_objective=True).summary()["fraction_masked"] == 0
    assert reduced(log_rho, [1.0], [1], log_objective=False).summary()["fraction_masked"] == 1


def test_non_finite_values_are_counted_and_left_out():
    summary = reduced([0.0, math.nan, math.inf, 0.2], [1.0] * 4, [1, 1, 21, 21], loss=math.nan).summary()
    assert summary["nonfinite"] == 2 + 2  # two log ratios and both losses
    assert summary["samples"] == 4
    assert summary["fraction_outside"] == 0.5
    assert math.isnan(summary["loss"])


def test_all_non_finite():
    summary = reduced([math.nan] * 2, [1.0] * 2, [1, 1]).summary()
    assert summary["nonfinite"] == 2
    assert summary["ratio_min"] is None
    assert summary["per_timestep"]["timestep"] == []


def test_reduce_starts_anew_and_gathers():
    metrics = StepMetrics(log_objective=True)
    for _ in range(2):
        metrics.add(trained(torch.tensor([1]), torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor(0.0)))
        both = metrics.reduce(lambda x: torch.cat([x, x]))  # two ranks
        assert both.summary()["samples"] == 2


def test_ranks_with_fewer_samples_are_padded():
    metrics = StepMetrics(log_objective=True)
    metrics.add(trained(torch.tensor([1, 1]), torch.zeros(2), torch.ones(2), torch.tensor(0.0)))

    def gather(rows):  # the other rank had one sample fewer
        if rows.shape[1] < 3:
            return torch.cat([rows, rows])
        return torch.cat([rows, rows[:1], torch.full_like(rows[:1], PADDING)])

    summary = metrics.reduce(gather).summary()
    assert summary["samples"] == 3
    assert summary["per_timestep"]["timestep"] == [1]


def test_kl_is_averaged_over_the_backward_passes_of_all_ranks():
    metrics = StepMetrics(log_objective=True)
    for kl in (0.1, 0.3):
        metrics.add(trained(torch.tensor([1]), torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor(2.0)))
        metrics.add_kl(torch.tensor(kl))
    samples = metrics.reduce(lambda x: torch.cat([x, x + 0.1 * (x.shape[1] == 2)]))
    assert samples.kl_loss.numel() == 4
    assert samples.summary()["kl_loss"] == pytest.approx(0.25)
    assert Samples.concatenate([samples, samples]).kl_loss.numel() == 8


def noted(*, on_cpu):
    """Metrics of three backward passes of several sizes and dtypes."""
    metrics = StepMetrics(log_objective=True, on_cpu=on_cpu)
    generator = torch.Generator().manual_seed(0)
    for batch, dtype in ((3, torch.float32), (1, torch.float64), (2, torch.bfloat16)):
        log_rho, advantage = torch.randn(2, batch, generator=generator)
        metrics.add(
            trained(
                torch.arange(batch) * 20 + 1, log_rho.requires_grad_(), advantage.to(dtype), log_rho.mean()
            )
        )
        metrics.add_kl(log_rho.square().mean())
    return metrics


def test_numbers_and_tensors_reduce_to_the_same():
    numbers, tensors = (noted(on_cpu=on_cpu).reduce(lambda x: x) for on_cpu in (True, False))
    for column in ("timestep", "log_rho", "credit", "advantages", "loss", "kl_loss"):
        a, b = getattr(numbers, column), getattr(tensors, column)
        assert a.dtype == b.dtype == torch.float64
        assert torch.equal(a, b), column
    assert numbers.log_rho.numel() == 6
    assert numbers.loss.numel() == numbers.kl_loss.numel() == 3


@pytest.mark.parametrize("on_cpu", [True, False])
def test_the_loss_is_that_before_its_division(on_cpu):
    metrics = StepMetrics(log_objective=True, on_cpu=on_cpu)
    one = torch.ones(1)
    for divisor in (4, 1):
        metrics.add(trained(one, one, one, torch.tensor(0.25), divisor))
        metrics.add_kl(torch.tensor(0.5))
    samples = metrics.reduce(lambda x: x)
    assert samples.loss.tolist() == [1.0, 0.25]
    assert samples.kl_loss.tolist() == [0.5, 0.5]


def test_no_tensor_is_kept_on_a_cpu():
    """Between the large ones of a pass they cost page faults: measured by benchmarks/overhead.py."""
    metrics = noted(on_cpu=True)
    for column in (*metrics._columns.values(), metrics._loss, metrics._kl_loss):
        if isinstance(column, list):
            assert column
            assert not any(isinstance(kept, torch.Tensor) for kept in column)


def test_without_a_kl_term_there_is_no_field():
    assert "kl_loss" not in reduced([0.0], [1.0], [1]).summary()


def test_gradient_statistics():
    model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(1, 1))
    for parameter, gradient in zip(model.parameters(), ([[3.0, -1.0]], [2.0], [[6.0]], [0.0]), strict=True):
        parameter.grad = torch.tensor(gradient)
    stats = GradientMetrics.of(model, scale=2.0)
    assert stats is not None
    assert stats.grad_norm == pytest.approx(math.sqrt(9 + 1 + 4 + 36) / 2)
    assert stats.grad_layer == "0"
    assert stats.grad_abs_mean == pytest.approx(2.0 / 2)
    assert stats.grad_abs_var == pytest.approx((1 + 1 + 0) / 3 / 4)
    assert GradientMetrics.of(torch.nn.Linear(1, 1)) is None


def test_gradient_statistics_of_a_large_layer():
    """Summed up in float32, but not one after the other."""
    model = torch.nn.Linear(3000, 1000, bias=False)
    model.weight.grad = torch.rand(1000, 3000, generator=torch.Generator().manual_seed(0))
    values = model.weight.grad.double()
    stats = GradientMetrics.of(model)
    assert stats is not None
    assert stats.grad_abs_mean == pytest.approx(float(values.mean()), rel=1e-6)
    assert stats.grad_abs_var == pytest.approx(float(values.var(unbiased=False)), rel=1e-5)
    assert stats.grad_norm == pytest.approx(float(values.square().sum().sqrt()), rel=1e-3)


def test_gradients_in_half_precision_are_measured_in_single():
    model = torch.nn.Linear(300, 100, bias=False, dtype=torch.bfloat16)
    model.weight.grad = torch.rand(100, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    values = model.weight.grad.double()
    stats = GradientMetrics.of(model)
    assert stats is not None
    assert stats.grad_norm == pytest.approx(float(values.square().sum().sqrt()), rel=1e-5)
    assert stats.grad_abs_mean == pytest.approx(float(values.mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("conv_in.weight", "conv_in"),
        ("module.conv_in.bias", "module.conv_in"),
        ("layers.0.to_q_lora.down.weight", "layers.0"),
        ("blocks.3.attn.lora_A.default.weight", "blocks.3.attn"),
        ("weight", ""),
    ],
)
def test_first_layer(parameter, layer):
    assert first_layer(parameter) == layer


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("conv_in", "conv_in"),
        ("_fsdp_wrapped_module.x_embedder", "x_embedder"),
        ("_fsdp_wrapped_module.blocks.0._fsdp_wrapped_module", "blocks.0"),
        ("_fsdp_wrapped_module.blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.ff", "blocks.0.ff"),
        ("_fsdp_wrapped_module", "all that is in no FSDP unit of its own"),
    ],
)
def test_a_layer_is_named_without_its_wrappers(layer, name):
    assert readable(layer) == name


def test_the_policys_numbers_and_the_objectives():
    """Under other weights than the sampler's the credit is no log ratio: each has names of its own."""
    metrics = StepMetrics(log_objective=True)
    metrics.add(
        trained(
            torch.tensor([21, 1]),
            torch.tensor([0.2, -0.05]),
            torch.tensor([1.0, 1.0]),
            torch.tensor(0.0),
            credit=torch.tensor([0.05, -0.3]),
            kl=torch.tensor([0.02, 0.04]),
        )
    )
    summary = metrics.reduce(lambda x: x).summary()
    assert summary["fraction_outside"] == 0.5  # by the policy: exp(0.2)
    assert summary["fraction_masked"] == 0  # by the credit: 0.1 - 0.05 > 0
    assert summary["ratio_max"] == pytest.approx(math.exp(0.2))
    assert summary["credit_mean"] == pytest.approx(-0.125)
    assert summary["credit_std"] == pytest.approx(0.175)
    assert summary["approx_kl"] == pytest.approx((0.04 + 0.0025) / 4, rel=1e-5)
    assert summary["kl"] == pytest.approx(0.03)
    assert summary["per_timestep"]["kl"] == pytest.approx([0.02, 0.04])


def test_in_the_baseline_the_credit_is_the_ratio_less_one():
    summary = reduced([0.2], [1.0], [1], log_objective=False).summary()
    assert summary["credit_mean"] == pytest.approx(math.expm1(0.2))


def test_a_sample_is_masked_where_every_loss_masks_it():
    """HunyuanVideo has two losses on one ratio; a sample counts once."""
    metrics = StepMetrics(log_objective=True)
    advantages = [torch.tensor([1.0, 1.0]), torch.tensor([2.0, -1.0])]
    metrics.add(
        trained(
            torch.tensor([1, 1]), torch.tensor([0.2, 0.2]), None, torch.tensor(0.5), advantages=advantages
        )
    )
    summary = metrics.reduce(lambda x: x).summary()
    assert summary["samples"] == 2
    assert summary["fraction_masked"] == 0.5


def test_what_no_step_follows_on_is_forgotten():
    metrics = noted(on_cpu=True)
    metrics.clear()
    one = torch.ones(1)
    metrics.add(trained(one, one, one, torch.tensor(0.25)))
    assert metrics.reduce(lambda x: x).summary()["samples"] == 1


def test_a_ratio_or_a_credit_that_is_not_finite():
    metrics = StepMetrics(log_objective=True)
    log_rho, credit = torch.tensor([0.0, math.nan, 0.0]), torch.tensor([0.0, 0.0, math.inf])
    for loss in (0.5, math.nan):
        metrics.add(trained(torch.ones(3), log_rho, torch.ones(3), torch.tensor(loss), credit=credit))
    summary = metrics.reduce(lambda x: x).summary()
    assert summary["nonfinite"] == 4 + 1
    assert summary["loss"] == 0.5  # of those that are finite
    assert summary["ratio_mean"] == 1 and summary["credit_max"] == 0


def test_timesteps_of_unequal_numbers():
    per_timestep = reduced([0.0, 0.2, 0.2], [1.0] * 3, [21, 1, 1]).summary()["per_timestep"]
    assert per_timestep["timestep"] == [21, 1] and per_timestep["count"] == [1, 2]
    assert per_timestep["ratio_mean"] == pytest.approx([1, math.exp(0.2)])
