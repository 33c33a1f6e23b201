"""What a run was asked for, as each upstream counts it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from pcpo_overlay.tools.runs.settings import planned_epochs, samples_per_epoch
from pcpo_overlay.trainers import TRAINERS, of_script


@pytest.mark.parametrize(
    ("upstream", "trainer", "epochs"),
    [
        ("ddpo", {"num_epochs": 5}, 5),
        ("flow_grpo", {"num_epochs": 0}, None),
        ("flow_grpo_wan2_1", {"num_epochs": 5}, 3),  # two only draw prompts
        ("flow_grpo_bagel", {"num_epochs": 5}, 5),
        ("dancegrpo_sd", {"num_epochs": 5}, 6),
        ("dancegrpo_flux", {"max_train_steps": 5}, 5),
        ("dancegrpo_wan_2_1", {"max_train_steps": 5}, 6),
        ("dancegrpo_qwenimage", {"max_train_steps": 5}, 7),
        ("dancegrpo_qwenimage_edit", {"max_train_steps": -1}, 3),
        ("dancegrpo_flux", {}, None),
        ("ddpo", None, None),
    ],
)
def test_planned_epochs_as_each_upstream_counts(
    upstream: str, trainer: dict[str, Any] | None, epochs: int | None
) -> None:
    assert planned_epochs({"upstream": upstream, "trainer": trainer}) == epochs


@pytest.mark.parametrize(
    ("upstream", "trainer", "ranks", "count"),
    [
        ("ddpo", {"sample": {"batch_size": 16, "num_batches_per_epoch": 4}}, 1, 64),
        (
            "flow_grpo",
            {"sample": {"train_batch_size": 40, "num_batches_per_epoch": 2, "batch_size": 1}},
            3,
            240,
        ),
        (
            "flow_grpo_wan2_1",
            {"sample": {"train_batch_size": 8, "num_batches_per_epoch": 2, "sample_time_per_prompt": 3}},
            2,
            96,
        ),
        # its number of batches is a setting that it never reads
        (
            "dancegrpo_sd",
            {"sample": {"batch_size": 4, "num_batches_per_epoch": 2}, "num_generations": 16},
            8,
            512,
        ),
        ("dancegrpo_flux", {"train_batch_size": 2, "num_generations": 12}, 8, 192),
        ("ddpo", {"sample": {"batch_size": 16}}, 1, None),
        ("ddpo", {}, 1, None),
    ],
)
def test_samples_per_epoch(upstream: str, trainer: dict[str, Any], ranks: int, count: int | None) -> None:
    run = {"upstream": upstream, "trainer": trainer, "hardware": {"world_size": ranks}}
    assert samples_per_epoch(run) == count
    assert samples_per_epoch({}) is None


@pytest.mark.parametrize(
    ("trainer", "steps"), [("ddpo", None), ("dancegrpo_sd", 9), ("flow_grpo", 5), ("dancegrpo_wan_2_1", 9)]
)
def test_the_steps_that_are_trained(trainer: str, steps: int | None) -> None:
    settings = {
        "sample": {"num_steps": 10},
        "train": {"timestep_fraction": 0.5},
        "sampling_steps": 10,
    }
    assert TRAINERS[trainer].trained_steps(settings) == (None if steps is None else range(steps))


def test_a_window_of_steps_can_be_anywhere_in_its_range() -> None:
    trainer = TRAINERS["flow_grpo_sd3_fast"]
    sample = {"num_steps": 10, "sde_window_size": 3, "sde_window_range": (2, 7)}
    assert trainer.trained_steps({"sample": sample}) == range(2, 7)
    # without a window all steps but the last are drawn with noise
    assert trainer.trained_steps({"sample": {**sample, "sde_window_size": 0}}) == range(9)


def test_a_window_that_is_drawn_once() -> None:
    """BAGEL's sampler seeds the draw with its rank in every call."""
    trainer = TRAINERS["flow_grpo_bagel"]
    settings = {"sample": {"num_steps": 15, "sde_window_size": 3, "sde_window_range": (0, 7)}}
    starts = []
    for rank in range(4):
        random.seed(rank)
        starts.append(random.randint(0, 4))
    assert trainer.trained_steps(settings) == range(starts[0], starts[0] + 3)
    assert trainer.trained_steps(settings, 4) == range(min(starts), max(starts) + 3)
    alike = replace(trainer, window="run")
    assert alike.trained_steps(settings, 4) == range(starts[0], starts[0] + 3)


def test_a_window_that_is_drawn_once_and_for_all() -> None:
    """Upstream seeds Python's generator in every call of its sampler: with 0, or with the rank."""
    settings = {"sample": {"num_steps": 10, "sde_window_size": 2, "sde_window_range": (0, 5)}}
    random.seed(0)
    start = random.randint(0, 3)
    for ranks in (1, 8):
        assert TRAINERS["flow_grpo_qwenimage"].trained_steps(settings, ranks) == range(start, start + 2)
    edit = TRAINERS["flow_grpo_qwenimage_edit"]
    assert edit.trained_steps(settings) == range(start, start + 2)
    for rank in range(8):
        random.seed(rank)
        own = random.randint(0, 3)
        assert set(range(own, own + 2)) <= set(edit.trained_steps(settings, 8) or ())
    assert edit.trained_steps({"sample": {**settings["sample"], "sde_window_size": 0}}, 8) == range(9)


def test_a_trainer_by_its_script() -> None:
    assert of_script("/x/ddpo-pytorch/scripts/train.py") is TRAINERS["ddpo"]
    assert of_script("/x/elsewhere/train.py") is None
