"""``pcpo weights --json`` and ``run.json`` say the same of a schedule, for every mode and option, on every sampler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from pcpo_overlay import hooks
from pcpo_overlay.__main__ import main
from pcpo_overlay.config import parse
from pcpo_overlay.ranks import TorchRanks
from pcpo_overlay.schedules import dancegrpo_sigmas
from pcpo_overlay.session import Session
from pcpo_overlay.steps import ShiftedSchedule

ANY = ["observe", "log", "match", "full", "full,weights=uniform", "full,weights=native", "match,tape=cpu"]
DDIM = [
    *ANY,
    "full,variance=paper",
    "full,variance=native",
    "full,w_star=30",
    "full,variance=paper,weights=native",
]
FLOW = [*ANY, "full,zeta=trained", "full,weights=uniform,zeta=trained", "full,zeta=schedule"]
STEPS = 10


def settings(steps: int) -> dict[str, Any]:
    return {
        "seed": 0,
        "clip_range": 1e-4,
        "sampling_steps": steps,
        "sample": {
            "num_steps": steps,
            "guidance_scale": 1.0,
            "sde_window_size": 4,
            "sde_window_range": (0, 4),
        },
        "train": {
            "clip_range": 1e-4,
            "clip_range_lt": 1e-4,
            "clip_range_gt": 1e-4,
            "timestep_shift": 3.0,
            "cfg": False,
            "timestep_fraction": 0.99,
        },
    }


def resolved_by_a_run(
    trainer: str, mode: str, folder: Path, monkeypatch: pytest.MonkeyPatch, draw: Any, steps: int = STEPS
) -> dict[str, Any]:
    """``resolved`` of ``run.json`` after one rollout through the hooks; ``draw`` records its steps."""
    monkeypatch.setenv("PCPO_RUN_DIR", str(folder / "run"))
    monkeypatch.setattr("pcpo_overlay.record.run_folder.RunFolder.end_with_process", lambda self: None)
    session = Session(parse(mode))
    session.start(trainer, TorchRanks("cpu"), settings(steps))
    with hooks.using(session):
        hooks.begin_epoch(0)
        hooks.begin_rollout()
        draw()
        hooks.end_rollout({"log_probs": torch.zeros(2, steps)})
    resolved: dict[str, Any] = json.loads((folder / "run" / "run.json").read_text())["resolved"]
    return resolved


def resolved_by_the_command(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["weights", *argv, "--json"]) == 0
    resolved: dict[str, Any] = json.loads(capsys.readouterr().out)["resolved"]
    return resolved


def ddim(**changed: Any) -> DDIMScheduler:
    made = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        **changed,
    )
    made.set_timesteps(STEPS)
    return made


def draw_ddim(scheduler: DDIMScheduler, eta: float) -> None:
    x = torch.zeros(2, 1, 2, 2)
    for timestep in scheduler.timesteps:
        hooks.ddim_std(torch.ones_like(x), scheduler, timestep, eta)
        hooks.record_step(x, x, scheduler, timestep, eta)


@pytest.mark.parametrize("mode", DDIM)
@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_ddim(
    mode: str, eta: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler = ddim()
    run = resolved_by_a_run("ddpo", mode, tmp_path, monkeypatch, lambda: draw_ddim(scheduler, eta))
    scheduler.save_pretrained(tmp_path)
    file = str(tmp_path / "scheduler_config.json")
    argv = ["ddim", "--steps", str(STEPS), "--eta", str(eta), "--mode", mode]
    assert resolved_by_the_command(capsys, *argv, "--scheduler", file) == run
    # Stable Diffusion's own schedule in float64, where the scheduler's is of float32.
    ours = resolved_by_the_command(capsys, *argv)
    assert ours.keys() == run.keys() and ours["timestep"] == run["timestep"]
    for name in ("std", "std_native", "weight", "weight_native", "weight_policy", "w_star", "mean_native"):
        assert ours[name] == (None if run[name] is None else pytest.approx(run[name], rel=1e-4))
    assert (ours["variance"], ours["why"]) == (run["variance"], run["why"])


@pytest.mark.parametrize("mode", ["full,zeta=trained", "full,zeta=trained,variance=native", "match"])
def test_ddim_whose_last_step_is_not_trained(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler = ddim()
    run = resolved_by_a_run("dancegrpo_sd", mode, tmp_path, monkeypatch, lambda: draw_ddim(scheduler, 1.0))
    scheduler.save_pretrained(tmp_path)
    argv = ["ddim", "--steps", str(STEPS), "--mode", mode, "--trained", str(STEPS - 1)]
    assert (
        resolved_by_the_command(capsys, *argv, "--scheduler", str(tmp_path / "scheduler_config.json")) == run
    )
    assert run["trained"] == STEPS - 1


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_a_models_own_scheduler(
    prediction: str,
    spacing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    zero = spacing == "trailing"
    scheduler = ddim(prediction_type=prediction, timestep_spacing=spacing, rescale_betas_zero_snr=zero)
    run = resolved_by_a_run("ddpo", "match", tmp_path, monkeypatch, lambda: draw_ddim(scheduler, 1.0))
    scheduler.save_pretrained(tmp_path)
    file = str(tmp_path / "scheduler_config.json")
    shown = resolved_by_the_command(
        capsys, "ddim", "--steps", str(STEPS), "--mode", "match", "--scheduler", file
    )
    assert shown == run
    assert (run["mean_native"] is None) == zero
    assert any(weight < 0 for weight in run["weight"]) == (prediction == "sample")


@pytest.mark.parametrize("mode", FLOW)
@pytest.mark.parametrize("mu", [None, 1.15], ids=["static", "dynamic"])
def test_flow_grpo(
    mode: str,
    mu: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=mu is not None)
    scheduler.set_timesteps(STEPS, **({} if mu is None else {"mu": mu}))
    scheduler.num_inference_steps = STEPS
    x = torch.zeros(2, 1, 2, 2)

    def draw() -> None:
        for timestep in scheduler.timesteps:
            hooks.record_step(x, x, scheduler, timestep.unsqueeze(0), 0.7)

    run = resolved_by_a_run("flow_grpo", mode, tmp_path, monkeypatch, draw)
    scheduler.save_pretrained(tmp_path)
    file = str(tmp_path / "scheduler_config.json")
    argv = ["flow-grpo", "--steps", str(STEPS), "--mode", mode]
    more = [] if mu is None else ["--mu", str(mu)]
    assert resolved_by_the_command(capsys, *argv, "--scheduler", file, *more) == run
    if mu is None:
        ours = resolved_by_the_command(capsys, *argv)
        assert ours.keys() == run.keys()
        assert ours["weight"] == pytest.approx(run["weight"], rel=1e-4)


@pytest.mark.parametrize("mode", FLOW)
def test_flow_grpos_wan(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    scheduler.set_timesteps(STEPS)
    x = torch.zeros(2, 1, 1, 2, 2)

    def draw() -> None:
        for timestep in scheduler.timesteps:
            hooks.record_step(x, x, scheduler, timestep[None], float(scheduler.sigmas[1]), "linear")

    run = resolved_by_a_run("flow_grpo_wan2_1", mode, tmp_path, monkeypatch, draw)
    scheduler.save_pretrained(tmp_path)
    argv = ["flow-grpo-wan", "--steps", str(STEPS), "--mode", mode]
    file = str(tmp_path / "scheduler_config.json")
    assert resolved_by_the_command(capsys, *argv, "--scheduler", file) == run
    ours = resolved_by_the_command(capsys, *argv)
    assert ours.keys() == run.keys()
    assert ours["weight"] == pytest.approx(run["weight"], rel=1e-4)


@pytest.mark.parametrize("mode", FLOW)
def test_flow_grpos_bagel(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose schedule follows from the settings; a window as wide as its range is everywhere the same."""
    t = ShiftedSchedule.of(STEPS + 1, 3.0, torch.device("cpu")).timesteps
    x = torch.zeros(1, 2, 2)

    def draw() -> None:
        for timestep in t[:4]:
            hooks.record_step(x, x, None, timestep, 1.3)

    run = resolved_by_a_run("flow_grpo_bagel", mode, tmp_path, monkeypatch, draw, STEPS + 1)
    ours = resolved_by_the_command(
        capsys, "flow-grpo-bagel", "--steps", str(STEPS), "--trained", "4", "--mode", mode
    )
    assert ours.keys() == run.keys()
    for name, values in run.items():
        assert ours[name] == (None if values is None else pytest.approx(values, rel=1e-4, abs=1e-6)), name


@pytest.mark.parametrize("mode", FLOW)
def test_dancegrpo(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sigmas = dancegrpo_sigmas(12, 3.0)  # float64, as the command has it
    x = torch.zeros(2, 1, 2, 2)

    def draw() -> None:
        for index in range(12):
            hooks.record_drawn_step(x, x, x, 0.1, sigmas, index, 0.3)

    run = resolved_by_a_run("dancegrpo_flux", mode, tmp_path, monkeypatch, draw, 12)
    assert resolved_by_the_command(capsys, "dancegrpo", "--mode", mode) == run


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read as a scheduler's JSON"),
        ("[1]", "is of no scheduler"),
        ("[" * 100000, "cannot be read"),
        ('{"_class_name": "FlowMatchEulerDiscreteScheduler"}', "needs DDIMScheduler"),
        ('{"_class_name": "DDIMScheduler", "beta_schedule": "none"}', "cannot make a DDIMScheduler"),
        ('{"_class_name": "DDIMScheduler", "num_train_timesteps": "x"}', "cannot make a DDIMScheduler"),
    ],
)
def test_a_file_that_is_no_scheduler_is_one_line(
    content: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scheduler_config.json"
    file.write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["weights", "ddim", "--scheduler", str(file)])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in error and error.count("\n") == 1


def test_dynamic_shifting_needs_its_mu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for dynamic, more in ((True, []), (False, ["--mu", "1.15"])):
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dynamic).save_pretrained(tmp_path)
        file = str(tmp_path / "scheduler_config.json")
        with pytest.raises(SystemExit):
            main(["weights", "flow-grpo", "--scheduler", file, *more])
        assert ("needs --mu" if dynamic else "takes no --mu") in capsys.readouterr().err
