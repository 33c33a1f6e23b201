"""A policy's images of the ten prompts, reduced to what is measured of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.files import write_atomically
from pcpo_overlay.tools.evaluate.measures import diversity, frechet_distance
from pcpo_overlay.tools.evaluate.rewards import Reward
from pcpo_overlay.tools.miniature import PROMPTS
from pcpo_overlay.tools.miniature.check import prompted_digits
from pcpo_overlay.tools.miniature.classifier import FEATURES, load_classifier

#: Images drawn at a time. It decides which noise an image gets, so it is part of what is compared.
BATCH = 50


@dataclass(frozen=True)
class Samples:
    """What is kept of N images of each prompt.

    Attributes:
        features: (10, N, 64) float32, the classifier's.
        reward: (10, N) float64, the run's own.
        right: (10, N) bool, whether the classifier reads the prompted digit.
    """

    features: Tensor
    reward: Tensor
    right: Tensor

    @property
    def sound(self) -> bool:
        """Whether the shapes belong together and every number is finite."""
        shape = (len(PROMPTS), *self.features.shape[1:2])
        return (
            self.features.shape == (*shape, FEATURES)
            and self.reward.shape == self.right.shape == shape
            and self.right.dtype == torch.bool
            and all(t.is_floating_point() and bool(t.isfinite().all()) for t in (self.features, self.reward))
        )


@torch.no_grad()
def draw(
    sample: Callable[..., Tensor],
    pipeline: Any,
    reward: Reward,
    *,
    per_prompt: int,
    seed: int,
    settings: dict[str, Any],
) -> Samples:
    """Draw ``per_prompt`` images of each prompt.

    Two policies drawn with the same numbers start from the same noise and are given the same noise on the way, so that
    what differs between their images is the policies'.

    Args:
        sample: the loader's.
        pipeline: with the policy in it.
        reward: of images and prompts.
        per_prompt, seed: which images.
        settings: the sampler's.
    """
    classifier = load_classifier()
    digits = prompted_digits(per_prompt * len(PROMPTS))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for index, chunk in enumerate(digits.split(BATCH)):
        prompts = [PROMPTS[digit] for digit in chunk]
        images = sample(pipeline, prompts, seed=seed * 100_000 + index, **settings)
        parts.append((classifier.features(images), reward(images, prompts), classifier.read(images) == chunk))
    features, rewards, right = (
        torch.cat(part).unflatten(0, (per_prompt, len(PROMPTS))).transpose(0, 1).contiguous()
        for part in zip(*parts, strict=True)
    )
    return Samples(features, rewards, right)


def measure(samples: Samples, base: Samples) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The numbers of a policy over all its images, and by prompt.

    Args:
        samples: the policy's.
        base: the base model's, drawn with the same settings.

    Returns:
        ``reward``, ``accuracy``, ``diversity`` and ``frechet`` each; over all, the diversity is the mean over the
        prompts and the Fréchet distance that of all prompts' images together.
    """
    by_prompt = {
        prompt: {
            "reward": float(samples.reward[index].mean()),
            "accuracy": float(samples.right[index].double().mean()),
            "diversity": diversity(samples.features[index]),
            "frechet": frechet_distance(samples.features[index], base.features[index]),
        }
        for index, prompt in enumerate(PROMPTS)
    }
    overall = {
        "reward": float(samples.reward.mean()),
        "accuracy": float(samples.right.double().mean()),
        "diversity": _mean([values["diversity"] for values in by_prompt.values()]),
        "frechet": frechet_distance(samples.features.flatten(0, 1), base.features.flatten(0, 1)),
    }
    return overall, by_prompt


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def save(path: Path, samples: Samples, settings: dict[str, Any]) -> None:
    """Keep samples in a file with what they were drawn with; it appears complete or not at all."""
    from safetensors.torch import save as to_bytes

    tensors = {"features": samples.features, "reward": samples.reward, "right": samples.right}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_bytes(tensors, {"settings": json.dumps(settings, sort_keys=True)}))


def restore(path: Path, settings: dict[str, Any]) -> Samples | None:
    """The samples of a file that :func:`save` wrote with these settings; None where there is no such, or none whole."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            if (file.metadata() or {}).get("settings") != json.dumps(settings, sort_keys=True):
                return None
            kept = Samples(*(file.get_tensor(name) for name in ("features", "reward", "right")))
            return kept if kept.sound else None
    except (OSError, SafetensorError):
        return None
