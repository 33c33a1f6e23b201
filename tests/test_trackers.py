"""What the trainer's own tracker gets: which numbers, in which rows, and that no tracker can harm a run."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import random
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_training import ROLLOUTS, STEPS, Toy, accelerator, records, run_json, start
from wandb_files import OfflineRun

from pcpo_overlay import hooks
from pcpo_overlay.config import parse
from pcpo_overlay.record.rewards import Rewards, without_spread
from pcpo_overlay.record.tracker import SHOWN, Tracker
from pcpo_overlay.trainers import TRAINERS

__all__ = ["start"]


class Kept:
    """A tracker of accelerate's kind that keeps what it gets, by step."""

    name = "kept"

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}

    def log(self, values: dict[str, Any], step: int) -> None:
        self.rows.setdefault(step, {}).update(values)

    def column(self, name: str) -> dict[int, Any]:
        return {step: row[name] for step, row in self.rows.items() if name in row}


class Broken(Kept):
    name = "broken"
    calls = 0

    def log(self, values: dict[str, Any], step: int) -> None:
        self.calls += 1
        raise RuntimeError("no space left")


@pytest.fixture
def no_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)


def two_epochs(toy: Toy) -> None:
    """Two optimizer steps an epoch, which the trainer counts on, as ddpo-pytorch does."""
    for epoch in range(2):
        samples = toy.rollout(epoch)
        for update in range(2):
            toy.train(samples, 1, update, 2 * epoch + update)
            with torch.no_grad():
                toy.policy.theta.add_(0.05)
        hooks.end_epoch(epoch)


@pytest.mark.usefixtures("no_wandb")
def test_steps_and_epochs_go_to_the_trainers_own_rows(start: Any, tmp_path: Path) -> None:
    kept = Kept()
    start("ddpo", "observe", accelerator(trackers=[kept]))
    two_epochs(Toy("observe"))
    steps, epochs = records(tmp_path, "step"), records(tmp_path, "epoch")
    assert sorted(kept.rows) == [0, 1, 2, 3]
    for record in steps:
        row = kept.rows[record["step"]]
        for name in ("loss", "fraction_outside", "fraction_above", "ratio_max", "kl", "grad_norm"):
            assert row[f"pcpo/{name}"] == record[name]
    # an epoch's own numbers are in the row of its last step; its means do not overwrite that step's
    assert kept.column("pcpo/reward_mean") == {1: epochs[0]["reward_mean"], 3: epochs[1]["reward_mean"]}
    assert kept.column("pcpo/on_policy_fraction_outside") == {1: 0.0, 3: steps[2]["fraction_outside"]}
    assert steps[1]["fraction_outside"] != epochs[0]["fraction_outside"]
    assert {name.removeprefix("pcpo/") for row in kept.rows.values() for name in row} <= set(SHOWN)


@pytest.mark.usefixtures("no_wandb")
def test_an_epoch_without_an_optimizer_step_is_in_the_row_of_the_next(start: Any) -> None:
    kept, toy = Kept(), Toy("observe")
    start("ddpo", "observe", accelerator(trackers=[kept]))
    toy.train(toy.rollout(0), 1, 0, 0)
    hooks.end_epoch(0)
    toy.rollout(1)
    hooks.end_epoch(1)
    assert sorted(kept.column("pcpo/reward_mean")) == [0, 1]


@pytest.mark.usefixtures("no_wandb")
@pytest.mark.parametrize("name", ["dancegrpo_flux", "dancegrpo_wan_2_1", "dancegrpo_qwenimage"])
def test_a_trainer_that_logs_iterations_gets_one_row_for_each(start: Any, tmp_path: Path, name: str) -> None:
    kept, toy = Kept(), Toy("observe")
    start(name, "observe", accelerator(trackers=[kept]), sampling_steps=STEPS + 1)
    for _ in range(2):
        samples = toy.rollout(None)
        for update in range(2):
            toy.train(samples, 1, update, None)
            with torch.no_grad():
                toy.policy.theta.add_(0.05)
        hooks.end_epoch(None)
    first = TRAINERS[name].first_iteration
    assert first is not None
    epochs = records(tmp_path, "epoch")
    assert kept.column("pcpo/fraction_outside") == {
        first + n: epoch["fraction_outside"] for n, epoch in enumerate(epochs)
    }


@pytest.mark.usefixtures("no_wandb")
def test_track_false_sends_nothing(start: Any, tmp_path: Path) -> None:
    kept = Kept()
    start("ddpo", "observe,track=false", accelerator(trackers=[kept]))
    two_epochs(Toy("observe"))
    assert not kept.rows
    assert len(records(tmp_path, "step")) == 4


@pytest.mark.usefixtures("no_wandb")
def test_other_ranks_send_nothing(start: Any) -> None:
    kept = Kept()
    start("ddpo", "observe", accelerator(trackers=[kept], is_main_process=False, process_index=1))
    two_epochs(Toy("observe"))
    assert not kept.rows


@pytest.mark.usefixtures("no_wandb")
def test_a_tracker_that_fails_is_said_once_and_the_others_go_on(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, kept = Broken(), Kept()
    start("ddpo", "observe", accelerator(trackers=[broken, kept]))
    two_epochs(Toy("observe"))
    assert broken.calls == 1
    assert sorted(kept.rows) == [0, 1, 2, 3]
    said = [line for line in capsys.readouterr().err.splitlines() if "broken" in line]
    assert said == [
        "[pcpo] warning: broken does not take PCPO's metrics (RuntimeError: no space left); the run folder has them, "
        "the training goes on"
    ]
    assert len(records(tmp_path, "epoch")) == 2


def test_nothing_is_imported_for_it() -> None:
    """A trainer without wandb and tensorboard stays without; torch alone is needed."""
    code = (
        "import sys\n"
        "from types import SimpleNamespace\n"
        "from pcpo_overlay.record.tracker import Tracker\n"
        "Tracker(SimpleNamespace(), 'observe').log({'loss': 1.0}, 0)\n"
        "print([m for m in ('wandb', 'tensorboard', 'accelerate') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_wandb_offline(start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own file has every number in the trainer's row, the map of the timesteps, and the mode for its table."""
    wandb: Any = importlib.import_module("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    start("ddpo", "full,variance=native")
    # as DanceGRPO's trainers, after the start hook; they give it their arguments, --pcpo among them
    run = wandb.init(project="test", mode="offline", dir=str(tmp_path), config={"pcpo": None})
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # type: ignore[index]
    toy = Toy("full,variance=native")
    for epoch in range(2):
        wandb.log({"reward": float(epoch)}, step=2 * epoch)
        samples = toy.rollout(epoch)
        for update in range(2):
            wandb.log({"theirs": update}, step=2 * epoch + update)
            toy.train(samples, 1, update, 2 * epoch + update)
            with torch.no_grad():
                toy.policy.theta.add_(0.05)
        hooks.end_epoch(epoch)
    now = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # type: ignore[index]
    assert states[:2] == now[:2] and torch.equal(states[2], now[2])
    run.finish()
    kept = OfflineRun(tmp_path)
    assert (
        kept.config["pcpo"]
        == "full,weights=proportional,variance=native,zeta=schedule,precision=upstream,tape=device"
    )
    assert kept.column("theirs") == {0: 0, 1: 1, 2: 0, 3: 1}  # none of the trainer's own rows is lost
    steps = records(tmp_path, "step")
    for name in ("fraction_outside", "credit_std", "grad_norm"):
        assert kept.column(f"pcpo/{name}") == {r["step"]: r[name] for r in steps}
    times = sorted(steps[0]["per_timestep"]["timestep"])
    edges = kept.column("pcpo/timesteps/fraction_outside/bins")
    assert sorted(edges) == [1]  # one of ten epochs
    assert len(edges[1]) == STEPS + 1
    assert all(low < t < high for low, t, high in zip(edges[1], times, edges[1][1:], strict=False))
    (first, _) = records(tmp_path, "epoch")
    assert (
        kept.column("pcpo/timesteps/fraction_outside/values")[1]
        == first["per_timestep"]["fraction_outside"][::-1]
    )


def test_tensorboard(start: Any, tmp_path: Path) -> None:
    from accelerate.tracking import TensorBoardTracker  # type: ignore[import-not-found, unused-ignore]

    # Without an Accelerator every process is the main one to it.
    importlib.import_module("accelerate").PartialState(cpu=True)
    tracker = TensorBoardTracker("events", tmp_path)
    tracker.start()
    start("ddpo", "observe", accelerator(trackers=[tracker]))
    two_epochs(Toy("observe"))
    tracker.finish()
    events = event_file(tmp_path / "events")
    steps = records(tmp_path, "step")
    told = {e.step: e.value for e in events.Scalars("pcpo/ratio_max")}
    assert told == pytest.approx({r["step"]: r["ratio_max"] for r in steps})
    (histogram,) = events.Histograms("pcpo/timesteps/kl")
    (first, _) = records(tmp_path, "epoch")
    assert histogram.step == 1
    assert list(histogram.histogram_value.bucket) == pytest.approx(first["per_timestep"]["kl"][::-1])
    times = first["per_timestep"]["timestep"][::-1]
    limits = list(histogram.histogram_value.bucket_limit)
    assert limits[:-1] == pytest.approx([(a + b) / 2 for a, b in itertools.pairwise(times)])
    assert limits[-1] > times[-1]


def event_file(folder: Path) -> Any:
    name = "tensorboard.backend.event_processing.event_accumulator"
    events = importlib.import_module(name).EventAccumulator(str(folder))
    events.Reload()
    return events


# ------------------------------------------------------------------ rewards


def test_groups_without_spread_by_hand() -> None:
    rewards = torch.tensor([1.0, 1.0, 2.0, 3.0, 5.0], dtype=torch.float64)
    assert without_spread(rewards, torch.tensor([0, 0, 1, 1, 2])) == 0.5  # the last is alone: no group
    assert without_spread(rewards, torch.tensor([0, 1, 2, 3, 4])) is None
    assert without_spread(rewards.new_ones(4), torch.tensor([0, 1, 0, 1])) == 1


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def test_groups_and_names_of_every_kind_of_trainer() -> None:
    def rewards(trainer: str, **settings: Any) -> Rewards:
        return Rewards(TRAINERS[trainer], settings)

    def summary(held: Rewards, values: list[float]) -> dict[str, Any]:
        return held.summary(torch.tensor(values).double(), torch.device("cpu"), lambda rows: rows)

    # Flow-GRPO: groups by prompt, wherever they lie; several rewards by name, computed in another thread
    flow = rewards("flow_grpo", per_prompt_stat_tracking=True)
    for prompts, scores in (([7, 8], [1.0, -10.0]), ([8, 7], [2.0, 3.0])):
        flow.note(
            {
                "prompt_ids": torch.tensor(prompts)[:, None],
                "rewards": done(({"ocr": scores, "avg": np.array([1.0, 2.0])}, {})),
            }
        )
    assert summary(flow, [1.0, 2.0, 2.0, 3.0]) == {
        "groups_without_spread": 0.5,
        "rewards": {"ocr": 2.0, "avg": 1.5},
    }
    assert summary(flow, [1.0, 2.0, 2.0, 3.0]) == {}  # nothing is left for the next epoch
    # DanceGRPO: so many side by side; HunyuanVideo has two rewards
    dance = rewards("dancegrpo_hunyuan", use_group=True, num_generations=2)
    dance.note({"vq_rewards": torch.tensor([1.0, 1.0]), "mq_rewards": torch.tensor([0.0, 4.0])})
    assert summary(dance, [2.0, 2.0, 1.0, 3.0]) == {
        "groups_without_spread": 0.5,
        "rewards": {"vq": 1.0, "mq": 2.0},
    }
    # without groups the whole epoch is one
    assert summary(rewards("dancegrpo_flux", use_group=False, num_generations=2), [2.0, 2.0, 1.0]) == {
        "groups_without_spread": 0.0
    }
    ddpo = rewards("ddpo", per_prompt_stat_tracking={"buffer_size": 16})
    ddpo.note({"prompt_ids": torch.tensor([[1], [2]]), "rewards": done((np.array([1.0, 1.0]), {}))})
    assert summary(ddpo, [1.0, 1.0]) == {}  # no prompt was drawn twice


def test_rewards_that_cannot_be_read_are_said_and_stop_nothing(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = start("ddpo", "observe")
    hooks.begin_epoch(0)
    session.recorder.note_samples({"rewards": done(({"a": ["x"], "b": [object()]}, {}))})
    hooks.log_rewards([1.0, 2.0])
    hooks.end_epoch(0)
    assert records(tmp_path, "epoch")[0]["reward_mean"] == 1.5
    assert capsys.readouterr().err.count("no statistics of groups and of rewards by name") == 1


def test_what_a_rollout_is_kept_in_is_told(start: Any, tmp_path: Path) -> None:
    start("ddpo", "observe")
    Toy("observe").rollout()
    assert run_json(tmp_path)["precision"] == {
        "log_probs": "float32",
        "prediction": "float32",
        "samples_as_trained": True,
    }


@pytest.mark.parametrize("mode", ["observe", "full,variance=native"])
def test_the_tape_that_matching_takes_is_known_without_it(start: Any, tmp_path: Path, mode: str) -> None:
    start("ddpo", mode)
    toy = Toy(mode)
    toy.train(toy.rollout(0), 1)
    hooks.end_epoch(0)
    (epoch,) = records(tmp_path, "epoch")
    samples = ROLLOUTS * 3 * STEPS
    assert epoch["tape_bytes_matching"] == samples * (2 * 4 * 4 + 2 * 4)  # two float32 of 2x2, two weights
    assert (epoch["tape_bytes"] == epoch["tape_bytes_matching"]) == mode.startswith("full")


def test_what_is_told_of_a_run_is_no_part_of_its_name() -> None:
    assert (
        str(parse("observe"))
        == "observe,weights=native,variance=native,zeta=schedule,precision=upstream,tape=device"
    )
    assert str(parse("observe,track=false,alarms=false")).endswith("track=false,alarms=false")


def test_an_open_tracker_of_another_kind_gets_the_numbers_alone() -> None:
    kept = Kept()
    tracker = Tracker(SimpleNamespace(trackers=[kept]), "observe")
    tracker.log({"loss": math.nan, "kl": None, "grad_norm": 2.0, "mode": "x"}, 3)
    tracker.log_timesteps({"timestep": [5, 1], "kl": [1.0, 2.0]}, 3)
    assert kept.rows == {3: {"pcpo/grad_norm": 2.0}}
    assert json.dumps(kept.rows)
