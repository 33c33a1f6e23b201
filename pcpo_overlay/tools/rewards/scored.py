"""A scorer of ``pcpo score`` as a reward: pictures as a trainer has them in, a number for each out."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pcpo_overlay.tools.faults import Fault, WrongArgument
from pcpo_overlay.tools.score import scorers
from pcpo_overlay.tools.score.run import METRICS

if TYPE_CHECKING:
    import numpy as np

#: Those that score one picture by itself, by the names that ``pcpo score`` has.
REWARDS = tuple(name for name in METRICS if name in scorers.KINDS)


class RewardError(Fault):
    """A reward that cannot be given; the message says why and what to do."""


class Reward:
    """A scorer, loaded once, that any thread may call.

    Trainers score in threads of their own while the next pictures are drawn. One call at a time goes through: a fast
    tokenizer that two threads use at once fails. Autocast is off, as in ``pcpo score``.

    Attributes:
        record: the scorer's name, its weights' sha256, and the preprocessing, as ``pcpo score`` records them.
    """

    def __init__(self, name: str, given: Mapping[str, str], device: torch.device, batch: int = 32) -> None:
        """Load a scorer.

        Args:
            name: of :data:`REWARDS`.
            given: by the name of weights, a path or the hub's name, as ``pcpo score --weights``.
            device: where its networks run.
            batch: pictures at a time.

        Raises:
            ScoreError: weights are not here, or are others.
            ImportError: a library is missing.
        """
        with torch.random.fork_rng(devices=[]):  # making a network draws numbers, which are the trainer's
            self._scorer, self.record = scorers.load(name, given, device)
        self._device, self._batch, self._lock = device, batch, threading.Lock()

    def __call__(self, images: Any, prompts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The score (N,) float32 of each picture.

        Args:
            images: as :func:`pictures`.
            prompts: N.
        """
        seen, texts = pictures(images), list(prompts)
        if len(seen) != len(texts):
            raise ValueError(f"got {len(seen)} images for {len(texts)} prompts")
        with self._lock, torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            scores = [
                self._scorer(seen[n : n + self._batch], texts[n : n + self._batch])
                for n in range(0, len(seen), self._batch)
            ]
        return torch.cat(scores).float().cpu().numpy()


def pictures(images: Any) -> Tensor:
    """Pictures as a PNG of them would hold them, (N, 3, H, W) uint8.

    Args:
        images: a tensor (N, 3, H, W), of floats in [0, 1], rounded in float32 as diffusers does it, or uint8; or a
            uint8 array (N, H, W, 3).

    Raises:
        ValueError: anything else.
    """
    if not isinstance(images, Tensor):
        images = torch.as_tensor(images)
        if images.ndim == 4:
            images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            "images must be a tensor (N, 3, H, W) or a uint8 array (N, H, W, 3); videos have no such reward"
        )
    images = images.detach()
    if images.dtype != torch.uint8:
        images = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return images


def check(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """Where all that a reward needs lies on this machine, by the weights' names; what the hub has is fetched.

    Raises:
        WrongArgument: no such reward, or no such weights.
        ScoreError: weights are not here; says which file, how large, and where it comes from.
    """
    if name not in REWARDS:
        raise WrongArgument(f"no reward {name!r:.60}; there are {', '.join(REWARDS)}")
    for weights in given:
        if weights not in scorers.WEIGHTS:
            raise WrongArgument(f"no weights {weights!r:.60}; there are {', '.join(scorers.WEIGHTS)}")
    return {needed: str(scorers.find(needed, given).resolve()) for needed in scorers.KINDS[name].needs}
