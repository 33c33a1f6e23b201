"""A policy's images of a miniature's prompts, reduced to what is measured of them."""

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
from pcpo_overlay.tools.evaluate.readers import DIGITS, Reader
from pcpo_overlay.tools.evaluate.rewards import Reward
from pcpo_overlay.tools.miniature.animals.measures import effective_styles

#: Images drawn at a time. It decides which noise an image gets, so it is part of what is compared.
BATCH = 50


@dataclass(frozen=True)
class Samples:
    """What is kept of N images of each of P prompts.

    Attributes:
        features: (P, N, D) float32, the classifier's.
        reward: (P, N) float64, the run's own.
        right: (P, N) bool, whether the classifier reads what was prompted.
        styles: (P, N, S) float32, probabilities of its styles; None where it has none.
    """

    features: Tensor
    reward: Tensor
    right: Tensor
    styles: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        return {name: held for name, held in vars(self).items() if held is not None}

    def sound(self, reader: Reader = DIGITS) -> bool:
        """Whether they are such a reader's, and every number is finite."""
        shape = (len(reader.prompts), *self.features.shape[1:2])
        numbers = [held for name, held in self.tensors.items() if name != "right"]
        return (
            self.features.shape == (*shape, reader.width)
            and self.reward.shape == self.right.shape == shape
            and self.right.dtype == torch.bool
            and (self.styles is None) == (reader.styles is None)
            and (self.styles is None or (self.styles.ndim == 3 and self.styles.shape[:2] == shape))
            and all(held.is_floating_point() and bool(held.isfinite().all()) for held in numbers)
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
    reader: Reader = DIGITS,
) -> Samples:
    """Draw ``per_prompt`` images of each prompt of a reader.

    Two policies drawn with the same numbers start from the same noise and are given the same noise on the way, so that
    what differs between their images is the policies'.

    Args:
        sample: the loader's.
        pipeline: with the policy in it.
        reward: of images and prompts.
        per_prompt, seed: which images.
        settings: the sampler's.
        reader: whose prompts, and who reads what is drawn.
    """
    classifier = reader.load()
    labels = torch.arange(per_prompt * len(reader.prompts)) % len(reader.prompts)
    parts: list[tuple[Tensor, ...]] = []
    for index, chunk in enumerate(labels.split(BATCH)):
        prompts = [reader.prompts[label] for label in chunk]
        images = sample(pipeline, prompts, seed=seed * 100_000 + index, **settings)
        features = classifier.features(images)
        styles = () if reader.styles is None else (reader.styles(classifier, features),)
        parts.append((features, reward(images, prompts), classifier.read(images) == chunk, *styles))
    return Samples(
        *(
            torch.cat(part).unflatten(0, (per_prompt, len(reader.prompts))).transpose(0, 1).contiguous()
            for part in zip(*parts, strict=True)
        )
    )


def measure(
    samples: Samples, base: Samples, reader: Reader = DIGITS
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The numbers of a policy over all its images, and by prompt.

    Args:
        samples: the policy's.
        base: the base model's, drawn with the same settings.
        reader: whose they are.

    Returns:
        ``reward``, ``accuracy``, ``diversity`` and ``frechet`` each, and ``styles``, the effective number of them,
        where the reader tells styles; over all, diversity and styles are the mean over the prompts and the Fréchet
        distance is that of all prompts' images together.
    """
    by_prompt = {
        prompt: {
            "reward": float(samples.reward[index].mean()),
            "accuracy": float(samples.right[index].double().mean()),
            "diversity": diversity(samples.features[index]),
            "frechet": frechet_distance(samples.features[index], base.features[index]),
            **_styles(samples, index),
        }
        for index, prompt in enumerate(reader.prompts)
    }
    overall = {
        "reward": float(samples.reward.mean()),
        "accuracy": float(samples.right.double().mean()),
        "diversity": _mean([values["diversity"] for values in by_prompt.values()]),
        "frechet": frechet_distance(samples.features.flatten(0, 1), base.features.flatten(0, 1)),
    }
    if samples.styles is not None:
        overall["styles"] = _mean([values["styles"] for values in by_prompt.values()])
    return overall, by_prompt


def _styles(samples: Samples, index: int) -> dict[str, float]:
    if samples.styles is None:
        return {}
    held = samples.styles[index]
    return {"styles": effective_styles(held, torch.zeros(len(held), dtype=torch.int64))}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def save(path: Path, samples: Samples, settings: dict[str, Any]) -> None:
    """Keep samples in a file with what they were drawn with; it appears complete or not at all."""
    from safetensors.torch import save as to_bytes

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_bytes(samples.tensors, {"settings": json.dumps(settings, sort_keys=True)}))


def restore(path: Path, settings: dict[str, Any], reader: Reader = DIGITS) -> Samples | None:
    """The samples of a file that :func:`save` wrote with these settings; None where there is no such, or none whole."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            if (file.metadata() or {}).get("settings") != json.dumps(settings, sort_keys=True):
                return None
            kept = Samples(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no mapping
            return kept if kept.sound(reader) else None
    except (OSError, SafetensorError, TypeError):  # the last of other names
        return None
