"""The reward of the digits and the prompts, as every upstream is given them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pcpo_overlay.tools.miniature import PROMPTS, prompts_path, rewards
from pcpo_overlay.tools.miniature.classifier import load_classifier
from pcpo_overlay.tools.miniature.digits import load_digits


@pytest.fixture
def images() -> torch.Tensor:
    return load_digits("test").images[:20]


@pytest.fixture
def prompts() -> list[str]:
    return [PROMPTS[label] for label in load_digits("test").labels[:20]]


def test_reward_is_the_classifiers_probability(images: torch.Tensor, prompts: list[str]) -> None:
    values = rewards.digit_probability(images, prompts)
    assert values.shape == (20,) and values.dtype == np.float64
    assert values.mean() > 0.9
    labels = load_digits("test").labels[:20]
    assert torch.equal(torch.from_numpy(values).float(), load_classifier().digit_probability(images, labels))
    wrong = rewards.digit_probability(images, [PROMPTS[(label + 1) % 10] for label in labels])
    assert wrong.mean() < 0.05
    assert (rewards.read_digits(images) == labels.numpy()).mean() > 0.9


def test_reward_takes_images_in_every_form(images: torch.Tensor, prompts: list[str]) -> None:
    values = rewards.digit_probability(images, prompts)
    pixels = (images * 255).round().byte()
    for form in (pixels, pixels.permute(0, 2, 3, 1).numpy(), images.half(), images.bfloat16()):
        assert rewards.digit_probability(form, prompts) == pytest.approx(values, abs=0.05)
    assert rewards.digit_probability(images.requires_grad_(), tuple(prompts)) == pytest.approx(values)


def test_reward_says_what_it_cannot_read(images: torch.Tensor, prompts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"'a cat'.*'a handwritten zero'.*'a handwritten nine'"):
        rewards.digit_probability(images[:2], [PROMPTS[0], "a cat"])
    with pytest.raises(ValueError, match="20 images for 19 prompts"):
        rewards.digit_probability(images, prompts[1:])
    with pytest.raises(ValueError, match="array of float32"):
        rewards.digit_probability(images.permute(0, 2, 3, 1).numpy(), prompts)
    with pytest.raises(ValueError, match="32, 32"):
        rewards.digit_probability(images[:, :, :16], prompts)


def test_prompts_are_a_dataset_of_flow_grpo() -> None:
    train, test = ((prompts_path() / name).read_text().splitlines() for name in ("train.txt", "test.txt"))
    assert train == list(PROMPTS)
    assert test == list(PROMPTS) * 8
