"""The hooks without a trainer: off is nothing at all, and hooks that are not called as patched fail loudly."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcpo_overlay import hooks
from pcpo_overlay.config import HookError, parse
from pcpo_overlay.rollout import Rollout
from pcpo_overlay.schedules import ddim_timesteps, sd_alphas_cumprod
from pcpo_overlay.session import Off, Session
from pcpo_overlay.steps import StepTable, ddim_steps, read_scheduler


@pytest.fixture
def session():
    with contextlib.ExitStack() as stack:

        def make(text):
            config = parse(text)
            made = Session(config) if config.recording else Off()
            stack.enter_context(hooks.using(made))
            return made

        yield make


def scheduler(steps=50, **config):
    return SimpleNamespace(
        config={"prediction_type": "epsilon", "clip_sample": False, **config},
        alphas_cumprod=sd_alphas_cumprod().float(),
        timesteps=ddim_timesteps(steps),
        num_inference_steps=steps,
    )


def test_off_returns_what_it_was_given(session):
    session("off")
    nothing: Any = None
    std, loss = torch.ones(2, 4), torch.tensor(1.0)
    sample = {"log_probs": torch.zeros(2, 3)}
    assert hooks.ddim_std(std, nothing, nothing, 1.0) is std
    assert hooks.match_step(std, std) is None
    assert hooks.loss(loss, nothing, nothing, nothing) is loss
    hooks.begin_rollout(nothing, nothing)
    hooks.record_step(nothing, nothing, nothing, nothing, 1.0)
    hooks.end_rollout(sample)
    hooks.permute(sample, nothing)
    hooks.begin_epoch(0)
    hooks.begin_step(sample, 0, nothing)
    hooks.gradients(nothing, nothing)
    hooks.log_rewards(nothing)
    hooks.log_kl(nothing)
    hooks.log_eval({}, 0)
    dataloader = object()
    assert hooks.prompts(dataloader, nothing) is dataloader
    hooks.log_step(0, 0, 0)
    hooks.end_epoch(0)
    hooks.finish()
    assert set(sample) == {"log_probs"}


def test_paper_std_by_timestep(session):
    session("full")
    schedule = ddim_steps(scheduler().alphas_cumprod, ddim_timesteps(50), 50, 0.5, parse("full"), "epsilon")
    like = torch.ones(2, 4, 8, 8)
    # The sampler gives one timestep for the batch, the trainer one per sample.
    one = hooks.ddim_std(like, scheduler(), torch.tensor(21), 0.5)
    each = hooks.ddim_std(like, scheduler(), torch.tensor([981, 21]), 0.5)
    assert one.shape == each.shape == like.shape
    assert one.dtype == torch.float32
    at = {int(t): float(s) for t, s in zip(schedule.timestep, schedule.std, strict=True)}
    assert float(one[0, 0, 0, 0]) == pytest.approx(at[21], rel=1e-6)
    assert each[:, 3, 7, 7].tolist() == pytest.approx([at[981], at[21]], rel=1e-6)


def test_another_schedule_gets_its_own_table(session):
    made = session("full")
    fifty, ten = scheduler(50), scheduler(10)
    table = made.rollout.table(fifty, 1.0, torch.device("cpu"))
    assert made.rollout.table(fifty, 1.0, torch.device("cpu")) is table
    assert made.rollout.table(fifty, 0.5, torch.device("cpu")) is not table
    assert len(made.rollout.table(ten, 1.0, torch.device("cpu")).steps.std) == 10


def test_a_timestep_outside_the_schedule_is_not_a_value():
    table = StepTable(read_scheduler(scheduler(50), 1.0, parse("full")), torch.device("cpu"))
    assert torch.isnan(table.weight(torch.tensor([22]), 1)).all()


@pytest.mark.parametrize(
    ("config", "eta", "says"),
    [
        ({"clip_sample": True}, 1.0, "clip_sample=true"),
        ({"thresholding": True}, 1.0, "thresholding=true"),
        ({}, 0.0, "eta is 0.0"),
        ({}, 1.5, "eta is 1.5"),
    ],
)
def test_samplers_that_cannot_be_matched_end_the_run(session, capsys, config, eta, says):
    session("full")
    with pytest.raises(SystemExit) as stop:
        hooks.ddim_std(torch.ones(1, 1), scheduler(**config), torch.tensor(21), eta)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_an_unpatched_sampler_is_found_out(session):
    session("full")
    hooks.begin_rollout(SimpleNamespace(mixed_precision="no"), None)
    with pytest.raises(HookError, match="recorded no step"):
        hooks.end_rollout({"log_probs": torch.zeros(2, 3)})


def test_an_unpatched_trainer_is_found_out(session):
    session("match")
    with pytest.raises(HookError, match="no begin_step hook named"):
        hooks.match_step(torch.ones(2, 4), torch.ones(2, 4))


def test_a_script_that_pcpo_is_not_patched_into_is_told_once(session, capsys, monkeypatch):
    """flow_grpo's DPO and SFT trainers sample with the patched step, and train without PCPO."""
    monkeypatch.setattr(sys, "argv", ["scripts/train_sd3_dpo.py"])
    for mode, lines in (("full", 1), ("observe", 1), ("off", 0)):
        session(mode)
        for _ in range(2):
            hooks.record_step(torch.ones(2, 4), torch.ones(2, 4), scheduler(), torch.tensor(21), 1.0)
        told = capsys.readouterr().err
        assert told.count("trains nothing in train_sd3_dpo.py") == told.count("\n") == lines


def test_sampling_outside_a_training_rollout_is_not_recorded(session):
    made = session("full")
    hooks.record_step(torch.ones(2, 4), torch.ones(2, 4), scheduler(), torch.tensor(21), 1.0)
    assert made.tape.nbytes == 0


def test_log_ratio_through_the_hooks(session):
    made = session("match")
    hooks.begin_rollout(SimpleNamespace(mixed_precision="no"), None)
    pred, z = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    hooks.record_step(pred, z, scheduler(), torch.tensor(21), 1.0)
    sample = {"log_probs": torch.full((2, 1), -1.5)}
    hooks.end_rollout(sample)
    assert not sample["log_probs"].any()
    hooks.begin_step(sample, 0, torch.tensor([21, 21]))
    new = pred.clone()
    new[1] += 1e-3
    prev = torch.zeros_like(pred)
    matched = hooks.match_step(new, prev)
    assert matched is not None
    returned, log_rho = matched
    assert returned is prev
    assert float(log_rho[0]) == 0
    w = float(made.rollout.table(scheduler(), 1.0, torch.device("cpu")).weight(torch.tensor([21]), 1))
    expected = -(w * 1e-3 * float(z[1].mean()) + 0.5 * (w * 1e-3) ** 2)
    assert float(log_rho[1]) == pytest.approx(expected, rel=1e-3)


def test_a_pass_without_gradient_is_not_the_policy(session):
    """Flow-GRPO's reference pass calls the step function between the policy's and the next begin_step."""
    session("match")
    pred = torch.ones(2, 4)
    with torch.no_grad():
        assert hooks.match_step(pred, pred, pred, pred) is None


def flow_scheduler(steps=10):
    from diffusers import FlowMatchEulerDiscreteScheduler

    made = FlowMatchEulerDiscreteScheduler(shift=3.0)
    made.set_timesteps(steps)
    made.num_inference_steps = steps
    return made


def test_log_ratio_of_a_flow_step_through_the_hooks(session):
    made = session("match")
    sched = flow_scheduler()
    hooks.begin_rollout(SimpleNamespace(mixed_precision="no"), None)
    pred, z = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    hooks.record_step(pred, z, sched, sched.timesteps[2:3], 0.7)
    sample = {"log_probs": torch.full((2, 1), -1.5)}
    hooks.end_rollout(sample)
    hooks.begin_step(sample, 0, sched.timesteps[2].repeat(2))
    rest = torch.zeros(1), torch.ones(1)
    matched = hooks.match_step(pred + 1e-3, pred, *rest)
    assert matched is not None
    returned, log_rho, *kept = matched
    assert returned is pred
    assert all(a is b for a, b in zip(kept, rest, strict=True))
    w = float(made.rollout.table(sched, 0.7, torch.device("cpu")).steps.weight[2])
    expected = [-(w * 1e-3 * float(row.mean()) + 0.5 * (w * 1e-3) ** 2) for row in z]
    assert log_rho.tolist() == pytest.approx(expected, rel=1e-3)


def test_a_flow_schedule_is_read_anew_for_every_rollout(session):
    """Two schedules of equal length may differ in their shift, which the scheduler keeps to itself."""
    made, sched = session("match"), flow_scheduler()
    table = made.rollout.table(sched, 0.7, torch.device("cpu"))
    assert made.rollout.table(sched, 0.7, torch.device("cpu")) is table
    sched.set_timesteps(10)
    assert made.rollout.table(sched, 0.7, torch.device("cpu")) is not table


def test_steps_that_are_never_trained_stay_off_the_tape(session):
    made, sched = session("match"), flow_scheduler(3)
    made.rollout = Rollout(made.config, made.tape, trained_steps=range(2))
    hooks.begin_rollout(SimpleNamespace(mixed_precision="no"), None)
    for t in sched.timesteps:
        hooks.record_step(torch.ones(2, 4), torch.ones(2, 4), sched, t.unsqueeze(0), 0.7)
    sample = {"log_probs": torch.zeros(2, 3)}
    hooks.end_rollout(sample)
    assert sample["pcpo_index"].shape == (2, 2)


def test_an_epoch_whose_loss_was_never_replaced_fails_loudly(session):
    made = session("full")
    with pytest.raises(HookError, match="this is a baseline run"):
        made.end_epoch(0)


def test_the_flag_is_an_absl_flag():
    code = (
        "from absl import app, flags\n"
        "from pcpo_overlay import hooks\n"
        "hooks.define_flag(flags)\n"
        "app.run(lambda _: print(flags.FLAGS.pcpo), argv=['x', '--pcpo=full,variance=native'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "full,variance=native", result.stderr
