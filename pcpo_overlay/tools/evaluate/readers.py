"""Who reads what a miniature draws: its prompts, and the classifier that was trained on its real pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pcpo_overlay.tools import miniature
from pcpo_overlay.tools.miniature import animals, classifier
from pcpo_overlay.tools.miniature.animals import classifier as of_animals


def _styles(reader: Any, features: Tensor) -> Tensor:
    probabilities: Tensor = reader.style(features).softmax(dim=1)
    return probabilities


@dataclass(frozen=True)
class Reader:
    """One miniature's.

    Attributes:
        draws: what its pictures show, for messages.
        prompts: the position is the label that the classifier gives.
        weights: the classifier's file.
        load: the classifier: ``features`` of images, (N, ``width``), and ``read``, their labels (N,).
        width: numbers in a picture's features.
        samples: pictures of a prompt, unless the user asks for others: about 500 in all.
        styles: probabilities (N, S) of the classifier's styles from features (N, ``width``); None where it has none.
    """

    draws: str
    prompts: tuple[str, ...]
    weights: Callable[[], Path]
    load: Callable[[], Any]
    width: int
    samples: int
    styles: Callable[[Any, Tensor], Tensor] | None = None


DIGITS = Reader(
    draws="32x32 digits",
    prompts=miniature.PROMPTS,
    weights=classifier.classifier_path,
    load=classifier.load_classifier,
    width=classifier.FEATURES,
    samples=50,
)
ANIMALS = Reader(
    draws="64x64 animals",
    prompts=animals.ANIMALS,
    weights=of_animals.classifier_path,
    load=of_animals.load_classifier,
    width=of_animals.FEATURES,
    samples=12,
    styles=_styles,
)
