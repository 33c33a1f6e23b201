"""Every mode and option changes what it says it changes in a real run, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest
from bits import first_difference, relative_distance
from launch import CONFIG, arguments, environment

pytestmark = pytest.mark.upstream

#: Optimizer steps of an epoch in the small run; the first is on-policy.
STEPS = 2


def first_epoch_rollouts(run):
    return run.record["rollouts"][:STEPS]


def samples_alike(a, b) -> bool:
    return first_difference(first_epoch_rollouts(a), first_epoch_rollouts(b)) is None


def gradient_distance(a, b, step: int = 0) -> float:
    return relative_distance(a.record["gradients"][step], b.record["gradients"][step])


def test_log_samples_like_off_and_changes_the_off_policy_gradient(ddpo_run):
    off, log = ddpo_run("off"), ddpo_run("log")
    assert samples_alike(log, off)
    # On-policy both objectives have the gradient of -A*log_rho; off-policy the hinge is on log rho, not on rho - 1.
    assert gradient_distance(log, off, step=0) < 1e-5
    assert first_difference(log.record["gradients"][1], off.record["gradients"][1]) is not None


def test_match_equals_log_in_float32(ddpo_run):
    """Equation 4: the same log ratio, so the same gradient up to float32."""
    match, log = ddpo_run("match"), ddpo_run("log")
    assert samples_alike(match, log)
    for step in range(STEPS):
        assert 0 < gradient_distance(match, log, step) < 1e-3


def test_match_changes_the_gradient_in_half_precision(ddpo_run):
    bf16 = {"mixed_precision": "bf16", "use_lora": False}
    match, log = ddpo_run("match", **bf16), ddpo_run("log", **bf16)
    assert samples_alike(match, log)
    assert gradient_distance(match, log) > 0.05


def test_proportional_weights_alone_sample_like_off(ddpo_run):
    off, full = ddpo_run("off"), ddpo_run("full,variance=native")
    assert samples_alike(full, off)
    assert gradient_distance(full, ddpo_run("match")) > 0.05


def test_paper_variance_changes_the_samples(ddpo_run):
    assert not samples_alike(ddpo_run("full,variance=paper"), ddpo_run("off"))


def test_auto_leaves_a_sampler_of_few_steps_alone(ddpo_run):
    auto, native = ddpo_run("full"), ddpo_run("full,variance=native")
    assert first_difference(auto.record, native.record) is None
    assert auto.run_json["resolved"]["variance"] == "native"
    assert "auto: the paper's leaves" in auto.run_json["resolved"]["why"]
    assert auto.run_json["resolved"]["why"] in auto.stderr


def test_native_weights_under_the_paper_variance(ddpo_run):
    full, native = ddpo_run("full,variance=paper"), ddpo_run("full,weights=native,variance=paper")
    assert samples_alike(full, native)
    assert gradient_distance(full, native) > 0.05


def test_w_star_changes_the_variance(ddpo_run):
    full, other = ddpo_run("full,variance=paper"), ddpo_run("full,w_star=30")
    assert not samples_alike(full, other)
    assert other.run_json["resolved"]["w_star"] == 30


def test_uniform_weights_equal_proportional_ones_on_equal_intervals(ddpo_run):
    full, uniform = ddpo_run("full,variance=native"), ddpo_run("full,weights=uniform,variance=native")
    assert first_difference(full.record["gradients"], uniform.record["gradients"]) is None
    assert "weights=uniform equals the default on DDIM" in uniform.stderr


def test_precision_match_changes_sampling_with_lora_in_half_precision(ddpo_run):
    bf16 = {"mixed_precision": "bf16"}
    assert not samples_alike(ddpo_run("full,precision=match", **bf16), ddpo_run("full", **bf16))


def test_precision_match_says_where_it_has_nothing_to_do(ddpo_run):
    plain, matched = ddpo_run("full"), ddpo_run("full,precision=match")
    assert "precision=match changes nothing here" in matched.stderr
    assert first_difference(plain.record["gradients"], matched.record["gradients"]) is None


def test_flag_wins_over_the_variable(ddpo_run):
    flagged = ddpo_run("observe", args=["--pcpo=full"])
    assert flagged.run_json["mode"] == "full"
    assert samples_alike(flagged, ddpo_run("full"))


def test_run_json_says_what_ran(ddpo_run, ddpo_patched):
    run = ddpo_run("full").run_json
    assert run["status"] == "finished"
    assert run["clone"]["commit"] == "1958463f020112c9a7bc85768d296daacc2e1b4b"
    assert run["clone"]["modified"] is False
    assert run["trainer"]["sample"]["num_steps"] == 5
    assert run["seed"] == 7
    resolved = run["resolved"]
    assert resolved["timestep"] == [801, 601, 401, 201, 1]
    assert resolved["weight"] == pytest.approx([resolved["mean_native"]] * 5)
    assert sum(resolved["weight_native"]) / 5 == pytest.approx(resolved["mean_native"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("fast", "choose one of off, observe, log, match, full"),
        ("full,speed=9", "weights, power, variance, w_star, zeta, precision"),
        ("log,weights=uniform", "changes nothing in mode 'log'"),
        ("full,zeta=trained", "changes nothing on ddpo"),
    ],
)
def test_a_bad_setting_ends_the_run_at_once(ddpo_patched, tmp_path, setting, says):
    result = subprocess.run(
        [sys.executable, "scripts/train.py", f"--config={CONFIG}", *arguments({"logdir": tmp_path})],
        cwd=ddpo_patched,
        env=environment(ddpo_patched, PCPO=setting, PCPO_RUN_DIR=str(tmp_path / "run")),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("[pcpo] error:")]
    assert len(errors) == 1
    assert says in errors[0]
    assert "Traceback" not in result.stderr


def test_a_w_star_without_a_real_root_names_the_smallest(ddpo_patched, tmp_path):
    result = subprocess.run(
        [sys.executable, "scripts/train.py", f"--config={CONFIG}", *arguments({"logdir": tmp_path})],
        cwd=ddpo_patched,
        env=environment(ddpo_patched, PCPO="full,w_star=2", PCPO_RUN_DIR=str(tmp_path / "run")),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2
    # Sampling has begun, so a progress bar may stand before the message.
    (error,) = [line for line in result.stderr.splitlines() if "[pcpo] error:" in line]
    assert "has no real root on this schedule of 5 steps; the smallest that has is 13.8586" in error
    assert "Traceback" not in result.stderr
