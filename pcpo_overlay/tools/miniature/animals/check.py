"""What the miniature draws: how often it reads as prompted, and how varied it is beside the drawings it learnt from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.tools.miniature import require
from pcpo_overlay.tools.miniature.animals import ANIMALS, IMAGE_SIZE, sd
from pcpo_overlay.tools.miniature.animals.classifier import AnimalClassifier, classifier_path, load_classifier
from pcpo_overlay.tools.miniature.animals.measures import effective_styles, within_prompt

ACCURACY, DISTANCE = 0.90, 0.85
"""The bar: share of samples read as prompted; distance within a prompt, as a share of the training data's."""


@dataclass(frozen=True)
class Varied:
    """Of equally many pictures of each animal: :func:`within_prompt` and :func:`effective_styles`."""

    distance: float
    styles: float


@dataclass(frozen=True)
class Check:
    """`accuracy` overall and `per_animal` as the classifier reads the samples; how varied they and the `data` are.

    `settings` are the sampler's: steps, guidance, eta.
    """

    samples: int
    settings: dict[str, Any]
    seed: int
    accuracy: float
    per_animal: tuple[float, ...]
    drawn: Varied
    data: Varied

    def to_json(self) -> dict[str, Any]:
        """The fields, `settings` spread among them and `per_animal` as an object by the animal's name."""
        fields = asdict(self)
        settings = fields.pop("settings")
        return {**fields, **settings, "per_animal": dict(zip(ANIMALS, self.per_animal, strict=True))}

    def lines(self) -> list[str]:
        """The check in words."""
        worst = sorted(zip(self.per_animal, ANIMALS, strict=True))[:8]
        return [
            "least often: " + ", ".join(f"{name} {share:.0%}" for share, name in worst),
            f"{self.accuracy:.1%} of {self.samples} samples read as prompted (bar: {ACCURACY:.0%})",
            f"distance within a prompt: {self.drawn.distance:.2f}, {self.share:.0%} of the data's "
            f"{self.data.distance:.2f} (bar: {DISTANCE:.0%})",
            f"styles a prompt: {self.drawn.styles:.1f} (data {self.data.styles:.1f})",
        ]

    @property
    def share(self) -> float:
        """The distance within a prompt as a share of the data's."""
        return self.drawn.distance / self.data.distance

    @property
    def missed(self) -> str | None:
        """What is below the bar; None where nothing is."""
        below = []
        if self.accuracy < ACCURACY:
            below.append(f"{self.accuracy:.1%} read as prompted, below {ACCURACY:.0%}")
        if self.share < DISTANCE:
            below.append(f"distance within a prompt {self.share:.0%} of the data's, below {DISTANCE:.0%}")
        return "; ".join(below) or None


def varied(classifier: AnimalClassifier, images: Tensor, labels: Tensor) -> Varied:
    """The measures of images (N, 3, 64, 64) of the animals `labels` (N,)."""
    with torch.no_grad():
        features = classifier.features(images)
        styles = classifier.style(features).softmax(dim=1)
    return Varied(within_prompt(features, labels), effective_styles(styles, labels))


def data_varied(path: Path | None = None) -> Varied:
    """The measures of the training data, as they were measured when the classifier was packed.

    They lie in its file, since the data itself is no part of the package.
    """
    require("safetensors")
    from safetensors import safe_open

    with safe_open(str(path or classifier_path()), framework="pt") as file:
        return Varied(**json.loads(file.metadata()["data"]))


def draw(
    pipeline: Any,
    labels: Tensor,
    *,
    seed: int = 0,
    batch: int = 45,
    report: Callable[[int], None] | None = None,
    **settings: Any,
) -> Tensor:
    """One image per entry of `labels`, (N, 3, 64, 64); `report(samples done)` is called after each batch."""
    images = []
    for i, chunk in enumerate(labels.split(batch)):
        prompts = [ANIMALS[label] for label in chunk]
        images.append(sd.sample(pipeline, prompts, seed=seed * 100_000 + i, **settings))
        if report is not None:
            report(min(len(labels), (i + 1) * batch))
    return torch.cat(images)


def check(
    pipeline: Any,
    *,
    samples: int = 1000,
    seed: int = 0,
    report: Callable[[int], None] | None = None,
    classifier: Path | None = None,
    **settings: Any,
) -> Check:
    """Draw `samples` animals, each equally often, and read them with the classifier (default: the shipped one).

    Raises:
        ValueError: fewer than 90 samples: two of each animal are the least that has a distance.
    """
    if samples < 2 * len(ANIMALS):
        raise ValueError(f"samples must be at least {2 * len(ANIMALS)}, got {samples}")
    settings = {**sd.SETTINGS[0], **settings}
    labels = torch.arange(samples) % len(ANIMALS)
    images = draw(pipeline, labels, seed=seed, report=report, **settings)
    reader = load_classifier(classifier)
    right = (reader.read(images) == labels).double()
    return Check(
        samples=samples,
        settings=settings,
        seed=seed,
        accuracy=float(right.mean()),
        per_animal=tuple(float(right[labels == label].mean()) for label in range(len(ANIMALS))),
        drawn=varied(reader, images, labels),
        data=data_varied(classifier),
    )


def grid(pipeline: Any, out: Path, *, columns: int = 8, seed: int = 1, **settings: Any) -> Path:
    """Draw `columns` samples of each animal, and save them as a PNG with a labelled row an animal, in three blocks."""
    labels = torch.arange(len(ANIMALS)).repeat_interleave(columns)
    return grid_figure(draw(pipeline, labels, seed=seed, **settings), out, columns=columns)


def grid_figure(images: Tensor, out: Path, *, columns: int, blocks: int = 3) -> Path:
    """Save (45 * columns, 3, 64, 64) images, animal by animal, as a PNG; the animals stand in `blocks` side by side."""
    if images.shape[0] != len(ANIMALS) * columns:
        raise ValueError(f"need {len(ANIMALS)} x {columns} images, got {images.shape[0]}")
    require("matplotlib")
    from matplotlib.figure import Figure

    rows = len(ANIMALS) // blocks
    width, name = IMAGE_SIZE * columns / 100, 0.75
    figure = Figure(figsize=(blocks * (width + name), rows * IMAGE_SIZE / 100), dpi=100)
    strips = images.permute(0, 2, 3, 1).unflatten(0, (len(ANIMALS), columns))
    for label, animal in enumerate(ANIMALS):
        block, row = divmod(label, rows)
        left = (block * (width + name) + name) / figure.get_figwidth()
        axis = figure.add_axes((left, 1 - (row + 1) / rows, width / figure.get_figwidth(), 1 / rows))
        axis.imshow(torch.cat(list(strips[label]), dim=1).clamp(0, 1).numpy(), interpolation="nearest")
        axis.set_axis_off()
        axis.text(-5, IMAGE_SIZE / 2, animal, ha="right", va="center", fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="png")
    return out
