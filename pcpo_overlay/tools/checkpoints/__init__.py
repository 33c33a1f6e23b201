"""Checkpoints that the trainers save of their policies, and how one becomes a policy again.

``found``   where each trainer leaves them, and what a file or folder that the user names is
``weights`` their tensors, read so that nothing in the file is run
``policy``  a network with a checkpoint's weights: whole, or low-rank factors of each trainer's form
``export``  low-rank factors as diffusers' own file

Importing this package needs torch alone; the rest is imported where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pcpo_overlay.tools.faults import Fault


class CheckpointError(Fault):
    """A checkpoint is not there, cannot be read or does not fit; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What a trainer saved of its policy.

    Attributes:
        name: of its folder.
        epoch: how many epochs the policy had been trained; 0 where that is not known.
        weights: the file that holds them; of a network in several files the index of those.
        lora: whether they are low-rank factors on top of the base model; else the whole network.
    """

    name: str
    epoch: int
    weights: Path
    lora: bool
