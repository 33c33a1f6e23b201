"""PCPO under the SD3 trainer's other settings: KL, inner epochs, EMA, no guidance, dropped samples, ranks, launch."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bits import first_difference
from launch import FLOW_GRPO, HERE, MINIATURE, environment

pytestmark = pytest.mark.upstream("flow_grpo")

#: Two inner epochs, no guidance and no CFG pass in training, EMA, no KL term, two batches to an optimizer step.
BUSY = {
    "train__num_inner_epochs": 2,
    "train__cfg": False,
    "sample__guidance_scale": 1.0,
    "train__ema": True,
    "train__beta": 0.0,
    "train__gradient_accumulation_steps": 2,
    "sample__num_steps": 6,
    "train__timestep_fraction": 0.5,
}


def test_inner_epochs_ema_no_guidance_and_accumulation(flow_run: Any) -> None:
    base, run = flow_run(None, **BUSY), flow_run("full", **BUSY)
    assert first_difference(base.record, flow_run("observe", **BUSY).record) is None
    steps = run.metrics("step")
    assert [(s["epoch"], s["inner_epoch"]) for s in steps] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    # 8 samples at 3 of their 6 steps each, unless upstream dropped some.
    assert all(s["samples"] <= 24 and s["samples"] % 3 == 0 for s in steps)
    assert steps[0]["ratio_min"] == steps[0]["ratio_max"] == 1
    # The second inner epoch trains on the same samples under another shuffle, off-policy by one optimizer step: were
    # its steps parted from their weights or noise, the ratios would be far from 1.
    assert 0 < abs(steps[1]["ratio_mean"] - 1) + steps[1]["ratio_std"] < 0.05
    assert not any("kl_loss" in s for s in steps)


def test_full_fine_tuning(flow_run: Any) -> None:
    """Without LoRA the training runs under accelerate's autocast, and there is no reference, so no KL."""
    settings = {"use_lora": False, "train__beta": 0.0, "num_epochs": 1}
    base, observed, full = (flow_run(m, **settings) for m in (None, "observe", "full"))
    assert first_difference(base.record, observed.record) is None
    assert full.metrics("step")[0]["ratio_min"] == full.metrics("step")[0]["ratio_max"] == 1


def test_tape_keeps_the_trained_steps_alone(flow_run: Any) -> None:
    run = flow_run("full")
    (bytes_,) = {e["tape_bytes"] for e in run.metrics("epoch")}
    trained_steps, samples, latent = 4, 8, 16 * 8 * 8
    assert bytes_ == samples * trained_steps * (2 * 4 * latent + 2 * 4)


def test_kl_is_the_same_in_all_modes_before_the_first_update(flow_run: Any) -> None:
    """From a trained adapter, so that there is a KL to the base model to begin with."""
    trained = flow_run("off").folder.parent / "saved" / "checkpoints" / "checkpoint-4" / "lora"
    settings = {"num_epochs": 1, "train__lora_path": str(trained)}
    kl = [
        flow_run(mode, **settings).metrics("step")[0]["kl_loss"]
        for mode in ("observe", "log", "match", "full")
    ]
    assert kl[0] > 0
    assert kl == [kl[0]] * 4


@pytest.mark.parametrize("mode", ["observe", "log", "match", "full"])
def test_metrics_agree_with_what_upstream_logs(flow_run: Any, mode: str) -> None:
    """In every mode upstream's names are of the policy: what it logs compares arms."""
    run = flow_run(mode)
    logged = [v for _, v in run.record["logs"] if "clipfrac" in v]
    steps = run.metrics("step")
    assert len(logged) == len(steps) == 4
    for ours, theirs in zip(steps, logged, strict=True):
        assert ours["fraction_outside"] == pytest.approx(float(theirs["clipfrac"]), abs=1e-6)
        assert ours["loss"] == pytest.approx(float(theirs["policy_loss"]), abs=1e-6)
        assert ours["kl_loss"] == pytest.approx(float(theirs["kl_loss"]), rel=1e-5)
    rewards = [v for _, v in run.record["logs"] if "reward_avg" in v]
    epochs = run.metrics("epoch")
    for ours, theirs in zip(epochs, rewards, strict=True):
        assert ours["reward_mean"] == pytest.approx(float(theirs["reward_avg"]))
        assert ours["reward_count"] == 8
    all_kl = [s["kl_loss"] for s in steps]
    assert epochs[-1]["kl_running_mean"] == pytest.approx(sum(all_kl) / len(all_kl))
    evaluations = [(step, v) for step, v in run.record["logs"] if "eval_reward_avg" in v]
    for ours, (step, theirs) in zip(run.metrics("eval"), evaluations, strict=True):
        assert ours["step"] == step
        assert ours["reward_mean"] == pytest.approx(float(theirs["eval_reward_avg"]))
        assert ours["rewards"].keys() == {"avg", "jpeg_compressibility"}
        assert ours["reward_count"] == 10
    assert [e["epoch"] for e in run.metrics("eval")] == [0, 2]


def test_gradient_metrics_agree_with_the_gradients(flow_run: Any) -> None:
    run = flow_run("full")
    for step, gradients in zip(run.metrics("step"), run.record["gradients"], strict=True):
        norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients if g is not None))
        assert step["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert "lora" not in step["grad_layer"]


def test_two_ranks_report_all_samples_once(flow_run: Any) -> None:
    run = flow_run("full", 2)
    steps, epochs = run.metrics("step"), run.metrics("epoch")
    assert len(steps) == 4
    assert all(e["reward_count"] == 16 for e in epochs)
    kept = [v["actual_batch_size"] for _, v in run.record["logs"] if "actual_batch_size" in v]
    assert len(kept) == 2
    assert all(s["samples"] <= 2 * 4 * 4 and s["samples"] % 4 == 0 for s in steps)
    assert steps[0]["ratio_min"] == steps[0]["ratio_max"] == 1
    assert run.run_json["hardware"]["world_size"] == 2
    # DDP keeps the ranks' weights equal only if every rank took the same gradient.
    one, other = (list(r["weights"].values()) for r in run.ranks)
    assert first_difference(one, other) is None


def test_samples_that_upstream_drops(flow_run: Any) -> None:
    """Prompts whose images are all worth the same have no advantage, and upstream drops them before training: other
    numbers of samples on the two ranks."""
    settings = {"config": HERE / "dropping_config.py", "num_epochs": 1, "sample__num_batches_per_epoch": 4}
    base, observed, full = (flow_run(m, 2, **settings) for m in (None, "observe", "full"))
    for a, b in zip(base.ranks, observed.ranks, strict=True):
        assert first_difference(a, b) is None
    steps = full.metrics("step")
    assert 0 < sum(s["samples"] for s in steps) < 32 * 4
    # The batches are smaller than those that were sampled, so the network's own output is the same up to rounding only.
    assert max(abs(steps[0]["ratio_min"] - 1), abs(steps[0]["ratio_max"] - 1)) < 1e-5
    assert steps[0]["fraction_outside"] == steps[0]["fraction_masked"] == 0


def test_what_an_accumulation_leaves_over(flow_run: Any) -> None:
    """The samples of the first epoch are too few for an optimizer step, and are part of the second's."""
    run = flow_run("full", train__gradient_accumulation_steps=3)
    assert run.record["passes"] == [3 * 4]  # what upstream took: 3 batches, 4 timesteps of each
    (step,) = run.metrics("step")
    assert (step["epoch"], step["samples"]) == (1, 3 * 4 * 4)
    assert step["ratio_min"] == step["ratio_max"] == 1
    assert [epoch.get("samples") for epoch in run.metrics("epoch")] == [None, 3 * 4 * 4]


def launch_environment(clone: Path, tmp_path: Path, body: str) -> dict[str, str]:
    """An environment whose ``accelerate`` and ``torchrun`` are a script of ours."""
    shims = tmp_path / "bin"
    shims.mkdir()
    for name in ("accelerate", "torchrun"):
        (shims / name).write_text(f"#!{sys.executable}\nimport json, os, sys\n{body}\n")
        (shims / name).chmod(0o755)
    env = environment(clone, PCPO="full", PCPO_RUN_DIR=str(tmp_path / "run"))
    return {**env, "PATH": os.pathsep.join([str(shims), env["PATH"]])}


def test_the_original_launch_script_trains_with_the_variable(upstream_clone: Any, tmp_path: Path) -> None:
    """``PCPO=full bash scripts/single_node/grpo.sh``; only the configuration is the miniature's."""
    clone = upstream_clone("flow_grpo", True)
    arguments = [
        f"--config={FLOW_GRPO.config}",
        *FLOW_GRPO.arguments({"num_epochs": 1, "save_dir": tmp_path}),
    ]
    body = (
        f"at = sys.argv.index('--config'); argv = sys.argv[1:at] + {arguments!r}\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'accelerate.commands.accelerate_cli', *argv])"
    )
    result = subprocess.run(
        ["bash", "scripts/single_node/grpo.sh"],
        cwd=clone,
        env=launch_environment(clone, tmp_path, body),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "mode full" in result.stderr
    assert '"kind": "epoch"' in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("script", "trainer"),
    [
        ("single_node/grpo.sh", "sd3"),
        ("single_node/grpo_flux.sh", "flux"),
        ("multi_node/sd3.sh", "sd3"),
        ("multi_node/sd3_fast.sh", "sd3_fast"),
        ("multi_node/sd3_grpo_guard.sh", "sd3_GRPO_Guard"),
        ("multi_node/flux.sh", "flux"),
        ("multi_node/flux_fast.sh", "flux_fast"),
        ("multi_node/flux_kontext.sh", "flux_kontext"),
        ("multi_node/bagel/main.sh", "bagel"),
        ("single_node/grpo_qwenimage.sh", "qwenimage"),
        ("single_node/grpo_qwenimage_edit.sh", "qwenimage_edit"),
        ("multi_node/qwenimage.sh", "qwenimage"),
        ("multi_node/qwenimage_edit.sh", "qwenimage_edit"),
    ],
)
def test_every_launch_script_hands_the_variable_on(
    upstream_clone: Any, tmp_path: Path, script: str, trainer: str
) -> None:
    clone = upstream_clone("flow_grpo", True)
    body = f"json.dump([sys.argv, os.environ['PCPO']], open({str(tmp_path / 'called')!r}, 'w'))"
    subprocess.run(
        ["bash", f"scripts/{script}", "0"],
        cwd=clone,
        env=launch_environment(clone, tmp_path, body),
        capture_output=True,
        timeout=60,
        check=False,
    )
    called = (tmp_path / "called").read_text()
    assert f"scripts/train_{trainer}.py" in called
    assert called.endswith('"full"]')


@pytest.mark.parametrize("mode", [None, "full"])
def test_the_digit_reward_in_a_real_run(flow_run: Any, mode: str) -> None:
    """Named in the config's reward_fn, it is what upstream logs, trains on and evaluates; on an unpatched clone too."""
    run = flow_run(
        mode, config=f"{MINIATURE / 'flow_grpo_config.py'}:digit_probability", num_epochs=1, train__beta=0.0
    )
    logged = [v for _, v in run.record["logs"] if "reward_digit_probability" in v]
    assert len(logged) == 1
    assert 0.5 < float(logged[0]["reward_digit_probability"]) <= 1
    assert logged[0]["reward_avg"] == logged[0]["reward_digit_probability"]
    evaluated = [v["eval_reward_digit_probability"] for _, v in run.record["logs"] if "eval_reward_avg" in v]
    assert len(evaluated) == 2
