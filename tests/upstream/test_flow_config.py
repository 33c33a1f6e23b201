"""The config files around flow_grpo's own: what they add, and that they add nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcpo_overlay import compat
from pcpo_overlay.tools.launch import flow_grpo as wrapper
from pcpo_overlay.tools.miniature import PROMPTS, flow_grpo_config
from pcpo_overlay.tools.miniature.rewards import digit_probability

pytestmark = pytest.mark.upstream("flow_grpo")

NAME = "config/grpo.py:general_ocr_sd3_1gpu"


@pytest.fixture
def clone(upstream_clone: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The unpatched clone as working directory, its package importable, both undone afterwards."""
    path = upstream_clone("flow_grpo", False)
    monkeypatch.chdir(path)
    monkeypatch.syspath_prepend(str(path))
    compat.install("flow_grpo")
    yield path
    for name in [n for n in sys.modules if n == "flow_grpo" or n.startswith("flow_grpo.")]:
        del sys.modules[name]


def test_a_wrapped_config_has_another_number_of_epochs_alone(clone: Path) -> None:
    theirs, ours = wrapper.load(NAME).to_dict(), wrapper.get_config(NAME).to_dict()
    assert theirs.pop("num_epochs") == 100000  # which the loop never reads
    assert ours.pop("num_epochs") == 0  # endless, as upstream has it
    assert ours == theirs


def test_a_config_that_is_not_there_is_named(clone: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config/nowhere.py under .*give the config file's path"):
        wrapper.get_config("config/nowhere.py:x")


@pytest.mark.parametrize("reward", flow_grpo_config.REWARDS)
def test_the_miniatures_config_has_what_the_trainer_asks_for(clone: Path, reward: str) -> None:
    config = flow_grpo_config.get_config(reward)
    sample, train = config.sample, config.train
    assert sample.train_batch_size % sample.num_image_per_prompt == 0
    assert train.batch_size == sample.train_batch_size
    assert sample.num_batches_per_epoch == 2 * train.gradient_accumulation_steps
    assert config.reward_fn.to_dict() == {reward: 1.0}
    assert train.beta == 0 or config.use_lora  # without an adapter there is no reference


def test_an_unknown_reward_lists_the_choices(clone: Path) -> None:
    with pytest.raises(ValueError, match="digit_probability, jpeg_compressibility"):
        flow_grpo_config.get_config("aesthetic")


def test_rewards_of_both_kinds_add_up(clone: Path) -> None:
    import flow_grpo.rewards

    plain = flow_grpo.rewards.multi_score
    flow_grpo_config.get_config()
    both = flow_grpo.rewards.multi_score
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prompts = list(PROMPTS[:3])

    theirs, _ = plain("cpu", {"jpeg_compressibility": 2.0})(images, prompts, [{}] * 3)
    same, _ = both("cpu", {"jpeg_compressibility": 2.0})(images, prompts, [{}] * 3, only_strict=False)
    assert list(same) == list(theirs)
    assert all(np.array_equal(same[k], theirs[k]) for k in theirs)

    mixed, _ = both("cpu", {"jpeg_compressibility": 2.0, "digit_probability": 0.5})(images, prompts, [{}] * 3)
    digit = digit_probability(images, prompts)
    assert list(mixed)[-1] == "avg"
    assert np.array_equal(mixed["digit_probability"], digit)
    assert np.allclose(mixed["avg"], 2.0 * theirs["jpeg_compressibility"] + 0.5 * digit)

    alone, _ = both("cpu", {"digit_probability": 1.0})(images, prompts, [{}] * 3)
    assert np.allclose(alone["avg"], digit)
