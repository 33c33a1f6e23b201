"""PCPO under the trainer's other settings: inner epochs, fewer timesteps, accumulation, resume, ranks, faults."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from bits import first_difference

pytestmark = pytest.mark.upstream

#: Several inner epochs, 60% of the timesteps, no guidance, two batches to an optimizer step.
BUSY = {
    "train__num_inner_epochs": 2,
    "train__timestep_fraction": 0.6,
    "train__gradient_accumulation_steps": 2,
    "train__cfg": False,
    "sample__guidance_scale": 1.0,
}


def test_inner_epochs_timestep_fraction_and_accumulation(ddpo_run: Any) -> None:
    base, run = ddpo_run(None, **BUSY), ddpo_run("full", **BUSY)
    assert first_difference(base.record, ddpo_run("observe", **BUSY).record) is None
    steps = run.metrics("step")
    assert [(s["epoch"], s["inner_epoch"]) for s in steps] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    # 8 samples at int(5*0.6) of their 5 steps each.
    assert all(s["samples"] == 24 for s in steps)
    assert steps[0]["ratio_min"] == steps[0]["ratio_max"] == 1
    # The second inner epoch trains on the same samples under another shuffle, off-policy by one optimizer step: were
    # its steps parted from their weights or noise, the ratios would be far from 1.
    assert 0 < abs(steps[1]["ratio_mean"] - 1) + steps[1]["ratio_std"] < 0.05


def test_two_ranks_report_all_samples_once(ddpo_run: Any) -> None:
    run = ddpo_run("full", 2)
    steps, epochs = run.metrics("step"), run.metrics("epoch")
    assert len(steps) == 4
    assert len(epochs) == 2
    assert all(s["samples"] == 2 * 4 * 5 for s in steps)
    assert all(e["reward_count"] == 16 for e in epochs)
    assert steps[0]["ratio_min"] == steps[0]["ratio_max"] == 1
    assert run.run_json["hardware"]["world_size"] == 2
    # DDP keeps the ranks' weights equal only if every rank took the same gradient.
    one, other = (list(r["weights"].values()) for r in run.ranks)
    assert first_difference(one, other) is None


@pytest.mark.parametrize("mode", ["observe", "log", "match", "full", "full,variance=paper"])
def test_metrics_agree_with_what_upstream_logs(ddpo_run: Any, mode: str) -> None:
    """In every mode upstream's names are of the policy: what it logs compares arms."""
    run = ddpo_run(mode)
    logged = [v for _, v in run.record["logs"] if "clipfrac" in v]
    steps = run.metrics("step")
    assert len(logged) == len(steps) == 4
    for ours, theirs in zip(steps, logged, strict=True):
        assert ours["fraction_outside"] == pytest.approx(float(theirs["clipfrac"]), abs=1e-6)
        assert ours["loss"] == pytest.approx(float(theirs["loss"]), abs=1e-6)
        assert ours["approx_kl"] == pytest.approx(float(theirs["approx_kl"]), rel=1e-4, abs=1e-12)
    rewards = [v for _, v in run.record["logs"] if "reward_mean" in v]
    for ours, theirs in zip(run.metrics("epoch"), rewards, strict=True):
        assert ours["reward_mean"] == pytest.approx(float(theirs["reward_mean"]))
        assert ours["reward_std"] == pytest.approx(float(theirs["reward_std"]))
        assert ours["seconds_sampling"] > 0
        assert ours["seconds_training"] > 0
        assert ours["peak_memory_bytes"] > 2**20


def test_gradient_metrics_agree_with_the_gradients(ddpo_run: Any) -> None:
    run = ddpo_run("full", use_lora=False)
    for step, gradients in zip(run.metrics("step"), run.record["gradients"], strict=True):
        norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients if g is not None))
        assert step["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert step["grad_layer"] == "conv_in"
        first = [g.double().abs().flatten() for g in gradients[:2]]  # conv_in: weight and bias
        flat = [x for g in first for x in g.tolist()]
        mean = sum(flat) / len(flat)
        assert step["grad_abs_mean"] == pytest.approx(mean, rel=1e-5)
        assert step["grad_abs_var"] == pytest.approx(sum((x - mean) ** 2 for x in flat) / len(flat), rel=1e-4)


@pytest.mark.parametrize("use_lora", [True, False], ids=["lora", "full-finetuning"])
def test_resume_appends_to_the_same_folder(ddpo_run: Any, tmp_path: Path, use_lora: bool) -> None:
    """Three epochs, a checkpoint after the second; then the third again from that checkpoint."""
    logs, folder = tmp_path / "logs", tmp_path / "run"
    settings = {
        "logdir": str(logs),
        "save_freq": 1,
        "num_epochs": 3,
        "use_lora": use_lora,
        "env": {"PCPO_RUN_DIR": str(folder)},
    }
    whole = ddpo_run("full", **settings)
    whole_weights = whole.record["weights"]
    (checkpoints,) = logs.glob("*/checkpoints")
    before = (folder / "metrics.jsonl").read_text().splitlines()
    resumed = ddpo_run("full", resume_from=str(checkpoints / "checkpoint_0"), **settings)
    # accelerate numbers its checkpoints from 0 and upstream resumes at that number plus one, so epoch 1 is repeated.
    after = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in after if r["kind"] == "epoch"] == [0, 1, 2]
    aside = (folder / "metrics.superseded.jsonl").read_text().splitlines()
    assert [line for line in before if json.loads(line)["epoch"] >= 1] == aside
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    # It went on from the trained weights, not from the start.
    assert len(resumed.record["gradients"]) == 4
    assert first_difference(whole_weights, resumed.record["weights"]) is not None


def test_a_folder_with_a_run_in_it_is_not_written_over(ddpo_run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"kind": "epoch", "epoch": 0}\n')
    with pytest.raises(pytest.fail.Exception, match="already holds the metrics of a run"):
        ddpo_run("observe", env={"PCPO_RUN_DIR": str(folder)})
    assert (folder / "metrics.jsonl").read_text() == '{"kind": "epoch", "epoch": 0}\n'


def test_non_finite_ratios_are_counted_and_warned_about_once(ddpo_run: Any) -> None:
    """A learning rate that blows the weights up: the run goes on, and says once where it went wrong."""
    run = ddpo_run("full", train__learning_rate=1e30, num_epochs=2)
    steps = run.metrics("step")
    assert steps[0]["nonfinite"] == 0
    assert steps[-1]["nonfinite"] > 0
    warnings = [line for line in run.stderr.splitlines() if "[pcpo] warning:" in line]
    (nonfinite,) = (line for line in warnings if "non-finite" in line)
    assert "epoch 0, optimizer step 1, first at timestep" in nonfinite
    # of pictures without a number every reward is the same, which has an alarm of its own
    assert all("rewards of every group are equal" in line for line in warnings if line != nonfinite)
    assert run.run_json["status"] == "finished"
