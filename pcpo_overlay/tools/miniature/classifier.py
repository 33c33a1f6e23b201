"""A CNN that reads digits at 32x32, trained on real digits only: the judge of what the miniature draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcpo_overlay.tools.miniature import WEIGHTS, require
from pcpo_overlay.tools.miniature.digits import augment, load_digits

FEATURES = 64


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


def load_classifier(path: Path | None = None) -> DigitClassifier:
    """The trained classifier (default: the shipped weights), in eval mode, without gradients.

    Raises:
        FileNotFoundError: no weights at `path`.
    """
    require("safetensors")
    from safetensors.torch import load_file

    path = path or classifier_path()
    if not path.is_file():
        raise FileNotFoundError(
            f"no classifier weights at {path}; train them: python -m pcpo_overlay miniature train classifier"
        )
    model = DigitClassifier()
    model.load_state_dict(load_file(str(path)))
    return model.eval().requires_grad_(False)


def digit_probability(images: Tensor, labels: Tensor) -> Tensor:
    """Probability (N,) of each label under the shipped classifier."""
    return load_classifier().digit_probability(images, labels)


def accuracy(model: DigitClassifier, images: Tensor, labels: Tensor) -> float:
    """Share of `images` read as `labels`."""
    return float((model.read(images) == labels).double().mean())


def train_classifier(
    *, steps: int = 2500, batch: int = 128, seed: int = 0, report: Callable[[int, float], None] | None = None
) -> DigitClassifier:
    """Train on the real digits' train split, lightly augmented.

    Besides the small turns and shifts, paper and ink vary in brightness and grain, so that it is the shape
    that is read. `report(steps done, loss)` is called after every step.
    """
    generator = torch.Generator().manual_seed(seed)
    digits = load_digits("train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitClassifier().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
        for step in range(steps):
            index = torch.randint(len(digits), (batch,), generator=generator)
            images = augment(digits.images[index], generator, degrees=10, scale=0.12, shear=0.12, shift=2.5)
            contrast = 1 - 0.3 * torch.rand(batch, 1, 1, 1, generator=generator)
            grain = 0.08 * torch.rand(batch, 1, 1, 1, generator=generator)
            images = 1 - contrast * (1 - images) + grain * torch.randn(images.shape, generator=generator)
            loss = F.cross_entropy(model(images), digits.labels[index], label_smoothing=0.02)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if report is not None:
                report(step + 1, loss.item())
    return model.eval().requires_grad_(False)


def save_classifier(model: DigitClassifier, path: Path, *, test_accuracy: float) -> None:
    """Write the weights with their test accuracy as metadata; the file appears complete or not at all."""
    require("safetensors")
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    metadata = {"format": "pt", "test_accuracy": json.dumps(test_accuracy)}
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, str(scratch), metadata
    )
    scratch.chmod(0o644)  # safetensors leaves a file that only its owner may read
    scratch.replace(path)
