"""Numbers of sets of features: the Fréchet distance, the Inception Score, and pairs of pictures to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """The normal distribution of a set of features, without holding the set.

    Attributes:
        count: of the set.
        mean: (D,) float64.
        factor: (min(N, D), D) float64, whose product ``A'A`` is the unbiased covariance.
    """

    count: int
    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, pieces: Callable[[], Iterable[Tensor]]) -> Gaussian:
        """That of features read twice in pieces (n, D): once for the mean, once for the covariance.

        The covariance is kept as a triangular factor, into which each piece is folded by a QR decomposition: sums of
        squares would lose the small eigenvalues, and one matrix of all features would not fit where there are many.

        Raises:
            ValueError: less than two features, or pieces of another shape.
        """
        count = 0
        total: Tensor | None = None
        for piece in pieces():
            if piece.ndim != 2:
                raise ValueError(f"features must be (N, D), got {tuple(piece.shape)}")
            count += len(piece)
            summed = piece.double().sum(0)
            total = summed if total is None else total + summed
        if total is None or count < 2:
            raise ValueError(f"a distribution needs two features or more, got {count}")
        mean, held = total / count, [total.new_zeros(0, len(total))]
        for piece in pieces():
            held.append(piece.double() - mean)
            if sum(map(len, held)) >= 2 * len(
                total
            ):  # as many new rows as the factor has: fewer cost as much
                held = [torch.linalg.qr(torch.cat(held), mode="r").R]
        factor = torch.cat(held)
        if len(factor) > len(total):
            factor = torch.linalg.qr(factor, mode="r").R
        return cls(count, mean, factor / (count - 1) ** 0.5)


def frechet(one: Gaussian, other: Gaussian) -> float:
    """Squared Fréchet distance: ``|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))``, in float64.

    With ``C1 = A'A`` and ``C2 = B'B`` the last trace is the sum of the singular values of ``AB'``: those are the roots
    of the eigenvalues of ``C1 C2``, got without forming the product, whose small eigenvalues are lost to rounding. So
    it holds too where there are fewer samples than features and the covariances have no full rank. It is then the
    distance of two Gaussians on the samples' own span, and larger than that of the distributions they came from:
    compare only numbers from equally many samples.

    Raises:
        ValueError: of different numbers of features.
    """
    if len(one.mean) != len(other.mean):
        raise ValueError(f"{len(one.mean)} features against {len(other.mean)}")
    mean = (one.mean - other.mean).square().sum()
    traces = one.factor.square().sum() + other.factor.square().sum()
    distance = mean + traces - 2 * torch.linalg.svdvals(one.factor @ other.factor.T).sum()
    # of equal sets a rounding error is left, of either sign
    return float(distance) if distance > 1e-12 * traces else 0.0


def inception_score(logits: Tensor, splits: int = 10, seed: int = 2020) -> float:
    """``exp(E_x KL(p(y|x) || p(y)))``, the mean over splits of the shuffled set, in float64.

    It grows with the size of a split: compare only numbers from equally many pictures and splits.

    Args:
        logits: (N, classes).
        splits: parts of the set; N is at least that.
        seed: of the shuffle.

    Raises:
        ValueError: fewer pictures than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"{splits} splits need as many pictures, got {len(logits)}")
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    log_p = logits[order].double().log_softmax(1)
    scores = []
    for part in log_p.tensor_split(splits):
        p = part.exp()
        scores.append((p * (part - p.mean(0).log())).sum(1).mean().exp())
    return float(torch.stack(scores).mean())


def pairs(count: int, most: int, seed: int = 0) -> Tensor:
    """Different pairs of different pictures (P, 2), all of them or a seeded choice of ``most``."""
    every = torch.combinations(torch.arange(count))
    if len(every) <= most:
        return every
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
    return every[order[:most].sort().values]
