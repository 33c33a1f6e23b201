"""A CNN that reads digits at 32x32, trained on real digits only: the judge of what the miniature draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from pcpo_overlay.tools.miniature import WEIGHTS, require

FEATURES = 64
Model = TypeVar("Model", bound=nn.Module)


class DigitClassifier(nn.Module):
    """Images (N, 3, 32, 32) in [0, 1] to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(48 * 4 * 4, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, 10)

    def features(self, images: Tensor) -> Tensor:
        """The last but one layer, (N, 64), non-negative: a small perceptual space for diversity measures."""
        if images.ndim != 4 or images.shape[1:] != (3, 32, 32):
            raise ValueError(f"images must be (N, 3, 32, 32), got {tuple(images.shape)}")
        ink = 1 - images.float().mean(dim=1, keepdim=True)
        features: Tensor = self.body(ink)
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits

    @torch.no_grad()
    def digit_probability(self, images: Tensor, labels: Tensor) -> Tensor:
        """Probability (N,) that image i shows the digit `labels[i]`."""
        labels = labels.to(images.device)
        return self(images).softmax(dim=1).gather(1, labels[:, None])[:, 0]

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """The digit (N,) int64 that each image most probably shows."""
        return self(images).argmax(dim=1)


def log_odds(logits: Tensor) -> Tensor:
    """Log-odds (N, 10) of each digit against all others, from logits (N, 10)."""
    digits = range(logits.shape[1])
    others = [torch.cat([logits[:, :d], logits[:, d + 1 :]], dim=1).logsumexp(dim=1) for d in digits]
    return logits - torch.stack(others, dim=1)


def classifier_path() -> Path:
    """Where the shipped weights lie."""
    return WEIGHTS / "classifier.safetensors"


def with_weights(make: Callable[[], Model], path: Path, how: str) -> Model:
    """What `make` gives with the weights at `path` in float32, in eval mode, without gradients; `how` trains them.

    No random number is drawn: ddpo-pytorch scores in a thread while the next pictures are sampled, and a model that was
    initialized there would leave the sampler others in each run.

    Raises:
        FileNotFoundError: no weights at `path`.
    """
    require("safetensors")
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(
            f"no weights of the classifier at {path}; reinstall pcpo-overlay, or in a checkout train them: {how}"
        )
    with torch.device("meta"):
        model = make()
    weights = {name: value.float() for name, value in load_file(str(path)).items()}
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def load_classifier(path: Path | None = None) -> DigitClassifier:
    """The trained classifier (default: the shipped weights); see :func:`with_weights`."""
    how = "python -m benchmarks.miniatures classifier --out FILE"
    return with_weights(DigitClassifier, path or classifier_path(), how)


def digit_probability(images: Tensor, labels: Tensor) -> Tensor:
    """Probability (N,) of each label under the shipped classifier."""
    return load_classifier().digit_probability(images, labels)


def accuracy(model: DigitClassifier, images: Tensor, labels: Tensor) -> float:
    """Share of `images` read as `labels`."""
    return float((model.read(images) == labels).double().mean())
