"""What a miniature draws: how often it reads as prompted, and how varied it is beside real digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.tools.miniature import DIGIT_NAMES, PROMPTS, flux, require, sd, sd3
from pcpo_overlay.tools.miniature.classifier import load_classifier
from pcpo_overlay.tools.miniature.digits import load_digits

ACCURACY = 0.90
"""The bar: share of samples that must read as prompted."""


@dataclass(frozen=True)
class Check:
    """`accuracy` overall and `per_digit`, as the classifier of real digits reads the samples.

    `settings` are the sampler's: steps, guidance, and `eta` (SD 1.x, FLUX) or `noise_level` (SD3).

    The rest says whether ten pictures were learnt by heart. `spread` is the std of a pixel over the samples of
    one digit, averaged over pixels and digits; `nearest` the root mean square pixel distance to the nearest
    picture of the train split, median over samples. Both stand beside the same number for the real test split.
    """

    samples: int
    settings: dict[str, Any]
    seed: int
    accuracy: float
    per_digit: tuple[float, ...]
    spread: float
    spread_real: float
    nearest: float
    nearest_real: float

    def to_json(self) -> dict[str, Any]:
        """The fields, `settings` spread among them and `per_digit` as an object by the digit's name."""
        fields = asdict(self)
        settings = fields.pop("settings")
        return {**fields, **settings, "per_digit": dict(zip(DIGIT_NAMES, self.per_digit, strict=True))}

    def lines(self) -> list[str]:
        """The check in words."""
        return [
            *(f"  {name:6} {share:7.1%}" for name, share in zip(DIGIT_NAMES, self.per_digit, strict=True)),
            f"{self.accuracy:.1%} of {self.samples} samples read as prompted (bar: {ACCURACY:.0%})",
            f"spread of a pixel within a digit: {self.spread:.3f} (real digits {self.spread_real:.3f})",
            f"to the nearest training picture: {self.nearest:.3f} (held-out digits {self.nearest_real:.3f})",
        ]

    @property
    def missed(self) -> str | None:
        """What is below the bar; None where nothing is."""
        if self.accuracy < ACCURACY:
            return f"{self.accuracy:.1%} read as prompted, below {ACCURACY:.0%}"
        return None


FAMILIES: dict[str, ModuleType] = {"sd": sd, "sd3": sd3, "flux": flux}
"""By the name of a miniature, the module with its ``load_pipeline``, ``sample`` and ``SETTINGS``."""


def family(pipeline: Any) -> ModuleType:
    """The module of :data:`FAMILIES` that goes with `pipeline`."""
    if not hasattr(pipeline, "transformer"):
        return sd
    return sd3 if hasattr(pipeline, "text_encoder_3") else flux


def prompted_digits(samples: int) -> Tensor:
    """The digits to prompt for, (samples,) int64: zero to nine in turn, so that each comes equally often."""
    return torch.arange(samples) % len(PROMPTS)


def draw(
    pipeline: Any,
    digits: Tensor,
    *,
    seed: int = 0,
    batch: int = 50,
    report: Callable[[int], None] | None = None,
    **settings: Any,
) -> Tensor:
    """One image per entry of `digits`, (N, 3, 32, 32); `report(samples done)` is called after each batch.

    `settings` are passed to the ``sample`` of the pipeline's module.
    """
    sample = family(pipeline).sample
    images = []
    for i, chunk in enumerate(digits.split(batch)):
        prompts = [PROMPTS[digit] for digit in chunk]
        images.append(sample(pipeline, prompts, seed=seed * 100_000 + i, **settings))
        if report is not None:
            report(min(len(digits), (i + 1) * batch))
    return torch.cat(images)


def check(
    pipeline: Any,
    *,
    samples: int = 1000,
    seed: int = 0,
    report: Callable[[int], None] | None = None,
    **settings: Any,
) -> Check:
    """Draw `samples` digits and read them with the shipped classifier.

    `settings` of the sampler that are not given are the first of the ``SETTINGS`` of the pipeline's module.

    Raises:
        ValueError: fewer than 20 samples: two of each digit are the least that has a spread.
    """
    if samples < 20:
        raise ValueError(f"samples must be at least 20, got {samples}")
    settings = {**family(pipeline).SETTINGS[0], **settings}
    digits = prompted_digits(samples)
    images = draw(pipeline, digits, seed=seed, report=report, **settings)
    right = (load_classifier().read(images) == digits).double()
    train, test = load_digits("train"), load_digits("test")
    return Check(
        samples=samples,
        settings=settings,
        seed=seed,
        accuracy=float(right.mean()),
        per_digit=tuple(float(right[digits == d].mean()) for d in range(10)),
        spread=spread(images, digits),
        spread_real=spread(test.images, test.labels),
        nearest=nearest(images, train.images),
        nearest_real=nearest(test.images, train.images),
    )


def spread(images: Tensor, labels: Tensor) -> float:
    """Std of each pixel over the images of one label, averaged over pixels and labels."""
    return float(torch.stack([images[labels == d].std(dim=0).mean() for d in range(10)]).mean())


def nearest(images: Tensor, references: Tensor) -> float:
    """Root mean square pixel distance to the nearest reference, median over `images`."""
    distance = torch.cdist(images.mean(dim=1).flatten(1), references.mean(dim=1).flatten(1))
    pixels = images[0, 0].numel()
    return float((distance.min(dim=1).values / pixels**0.5).median())


def grid_figure(images: Tensor, out: Path, *, columns: int) -> Path:
    """Save (10 * columns, 3, 32, 32) images, digit by digit, as a PNG with one labelled row per prompt."""
    if images.shape[0] != len(PROMPTS) * columns:
        raise ValueError(f"need {len(PROMPTS)} x {columns} images, got {images.shape[0]}")
    require("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.9 + 0.62 * columns, 0.62 * len(PROMPTS)), dpi=110)
    axes = figure.subplots(len(PROMPTS), 1, gridspec_kw={"hspace": 0.0})
    rows = images.permute(0, 2, 3, 1).unflatten(0, (len(PROMPTS), columns))
    for axis, prompt, row in zip(axes, PROMPTS, rows, strict=True):
        strip = torch.cat(list(row), dim=1).clamp(0, 1).numpy()
        axis.imshow(strip, interpolation="nearest", aspect="equal")
        axis.set_axis_off()
        axis.text(-6, strip.shape[0] / 2, prompt, ha="right", va="center", fontsize=10)
    figure.subplots_adjust(left=1.85 / figure.get_figwidth(), right=0.995, top=0.995, bottom=0.005)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="png")
    return out


def grid(pipeline: Any, out: Path, *, columns: int = 8, seed: int = 1, **settings: Any) -> Path:
    """Draw `columns` samples of each of the ten prompts and save them with :func:`grid_figure`."""
    digits = torch.arange(len(PROMPTS)).repeat_interleave(columns)
    images = draw(pipeline, digits, seed=seed, batch=len(digits), **settings)
    return grid_figure(images, out, columns=columns)
