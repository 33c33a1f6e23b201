"""Every mode and option changes what it says it changes in a real run of the SD3 trainer, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bits import first_difference, relative_distance
from launch import FLOW_GRPO, environment

pytestmark = pytest.mark.upstream("flow_grpo")

#: Rollouts until the first optimizer step: the evaluation's, and the epoch's two batches.
FIRST = 3


def samples_alike(a, b) -> bool:
    return first_difference(a.record["rollouts"][:FIRST], b.record["rollouts"][:FIRST]) is None


def gradient_distance(a, b, step: int = 0) -> float:
    return relative_distance(a.record["gradients"][step], b.record["gradients"][step])


@pytest.mark.parametrize("mode", ["log", "match", "full"])
def test_no_mode_changes_the_sampler(flow_run, mode):
    assert samples_alike(flow_run(mode), flow_run("off"))


def test_log_changes_the_off_policy_gradient(flow_run):
    off, log = flow_run("off"), flow_run("log")
    # On-policy both objectives have the gradient of -A*log_rho; off-policy the hinge is on log rho, not on rho - 1.
    assert gradient_distance(log, off, step=0) < 1e-5
    assert first_difference(log.record["gradients"][1], off.record["gradients"][1]) is not None


def test_match_equals_log_in_float32(flow_run):
    """Equation 4: the same log ratio, so the same gradient up to float32."""
    match, log = flow_run("match"), flow_run("log")
    assert 0 < gradient_distance(match, log, step=0) < 1e-3
    assert 0 < gradient_distance(match, log, step=1) < 5e-2  # a mask or two may turn over


def test_match_equals_log_in_half_precision(flow_run):
    """This sampler rounds nothing, so what matching is exact about was exact before."""
    bf16 = {"mixed_precision": "bf16", "num_epochs": 1}
    match, log = flow_run("match", **bf16), flow_run("log", **bf16)
    assert samples_alike(match, log)
    assert gradient_distance(match, log) < 1e-2
    assert "precision=match" not in match.stderr  # the sampler runs under the training's autocast already


def test_proportional_weights_change_the_gradient(flow_run):
    assert gradient_distance(flow_run("full"), flow_run("match")) > 0.05


def test_uniform_weights_are_others(flow_run):
    """Unlike DDIM's, a flow sampler's intervals differ."""
    full, uniform = flow_run("full"), flow_run("full,weights=uniform", num_epochs=1)
    assert gradient_distance(full, uniform) > 0.05
    weight = uniform.run_json["resolved"]["weight"]
    assert weight == pytest.approx([uniform.run_json["resolved"]["mean_native"]] * 5)


def test_zeta_over_the_trained_steps_scales_the_gradient(flow_run):
    full, trained = flow_run("full"), flow_run("full,zeta=trained", num_epochs=1)
    ratio = trained.run_json["resolved"]["zeta"] / full.run_json["resolved"]["zeta"]
    assert ratio < 0.9
    # Before the first update the KL term has no gradient and every sample is inside, so the policy's is all there is.
    assert gradient_distance(trained, full) == pytest.approx(1 - ratio, rel=1e-3)


def test_unique_prompts_are_distinct_in_every_epoch(flow_run):
    def group_sizes(run):
        return [float(v["group_size"]) for _, v in run.record["logs"] if "group_size" in v]

    settings = {"num_epochs": 4, "sample__eval_num_steps": 1}
    ours, theirs = (flow_run(m, **settings) for m in ("observe,unique_prompts=true", "observe"))
    # 8 samples of 2 images a prompt; a prompt that comes again in the other batch makes a larger group.
    assert group_sizes(ours) == [2.0] * 4
    assert max(group_sizes(theirs)) > 2
    assert ours.run_json["pcpo"]["unique_prompts"] is True


def test_unique_prompts_on_two_ranks(flow_run):
    run = flow_run("full,unique_prompts=true", 2, num_epochs=1)
    assert [float(v["group_size"]) for _, v in run.record["logs"] if "group_size" in v] == [2.0]
    assert run.metrics("epoch")[0]["reward_count"] == 16


def test_precision_match_says_that_it_has_nothing_to_do(flow_run):
    matched = flow_run("full,precision=match", num_epochs=1)
    assert "precision=match changes nothing here" in matched.stderr
    assert gradient_distance(matched, flow_run("full")) == 0


def test_run_json_says_what_ran(flow_run):
    run = flow_run("full").run_json
    assert run["status"] == "finished"
    assert run["upstream"] == "flow_grpo"
    assert run["clone"]["commit"] == "879042cf5707f8b90daa98d147d7deac2317c5da"
    assert run["clone"]["modified"] is False
    assert run["pcpo"]["variance"] == "native"
    assert run["trainer"]["num_epochs"] == 2
    resolved = run["resolved"]
    assert resolved["trained"] == 4
    assert resolved["zeta"] == pytest.approx(sum(resolved["weight_native"]) / sum(resolved["dt"]))
    assert resolved["weight"] == pytest.approx([resolved["zeta"] * dt for dt in resolved["dt"]])


def test_flag_wins_over_the_variable(flow_run):
    flagged = flow_run("observe", args=["--pcpo=full"], num_epochs=1)
    assert flagged.run_json["mode"] == "full"
    assert gradient_distance(flagged, flow_run("full")) == 0


def train_once(
    clone: Path, tmp_path: Path, setting: str, **settings: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            FLOW_GRPO.script,
            f"--config={FLOW_GRPO.config}",
            *FLOW_GRPO.arguments({"save_dir": tmp_path, **settings}),
        ],
        cwd=clone,
        env=environment(clone, PCPO=setting, PCPO_RUN_DIR=str(tmp_path / "run")),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("full,w_star=5", "w_star changes nothing on flow_grpo"),
        ("full,unique_prompts=yes", "choose one of true, false"),
    ],
)
def test_a_bad_setting_ends_the_run_at_once(upstream_clone, tmp_path, setting, says):
    result = train_once(upstream_clone("flow_grpo", True), tmp_path, setting)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("[pcpo] error:")]
    assert len(errors) == 1
    assert says in errors[0]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_too_few_prompts_end_the_run_before_it_begins(upstream_clone, tmp_path):
    clone = upstream_clone("flow_grpo", True)
    more = {"sample.num_batches_per_epoch": 6}  # 12 prompts of the ten there are
    result = train_once(clone, tmp_path, "observe,unique_prompts=true", **more)
    assert result.returncode == 2
    (error,) = [line for line in result.stderr.splitlines() if "[pcpo] error:" in line]
    assert "needs 12 different prompts, the dataset has 10" in error


def test_the_kl_term_needs_no_wrapper_around_the_network(upstream_clone, tmp_path):
    """accelerate wraps the network of a single process, on a GPU too, in nothing; upstream reads its ``module``."""
    result = train_once(upstream_clone("flow_grpo", True), tmp_path, "full", num_epochs=1)
    assert result.returncode == 0, result.stderr
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    kl = [step["kl_loss"] for step in steps if step["kind"] == "step"]
    assert kl[0] == 0  # a fresh adapter is the reference
    assert kl[-1] > 0
