"""Flow-GRPO's schedule and the weights PCPO resolves on it; the numbers are the paper's formulas in float64."""

from __future__ import annotations

import pytest
import torch

from pcpo_overlay.config import PCPOError, parse
from pcpo_overlay.schedules import sd3_sigmas
from pcpo_overlay.steps import StepTable, dancegrpo_steps, flow_grpo_steps, read_scheduler

FULL = parse("full").on("flow_grpo")


def resolve(text="full", steps=10, noise_level=0.7, trained=9):
    sigmas = sd3_sigmas(steps)
    return flow_grpo_steps(sigmas, sigmas[:-1] * 1000, noise_level, parse(text).on("flow_grpo"), trained)


def scheduler(steps=10, **config):
    from diffusers import FlowMatchEulerDiscreteScheduler

    made = FlowMatchEulerDiscreteScheduler(shift=3.0, **config)
    made.set_timesteps(steps, **({"mu": 1.15} if config.get("use_dynamic_shifting") else {}))
    return made


def test_native_weights_of_ten_steps():
    schedule = resolve("match")
    assert float(schedule.weight.sum()) == pytest.approx(5.705396, abs=5e-7)
    assert float(schedule.weight[-1]) == pytest.approx(1.77, abs=5e-3)
    assert float(schedule.weight[:9].mean()) == pytest.approx(0.437, abs=5e-4)
    assert schedule.zeta is None


def test_proportional_weights_over_the_schedule():
    schedule = resolve()
    assert schedule.zeta == pytest.approx(5.705396, abs=5e-7)  # the intervals add up to 1
    torch.testing.assert_close(schedule.weight, schedule.zeta * schedule.dt)
    assert float(schedule.weight.mean()) == pytest.approx(schedule.mean_native)
    assert float(schedule.weight[:9].mean()) == pytest.approx(0.628, abs=5e-4)


def test_zeta_over_the_trained_steps():
    native, ours = resolve("match"), resolve("full,zeta=trained")
    assert float(ours.weight[:9].mean()) == pytest.approx(float(native.weight[:9].mean()))
    ratio = ours.weight / resolve().weight
    torch.testing.assert_close(ratio, ratio[:1].expand(10))  # still proportional to the interval
    assert ours.zeta < resolve().zeta


@pytest.mark.parametrize(("zeta", "steps"), [("schedule", 10), ("trained", 9)])
def test_uniform_weights(zeta, steps):
    schedule = resolve(f"full,weights=uniform,zeta={zeta}")
    mean = float(resolve("match").weight[:steps].mean())
    torch.testing.assert_close(schedule.weight, torch.full((10,), mean, dtype=torch.float64))
    assert schedule.zeta is None


def test_where_all_steps_are_trained_both_zetas_agree():
    assert resolve("full,zeta=trained", trained=10).zeta == resolve(trained=10).zeta


def test_the_first_step_takes_the_second_sigma_in_its_noise_scale():
    sigmas = sd3_sigmas(10)
    schedule = resolve("match")
    expected = 0.7 * (1 / (1 - float(sigmas[1]))) ** 0.5 * float(1 - sigmas[1]) ** 0.5
    assert float(schedule.std[0]) == pytest.approx(expected)


def test_tables_from_the_schedulers_own_sigmas():
    table = StepTable(read_scheduler(scheduler(), 0.7, FULL, 9), torch.device("cpu"))
    assert table.steps.zeta == pytest.approx(5.705396, abs=2e-6)
    t = table.steps.timestep
    torch.testing.assert_close(table.weight(t, 10), table.steps.weight.float(), rtol=0, atol=0)
    assert table.weight(t[3], 4).tolist() == [pytest.approx(float(table.steps.weight[3]))] * 4
    torch.testing.assert_close(table.policy_weight(t, 10), table.steps.weight_native.float())


def test_dynamic_shifting_has_its_own_weights():
    dynamic = read_scheduler(scheduler(use_dynamic_shifting=True), 0.7, FULL)
    static = read_scheduler(scheduler(), 0.7, FULL)
    assert dynamic.zeta != pytest.approx(static.zeta, rel=1e-3)
    assert dynamic.zeta is not None
    torch.testing.assert_close(dynamic.weight, dynamic.zeta * dynamic.dt)
    assert float(dynamic.weight.mean()) == pytest.approx(float(dynamic.weight_native.mean()))


def test_a_timestep_outside_the_schedule_is_not_a_value():
    table = StepTable(read_scheduler(scheduler(), 0.7, FULL), torch.device("cpu"))
    found = table.weight(torch.tensor([1000.0, 3.0]), 2)
    assert found.isnan().tolist() == [False, True]


@pytest.mark.parametrize("noise_level", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deterministic_sampler_is_refused(noise_level):
    with pytest.raises(PCPOError, match="set a positive sample"):
        resolve(noise_level=noise_level)


def test_a_schedule_that_does_not_fall_is_refused():
    with pytest.raises(PCPOError, match="do not fall"):
        flow_grpo_steps(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.5]), 0.7, FULL)


@pytest.mark.parametrize(
    ("text", "says"),
    [("full,w_star=5", "w_star changes nothing"), ("full,variance=paper", "variance=paper changes nothing")],
)
def test_options_of_ddim_are_refused(text, says):
    with pytest.raises(PCPOError, match=says):
        parse(text).on("flow_grpo")


@pytest.mark.parametrize("text", ["full", "full,variance=native"])
def test_the_sampler_is_never_changed(text):
    assert not parse(text).on("flow_grpo").reshapes_variance


@pytest.mark.parametrize("text", ["full,zeta=trained", "observe,unique_prompts=true"])
def test_options_of_flow_are_refused_on_ddim(text):
    with pytest.raises(PCPOError, match="changes nothing on ddpo"):
        parse(text).on("ddpo")


def test_as_many_steps_are_trained_as_there_are():
    assert resolve(trained=20).trained == 10
    assert resolve("full,zeta=trained", trained=0).mean_native == pytest.approx(
        float(resolve("match").weight[0])
    )


def test_the_mean_that_is_told_is_over_the_steps_that_zeta_is():
    native = resolve("match").weight
    assert resolve("full,zeta=trained").mean_native == pytest.approx(float(native[:9].mean()))
    assert resolve("full").mean_native == pytest.approx(float(native.mean()))


def test_dancegrpos_steps_are_filed_under_their_start():
    sigmas = torch.tensor([1.0, 0.6, 0.25, 0.0], dtype=torch.float64)
    assert dancegrpo_steps(sigmas, 0.3, parse("match")).timestep.tolist() == [1000, 600, 250]
