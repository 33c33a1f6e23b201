"""DanceGRPO's eight trainers, patched, against themselves unpatched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bits import first_difference
from dance.launch import TRAINERS

from pcpo_overlay.vendoring import lockfile, patchfile

pytestmark = pytest.mark.upstream("DanceGRPO")

ROOT = Path(__file__).resolve().parents[2]
#: One iteration on two ranks: two processes of each of eight trainers take their time. The editing trainer makes three.
ONE_ITERATION = {
    name: {"num_epochs": 0}
    if name == "sd"
    else {"max_train_steps": trainer.small["max_train_steps"] - (name != "qwenimage_edit")}
    for name, trainer in TRAINERS.items()
}


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("mode", ["off", "observe"])
def test_equals_unpatched_bit_for_bit(dance_run: Any, name: str, mode: str) -> None:
    unpatched, patched = dance_run(name), dance_run(name, mode)
    assert unpatched.record["rollouts"] and unpatched.record["gradients"] and unpatched.record["logs"]
    assert first_difference(unpatched.ranks, patched.ranks) is None
    assert patched.pcpo.exists() == (mode == "observe")


def on_two_ranks(dance_run: Any, name: str, mode: str | None) -> Any:
    return dance_run(name, mode, 2, **ONE_ITERATION[name])


@pytest.mark.parametrize("name", TRAINERS)
def test_observe_on_two_ranks_equals_unpatched(dance_run: Any, name: str) -> None:
    unpatched, patched = (on_two_ranks(dance_run, name, mode) for mode in (None, "observe"))
    assert len(unpatched.ranks) == 2 and all(rank["gradients"] for rank in unpatched.ranks)
    assert first_difference(unpatched.ranks, patched.ranks) is None


@pytest.mark.parametrize(("name", "alike"), [("sd", True), ("wan_2_1", False)])
def test_only_wan_averages_no_gradients(dance_run: Any, name: str, alike: bool) -> None:
    """Upstream's Wan trainer wraps its network in nothing: every process trains one of its own."""
    one, other = (rank["gradients"][0] for rank in on_two_ranks(dance_run, name, None).ranks)
    assert (first_difference(one, other) is None) == alike


def assert_on_policy(step: dict[str, Any]) -> None:
    assert step["ratio_min"] == step["ratio_max"] == 1
    assert step["fraction_outside"] == step["fraction_masked"] == 0
    assert all(r == 1 for r in step["per_timestep"]["ratio_mean"])


@pytest.mark.parametrize("name", TRAINERS)
def test_full_is_exactly_one_on_policy_and_changes_the_gradient(dance_run: Any, name: str) -> None:
    unpatched, run = dance_run(name), dance_run(name, "full")
    assert_on_policy(run.metrics("step")[0])
    assert first_difference(unpatched.record["gradients"][0], run.record["gradients"][0]) is not None
    # A flow sampler is never changed, and DDIM's not at so few steps.
    assert first_difference(unpatched.record["rollouts"][0], run.record["rollouts"][0]) is None


@pytest.mark.parametrize("name", TRAINERS)
def test_full_on_two_ranks(dance_run: Any, name: str) -> None:
    """Rank 0 alone writes, and of all samples; under FSDP the shards' statistics are put together."""
    run, alone = on_two_ranks(dance_run, name, "full"), dance_run(name, "full")
    step = run.metrics("step")[0]
    assert_on_policy(step)
    assert step["samples"] == 2 * alone.metrics("step")[0]["samples"]
    assert run.metrics("epoch")[0]["reward_count"] == 2 * alone.metrics("epoch")[0]["reward_count"]
    norms = [
        sum(float(g.double().square().sum()) for g in rank["gradients"][0] if g is not None)
        for rank in run.ranks
    ]
    # shards: the ranks' parts together are the gradient; SD and Wan keep whole gradients on each
    norm = norms[0] if name in ("sd", "wan_2_1") else sum(norms)
    assert step["grad_norm"] == pytest.approx(norm**0.5, rel=1e-4)


@pytest.mark.parametrize("name", TRAINERS)
def test_weights_of_the_run_are_the_schedules(dance_run: Any, name: str) -> None:
    """Zeta is over the whole schedule, although its last step is never trained."""
    run = json.loads((dance_run(name, "full").pcpo / "run.json").read_text())
    assert run["status"] == "finished"
    assert run["clone"]["modified"] is False
    assert run["clip_range"] == pytest.approx(1e-4)
    resolved = run["resolved"]
    if name == "sd":
        assert resolved["weight"] == pytest.approx([resolved["mean_native"]] * 4)
        return
    assert resolved["trained"] == 3
    assert resolved["zeta"] == pytest.approx(sum(resolved["weight_native"]) / sum(resolved["dt"]))
    assert resolved["weight"] == pytest.approx([resolved["zeta"] * dt for dt in resolved["dt"]])


def test_the_flag_wins_over_the_variable(dance_run: Any) -> None:
    run = dance_run("flux", "observe", args=["--pcpo=full"])
    assert json.loads((run.pcpo / "run.json").read_text())["mode"] == "full"
    assert first_difference(run.record["gradients"], dance_run("flux", "full").record["gradients"]) is None


@pytest.mark.parametrize("name", TRAINERS)
def test_every_inserted_line_runs(dance_run: Any, name: str) -> None:
    """In full, each line of the trainer's patches is executed at least once."""
    called = {
        tuple(c) for c in json.loads((dance_run(name, "full").folder / "record.hooks.0.json").read_text())
    }
    script = TRAINERS[name].script
    files = {script, *(("ddim_with_logprob.py",) if name == "sd" else ())}
    checked = 0
    for entry in lockfile.load(ROOT / "vendor.lock").get("DanceGRPO").patches:
        patch = patchfile.parse((ROOT / entry.file).read_bytes(), entry.file)
        file = Path(patch.path).name
        if file not in files:
            continue
        inserted = 0
        for insertion in patch.insertions:
            for text in insertion.lines:
                inserted += 1
                line = insertion.after + inserted
                if "pcpo." in text or "return" in text:
                    assert (file, line) in called, f"{file}:{line}: {text.strip()} never ran"
                    checked += 1
    assert checked >= 15
