"""Train the reader of digits on real digits only: it judges what the miniatures draw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.miniatures.augment import augment
from pcpo_overlay.tools.miniature import require
from pcpo_overlay.tools.miniature.classifier import DigitClassifier
from pcpo_overlay.tools.miniature.digits import load_digits


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
