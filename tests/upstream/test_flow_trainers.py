"""Every trainer of flow_grpo that PCPO is patched into, beside ``train_sd3.py`` with its own tests, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bits import first_difference, relative_distance
from first_ratios import assert_exactly_one, first_step, show
from launch import FLOW_TRAINERS, ROOT

from pcpo_overlay.trainers import TRAINERS, of_script
from pcpo_overlay.vendoring import lockfile, patchfile

pytestmark = pytest.mark.upstream("flow_grpo")

STEP_FILE = "sd3_sde_with_logprob.py"
OTHERS = [name for name in FLOW_TRAINERS if name != "sd3"]
#: GRPO-Guard is a remedy of its own and runs under ``observe`` alone.
TRAINED = [name for name in OTHERS if name != "sd3_GRPO_Guard"]
#: Steps that are trained of the five.
STEPS = {
    **{"sd3_fast": 3, "flux": 4, "flux_fast": 3, "flux_kontext": 4},
    **{"qwenimage": 2, "qwenimage_edit": 2, "wan2_1": 4, "bagel": 2},
}
#: Rollouts before the first optimizer step, of trainers that do not evaluate there.
ROLLOUTS = {"qwenimage": 2, "wan2_1": 2, "bagel": 4}
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"num_epochs": 1, "mixed_precision": "bf16"},
    "float16": {"num_epochs": 1, "mixed_precision": "fp16", "env": {"RECORD_ALLOW_FP16": "1"}},
}


def test_every_patched_trainer_is_here() -> None:
    scripts = {trainer.script for trainer in TRAINERS.values() if trainer.upstream == "flow_grpo"}
    assert {trainer.script for trainer in FLOW_TRAINERS.values()} == scripts
    patched = {
        patchfile.parse((ROOT / entry.file).read_bytes(), entry.file).path
        for entry in lockfile.load(ROOT / "vendor.lock").get("flow_grpo").patches
    }
    assert {path for path in patched if path.startswith("scripts/")} == scripts


@pytest.mark.parametrize("procs", [1, 2])
@pytest.mark.parametrize("mode", ["off", "observe"])
@pytest.mark.parametrize("name", OTHERS)
def test_equals_unpatched_bit_for_bit(flow_runs: Any, name: str, mode: str, procs: int) -> None:
    unpatched, patched = flow_runs(name, None, procs), flow_runs(name, mode, procs)
    for base, ours in zip(unpatched.ranks, patched.ranks, strict=True):
        assert len(base["rollouts"]) >= 4
        assert len(base["gradients"]) == 4
        assert base["weights"]
        for part in ("logs", "rollouts", "gradients", "weights"):
            assert first_difference(base[part], ours[part], f"{name} {part}") is None
    once = flow_runs(name, None, num_epochs=1).record["weights"]
    assert first_difference(once, flow_runs(name, None).record["weights"]) is not None  # it trains something


@pytest.mark.parametrize("mode", ["match", "full"])
@pytest.mark.parametrize(
    ("name", "precision"),
    # BAGEL's code mixes what it computes in bfloat16 by name with the weights' own precision
    [(name, p) for name in TRAINED for p in PRECISIONS if (name, p) != ("bagel", "float16")],
)
def test_ratio_is_exactly_one_before_the_first_update(
    flow_runs: Any, name: str, mode: str, precision: str
) -> None:
    base, ours = (first_step(flow_runs(name, m, **PRECISIONS[precision])) for m in ("observe", mode))
    show(f"{name}, {precision}, {mode}", base, ours)
    assert len(ours["per_timestep"]["timestep"]) in range(STEPS[name], 5)  # windows may differ
    assert_exactly_one(ours, len(ours["per_timestep"]["timestep"]))
    if name.startswith("qwenimage"):  # whose sampler and training agree by themselves
        assert base["ratio_min"] == base["ratio_max"] == 1


@pytest.mark.parametrize("name", OTHERS)
def test_two_ranks_report_all_samples_once(flow_runs: Any, name: str) -> None:
    mode = "full" if name in TRAINED else "observe"
    run = flow_runs(name, mode, 2)
    assert len(run.metrics("step")) == 4
    batch = FLOW_TRAINERS[name].small["sample.train_batch_size"]
    assert all(epoch["reward_count"] == 2 * 2 * batch for epoch in run.metrics("epoch"))
    if mode == "full":
        step = run.metrics("step")[0]
        assert step["ratio_min"] == step["ratio_max"] == 1
    if name != "bagel" and not name.startswith("qwenimage"):  # whose ranks hold shards
        one, other = (list(r["weights"].values()) for r in run.ranks)
        assert first_difference(one, other) is None


@pytest.mark.parametrize("name", TRAINED)
def test_each_mode_changes_the_gradient(flow_runs: Any, name: str) -> None:
    runs = {mode: flow_runs(name, mode).record for mode in ("off", "log", "match", "full")}
    first = {mode: run["gradients"][0] for mode, run in runs.items()}
    for mode in (
        "log",
        "match",
    ):  # alike before the first update, up to rounding, and not bit for bit after it
        assert relative_distance(first[mode], first["off"]) < 1e-4
        assert first_difference(runs[mode]["gradients"][1], runs["off"]["gradients"][1]) is not None
    assert relative_distance(first["full"], first["match"]) > 0.02
    early = ROLLOUTS.get(name, 3)
    same = [first_difference(r["rollouts"][:early], runs["off"]["rollouts"][:early]) for r in runs.values()]
    assert same == [None] * 4  # the sampler is never changed


@pytest.mark.parametrize("name", TRAINED)
def test_the_kl_pass_is_never_taken_for_the_policys(flow_runs: Any, name: str) -> None:
    """From a trained adapter, so that there is a KL to the base model to begin with: it is the same in all modes."""
    if (
        name == "bagel"
    ):  # whose reference is what it starts from: after one step, which match takes as observe does
        observed, matched = (flow_runs(name, m).metrics("step")[1]["kl_loss"] for m in ("observe", "match"))
        assert observed > 0 and matched == pytest.approx(observed, rel=0.05)
        return
    if name.startswith("qwenimage"):  # whose checkpoints are whole networks; its reference is a second one
        trained = Path(flow_runs(name, "full").run_json["trainer"]["pretrained"]["model"]) / "adapter"
        assert trained.is_dir()
    else:
        (*_, trained) = sorted(
            (flow_runs(name, "off").folder.parent / "saved" / "checkpoints").glob("*/lora")
        )
    settings = {"num_epochs": 1, "train__lora_path": str(trained)}
    kl = [flow_runs(name, m, **settings).metrics("step")[0]["kl_loss"] for m in ("observe", "match", "full")]
    assert kl[0] > 0
    assert kl == [kl[0]] * 3


@pytest.mark.parametrize("name", TRAINED)
def test_the_weights_of_a_run(flow_runs: Any, name: str) -> None:
    run = flow_runs(name, "full").run_json
    assert run["upstream"] == of_script(FLOW_TRAINERS[name].script).name  # type: ignore[union-attr]
    assert run["clone"]["modified"] is False
    resolved = run["resolved"]
    end = resolved["trained"]
    first = resolved.get("trained_from", 0)
    windowed = TRAINERS[run["upstream"]].trains == "window"
    assert run["pcpo"]["zeta"] == ("trained" if windowed else "schedule")
    over = slice(first, end) if windowed else slice(None)
    native, dt = resolved["weight_native"][over], resolved["dt"][over]
    assert resolved["zeta"] == pytest.approx(sum(native) / sum(dt))
    assert resolved["weight"][over] == pytest.approx([resolved["zeta"] * x for x in dt])


def test_the_window_alone_is_recorded_and_trained(flow_runs: Any) -> None:
    run = flow_runs("sd3_fast", "full")
    resolved = run.run_json["resolved"]
    assert (resolved["trained"], run.run_json["pcpo"]["zeta"]) == (4, "trained")
    (bytes_,) = {epoch["tape_bytes"] for epoch in run.metrics("epoch")}
    steps, samples, latent = 3, 8, 16 * 8 * 8
    assert bytes_ == samples * steps * (2 * 4 * latent + 3 * 4)
    # Upstream draws a new window for every batch.
    seen = {t for step in run.metrics("step") for t in step["per_timestep"]["timestep"]}
    assert seen <= set(resolved["timestep"][:4])
    assert all(sum(step["per_timestep"]["count"]) == step["samples"] for step in run.metrics("step"))


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_a_window_of_no_size_is_all_steps_but_the_last(flow_runs: Any, kind: str) -> None:
    settings = {"sample__sde_window_size": 0, "sample__sde_type": kind, "num_epochs": 1}
    base, observed, full = (flow_runs("sd3_fast", mode, **settings) for mode in (None, "observe", "full"))
    assert first_difference(base.record["gradients"], observed.record["gradients"]) is None
    assert full.run_json["resolved"]["trained"] == 4
    assert_exactly_one(full.metrics("step")[0], 4)


def test_what_upstream_logs_by_coefficients_preserving_steps(flow_runs: Any) -> None:
    """Its clip counts are of its own scale in every mode; the ratio of the metrics is the policy's."""
    for mode in ("observe", "log", "match", "full"):
        run = flow_runs("sd3_fast", mode)
        logged = [v for _, v in run.record["logs"] if "clipfrac" in v]
        for ours, theirs in zip(run.metrics("step"), logged, strict=True):
            assert ours["fraction_outside"] == pytest.approx(float(theirs["clipfrac"]), abs=1e-6), mode
            assert ours["loss"] == pytest.approx(float(theirs["policy_loss"]), abs=1e-6), mode
    observed, matched = (flow_runs("sd3_fast", mode).metrics("step")[1] for mode in ("observe", "match"))
    assert matched["ratio_std"] == pytest.approx(observed["ratio_std"], rel=0.1) != 0
    assert matched["kl"] == pytest.approx(observed["kl"], rel=0.1) != 0


def test_the_guards_clip_is_its_own(flow_runs: Any) -> None:
    run = flow_runs("sd3_GRPO_Guard", "observe")
    logged = [v for _, v in run.record["logs"] if "clipfrac" in v]
    assert any(float(v["clipfrac"]) > 0 for v in logged)
    for ours, theirs in zip(run.metrics("step"), logged, strict=True):
        assert ours["fraction_outside"] == pytest.approx(float(theirs["clipfrac"]), abs=1e-6)
        assert ours["loss"] == pytest.approx(float(theirs["policy_loss"]), rel=1e-5, abs=1e-6)


def test_every_inserted_line_runs(flow_runs: Any) -> None:
    """In ``full``, or ``observe`` for GRPO-Guard, each line of the patches is executed at least once."""
    called: set[tuple[str, int]] = set()
    for name in FLOW_TRAINERS:
        run = flow_runs(name, "full" if name in ("sd3", *TRAINED) else "observe")
        called |= {tuple(c) for c in json.loads((run.folder.parent / "record.hooks.0.json").read_text())}
    checked = 0
    for entry in lockfile.load(ROOT / "vendor.lock").get("flow_grpo").patches:
        patch = patchfile.parse((ROOT / entry.file).read_bytes(), entry.file)
        file, inserted = Path(patch.path).name, 0
        for insertion in patch.insertions:
            for text in insertion.lines:
                inserted += 1
                if "pcpo." in text or "return" in text:
                    line = insertion.after + inserted
                    assert (file, line) in called, f"{file}:{line}: {text.strip()} never ran"
                    checked += 1
    assert checked >= 14 * len(FLOW_TRAINERS)


@pytest.mark.parametrize("mode", ["log", "match", "full"])
def test_two_remedies_at_once_are_refused(upstream_clone: Any, tmp_path: Path, mode: str) -> None:
    import subprocess
    import sys

    from launch import environment

    clone, trainer = upstream_clone("flow_grpo", True), FLOW_TRAINERS["sd3_GRPO_Guard"]
    command = [sys.executable, trainer.script, f"--config={trainer.config}"]
    done = subprocess.run(
        [*command, *trainer.arguments({"save_dir": tmp_path})], cwd=clone, capture_output=True, text=True,
        env=environment(clone, PCPO=mode, PCPO_RUN_DIR=str(tmp_path / "run")), check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if "[pcpo] error:" in line]
    assert "two remedies for unequal steps at once" in error and "train_sd3.py" in error
    assert not (tmp_path / "run").exists()


def test_samples_are_not_those_of_sd3(flow_runs: Any) -> None:
    """The fast trainer's steps outside the window draw no noise, so what it samples is another thing."""
    fast, plain = (flow_runs(name, None).record["rollouts"][1][0] for name in ("sd3_fast", "sd3"))
    assert fast.shape[0] == 4 and plain.shape[0] == 6
    assert torch.isfinite(fast).all()
