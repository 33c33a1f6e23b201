"""How varied pictures of the same animals are, in the classifier's eyes."""

from __future__ import annotations

import torch
from torch import Tensor

from pcpo_overlay.tools.evaluate.measures import diversity


def within_prompt(features: Tensor, labels: Tensor) -> float:
    """Mean Euclidean distance of two pictures of the same animal, averaged over the animals with two or more.

    Args:
        features: (N, D).
        labels: (N,) int64.

    Raises:
        ValueError: no animal has two.
    """
    groups = [features[labels == label] for label in labels.unique()]
    distances = [diversity(group) for group in groups if len(group) > 1]
    if not distances:
        raise ValueError("no animal has two pictures")
    return sum(distances) / len(distances)


def effective_styles(probabilities: Tensor, labels: Tensor) -> float:
    """Effective number of styles of an animal: exp of the entropy of its mean style, averaged over the animals.

    It is 1 where all pictures of an animal surely have one style, and 8 where all are equally frequent.

    Args:
        probabilities: (N, 8) of the styles.
        labels: (N,) int64, the animals.
    """
    means = torch.stack([probabilities[labels == label].double().mean(dim=0) for label in labels.unique()])
    return float(torch.special.entr(means).sum(dim=1).exp().mean())
