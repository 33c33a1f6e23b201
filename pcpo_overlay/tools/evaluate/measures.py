"""How varied a policy's images are, and how far from the base model's, in a classifier's feature space.

The features are the last but one layer of the miniature's classifier (64 numbers of digits, 128 of animals). It never
saw a sample of the miniatures, so the space is no more a part of any training than Inception's or DINO's is in the
paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcpo_overlay.tools.score.statistics import Gaussian, frechet


def diversity(features: Tensor) -> float:
    """Mean Euclidean distance between two different samples: 0 where all are alike, that is, collapsed.

    Args:
        features: (N, D) of images of one prompt, N at least 2.

    Raises:
        ValueError: another shape.
    """
    return float(torch.pdist(_checked(features)).mean())


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians with the mean and (unbiased) covariance of both sets, in float64.

    See :func:`pcpo_overlay.tools.score.statistics.frechet`: the quantity that FID is in Inception's feature space.

    Args:
        features, reference: (N, D) and (M, D), N and M at least 2.

    Raises:
        ValueError: other shapes.
    """
    return frechet(_gaussian(features), _gaussian(reference))


def _gaussian(features: Tensor) -> Gaussian:
    held = _checked(features)
    return Gaussian.of(lambda: [held])


def _checked(features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (N, D) with N at least 2, got {tuple(features.shape)}")
    return features.double()
