"""PCPO's metrics in the tracker that each upstream opens: its rows, and the run's bits as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bits import first_difference
from dance.launch import TRAINERS as DANCE
from launch import DDPO, FLOW_GRPO
from test_trackers import event_file
from wandb_files import OfflineRun

from pcpo_overlay.trainers import TRAINERS

pytestmark = pytest.mark.upstream

HERE = Path(__file__).resolve().parent
#: Charts that every trainer has.
ALWAYS = ("fraction_outside", "fraction_above", "fraction_below", "ratio_max", "grad_norm", "kl")


def offline(folder: Path) -> dict[str, str]:
    return {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true"}


def check_steps(kept: OfflineRun, steps: list[dict[str, Any]], theirs: str) -> None:
    """Every optimizer step is in the trainer's own row of it."""
    assert sorted(kept.column(theirs)) == [step["step"] for step in steps]
    for name in ALWAYS:
        assert kept.column(f"pcpo/{name}") == {step["step"]: step[name] for step in steps}


@pytest.mark.parametrize("procs", [1, 2])
def test_ddpo(ddpo_run: Any, tmp_path: Path, procs: int) -> None:
    run = ddpo_run("observe", procs, env=offline(tmp_path))
    kept = OfflineRun(tmp_path)
    check_steps(kept, run.metrics("step"), "clipfrac")
    # what upstream logs of the same steps, and PCPO's own count of it
    assert kept.column("pcpo/fraction_outside") == pytest.approx(kept.column("clipfrac"), abs=1e-6)
    assert kept.column("pcpo/reward_mean") == {
        (n + 1) * len(run.metrics("step")) // 2 - 1: epoch["reward_mean"]
        for n, epoch in enumerate(run.metrics("epoch"))
    }
    assert kept.config["pcpo"].startswith("observe")
    unpatched = ddpo_run(None, procs)
    assert len(run.ranks) == procs and run.ranks[0]["weights"]
    assert first_difference(unpatched.ranks, run.ranks) is None


def test_flow_grpo(flow_run: Any, tmp_path: Path) -> None:
    run = flow_run("observe", env=offline(tmp_path))
    kept = OfflineRun(tmp_path)
    check_steps(kept, run.metrics("step"), "clipfrac")
    for ours, theirs in (("above", "gt_one"), ("below", "lt_one"), ("outside", "")):
        column = kept.column("_".join(filter(None, ["clipfrac", theirs])))
        assert kept.column(f"pcpo/fraction_{ours}") == pytest.approx(column, abs=1e-6)
    epochs = run.metrics("epoch")
    logged = list(kept.column("reward_jpeg_compressibility").values())
    assert [epoch["rewards"]["jpeg_compressibility"] for epoch in epochs] == pytest.approx(logged)
    assert list(kept.column("pcpo/reward/jpeg_compressibility").values()) == pytest.approx(logged)
    zero = list(kept.column("zero_std_ratio").values())
    assert [epoch["groups_without_spread"] for epoch in epochs] == pytest.approx(zero)
    assert first_difference(flow_run(None).ranks, run.ranks) is None


def test_groups_without_spread_are_those_that_upstream_counts(flow_run: Any, tmp_path: Path) -> None:
    """Of two ranks, whose groups lie on both."""
    settings = {"config": HERE / "dropping_config.py", "num_epochs": 1, "sample__num_batches_per_epoch": 4}
    run = flow_run("observe", 2, env=offline(tmp_path), **settings)
    (theirs,) = OfflineRun(tmp_path).column("zero_std_ratio").values()
    (epoch,) = run.metrics("epoch")
    assert epoch["groups_without_spread"] == pytest.approx(theirs)
    assert 0 < theirs < 1


@pytest.mark.parametrize("name", sorted(DANCE))
def test_dancegrpo(dance_run: Any, tmp_path: Path, name: str) -> None:
    """No trainer but SD shows a clip fraction of its own; in its tracker there is one now, in its own rows."""
    run = dance_run(name, "observe", env=offline(tmp_path))
    kept = OfflineRun(tmp_path)
    first = TRAINERS[f"dancegrpo_{name}"].first_iteration
    if first is None:
        check_steps(kept, run.metrics("step"), "clipfrac")
    else:
        epochs = run.metrics("epoch")
        for chart in ALWAYS:
            assert kept.column(f"pcpo/{chart}") == {first + n: e[chart] for n, e in enumerate(epochs)}
        assert not any("clip" in key for row in kept.rows.values() for key in row if "pcpo/" not in key)
        theirs = sorted(kept.column("train_loss"))
        # the editing trainer counts its three passes from 0 each, and wandb drops what is behind
        assert theirs == [first + n for n in range(len(epochs))][: len(theirs)] and theirs
    assert all("groups_without_spread" in epoch for epoch in run.metrics("epoch"))
    assert ("rewards" in run.metrics("epoch")[0]) == (name == "hunyuan")
    assert first_difference(dance_run(name).ranks, run.ranks) is None


# -------------------------------------------------------------- tensorboard


def check_events(folder: Path, steps: list[dict[str, Any]]) -> None:
    events = event_file(folder / "events")
    for name in ALWAYS:
        told = {event.step: event.value for event in events.Scalars(f"pcpo/{name}")}
        assert told == pytest.approx({step["step"]: step[name] for step in steps}, rel=1e-6)
    (histogram,) = events.Histograms("pcpo/timesteps/kl")
    assert len(histogram.histogram_value.bucket) == len(steps[0]["per_timestep"]["timestep"])


def test_tensorboard_on_ddpo(ddpo_run: Any, tmp_path: Path) -> None:
    run = ddpo_run(
        "observe",
        env={"TENSORBOARD_DIR": str(tmp_path)},
        config=f"{HERE / 'tensorboard_config.py'}:{DDPO.config}",
    )
    check_events(tmp_path, run.metrics("step"))
    assert first_difference(ddpo_run(None).record["weights"], run.record["weights"]) is None


def test_tensorboard_on_flow_grpo(flow_run: Any, tmp_path: Path) -> None:
    run = flow_run(
        "observe",
        env={"TENSORBOARD_DIR": str(tmp_path)},
        config=f"{HERE / 'tensorboard_config.py'}:{FLOW_GRPO.config}",
    )
    check_events(tmp_path, run.metrics("step"))
    assert first_difference(flow_run(None).record["weights"], run.record["weights"]) is None


def test_tensorboard_on_dancegrpo(dance_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its trainers SD alone has an Accelerator, whose tracker can be another than wandb."""
    flag, config = DANCE["sd"].first
    other = replace(DANCE["sd"], first=(flag, f"{HERE / 'tensorboard_config.py'}:{config}"))
    monkeypatch.setitem(DANCE, "sd_tensorboard", other)
    run = dance_run("sd_tensorboard", "observe", env={"TENSORBOARD_DIR": str(tmp_path)})
    check_events(tmp_path, run.metrics("step"))
    assert first_difference(dance_run("sd").record["weights"], run.record["weights"]) is None
