"""How varied a policy's images are, and how far from the base model's, in the digit classifier's feature space.

The features are the classifier's last but one layer (64 numbers). It never saw a sample of the miniatures, so the space
is no more a part of any training than Inception's or DINO's is in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor


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

    ``|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))``, the quantity that FID is in Inception's feature space.

    With ``C1 = A'A`` and ``C2 = B'B`` the last trace is the sum of the singular values of ``AB'``: those are the roots
    of the eigenvalues of ``C1 C2``, got without forming the product, whose small eigenvalues are lost to rounding. So
    it holds too where there are fewer samples than features and the covariances have no full rank. It is then the
    distance of two Gaussians on the samples' own span, and larger than that of the distributions they came from:
    compare only numbers from equally many samples.

    Args:
        features, reference: (N, D) and (M, D), N and M at least 2.

    Raises:
        ValueError: other shapes.
    """
    features, reference = _checked(features), _checked(reference)
    if features.shape[1] != reference.shape[1]:
        raise ValueError(f"{features.shape[1]} features against {reference.shape[1]}")
    mean = (features.mean(dim=0) - reference.mean(dim=0)).square().sum()
    a, b = _factor(features), _factor(reference)
    traces = a.square().sum() + b.square().sum()
    distance = mean + traces - 2 * torch.linalg.svdvals(a @ b.T).sum()
    # of equal sets a rounding error is left, of either sign
    return float(distance) if distance > 1e-12 * traces else 0.0


def _factor(features: Tensor) -> Tensor:
    """A matrix (min(N, D), D) whose product ``A'A`` is the covariance of (N, D) features."""
    centred = (features - features.mean(dim=0)) / (len(features) - 1) ** 0.5
    if len(centred) <= centred.shape[1]:
        return centred
    r: Tensor = torch.linalg.qr(centred, mode="r").R
    return r


def _checked(features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (N, D) with N at least 2, got {tuple(features.shape)}")
    return features.double()
