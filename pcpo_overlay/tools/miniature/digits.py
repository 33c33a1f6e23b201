"""Real handwritten digits: the 1,797 8x8 scans of scikit-learn's ``load_digits``, rendered at 32x32.

They come with scikit-learn, so nothing is downloaded. Ink is dark on white paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pcpo_overlay.tools.miniature import IMAGE_SIZE, require

SPLIT_SEED = 0
TEST_SHARE = 0.2
PAPER_MARGIN = 1  # scan pixels; the scans touch their own border, and a shifted digit must not be cut


@dataclass(frozen=True)
class Digits:
    """`images` (N, 3, 32, 32) float32 in [0, 1], 1 is white paper; `labels` (N,) int64 in 0..9."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def render(scans: Tensor) -> Tensor:
    """Scans (N, 8, 8) with ink 0..16 to RGB images (N, 3, 32, 32) in [0, 1], by bicubic upsampling."""
    if scans.ndim != 3 or scans.shape[1:] != (8, 8):
        raise ValueError(f"scans must be (N, 8, 8), got {tuple(scans.shape)}")
    ink = F.pad(scans.float()[:, None] / 16, (PAPER_MARGIN,) * 4)
    ink = F.interpolate(ink, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False)
    return (1 - ink.clamp(0, 1)).expand(-1, 3, -1, -1).contiguous()


def load_digits(split: str) -> Digits:
    """The digits of one split, "train" (1,437) or "test" (360), each digit in the same share of both.

    Raises:
        ValueError: another split.
        ImportError: scikit-learn is missing.
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    require("sklearn")
    from sklearn import datasets, model_selection

    bunch = datasets.load_digits()
    parts = model_selection.train_test_split(
        bunch.images, bunch.target, test_size=TEST_SHARE, stratify=bunch.target, random_state=SPLIT_SEED
    )
    train_scans, test_scans, train_labels, test_labels = (torch.as_tensor(part) for part in parts)
    if split == "train":
        return Digits(render(train_scans), train_labels.long())
    return Digits(render(test_scans), test_labels.long())
