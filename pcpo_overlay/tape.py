"""What a rollout records for prediction matching: the prediction, the noise and the weight of every step.

The tape keeps the tensors; the trainer's samples carry an index into it (``pcpo_index``), so whatever the trainer
does to its samples (shuffle, drop, rebatch) costs the tape nothing and cannot separate a step from its weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pcpo_overlay.config import HookError

#: The key under which a trainer's samples carry their place on the tape: (B, steps) int64.
INDEX = "pcpo_index"


@dataclass(frozen=True)
class Matched:
    """What the training of one step needs of the rollout.

    Attributes:
        pred_old: (B, ...) prediction the rollout sampled with, in the dtype it had.
        z: (B, ...) noise of the step, in the dtype it was drawn in.
        weight: (B,) float32 weight of the step.
    """

    pred_old: Tensor
    z: Tensor
    weight: Tensor


@dataclass
class Tape:
    """Records of the rollouts of one epoch, step by step; read back by index.

    Attributes:
        on_cpu: keep predictions and noise in the CPU's memory. What is recorded and read back then crosses over, which
            waits for the device each time; the weights, a number a step, stay.
    """

    on_cpu: bool = False
    _pred: list[Tensor] = field(default_factory=list)
    _z: list[Tensor] = field(default_factory=list)
    _weight: list[Tensor] = field(default_factory=list)
    _open: int = 0  # first record of the rollout being sampled
    _rows: int = 0  # entries of the rollouts already closed

    def clear(self) -> None:
        """Forget everything, before the first rollout of an epoch."""
        self._pred, self._z, self._weight = [], [], []
        self._open = self._rows = 0

    def record(self, pred: Tensor, z: Tensor, weight: Tensor) -> None:
        """Append one step of the rollout: (B, ...) prediction and noise, (B,) float32 weights."""
        self._pred.append(self._kept(pred.detach()))
        self._z.append(self._kept(z.detach()))
        self._weight.append(weight)

    def _kept(self, x: Tensor) -> Tensor:
        return x.cpu() if self.on_cpu else x

    def close_rollout(self) -> Tensor:
        """End one rollout.

        Returns:
            (B, steps) int64: where each sample's steps lie on the tape.

        Raises:
            HookError: the sampler recorded nothing.
        """
        preds, zs, weights = (column[self._open :] for column in (self._pred, self._z, self._weight))
        if not preds:
            raise HookError(
                "the sampler of this rollout recorded no step: the step function that ran is not the patched one; "
                "check with `python apply.py check` that the clone is patched and is the one being imported"
            )
        steps, batch = len(preds), preds[0].shape[0]
        # One tensor a rollout, steps first: stacking is the only copy the tape makes.
        self._pred[self._open :] = [torch.stack(preds).flatten(0, 1)]
        self._z[self._open :] = [torch.stack(zs).flatten(0, 1)]
        self._weight[self._open :] = [torch.cat(weights)]
        index = torch.arange(steps * batch, device=weights[0].device).reshape(steps, batch).T + self._rows
        self._open += 1
        self._rows += steps * batch
        return index.contiguous()

    def lookup(self, index: Tensor) -> Matched:
        """The records of one training step.

        Args:
            index: (B,) int64, one column of what :meth:`close_rollout` gave.
        """
        if len(self._pred) > 1:
            self._pred, self._z = [torch.cat(self._pred)], [torch.cat(self._z)]
            self._weight = [torch.cat(self._weight)]
            self._open = 1
        place = self._kept(index)
        return Matched(
            pred_old=self._pred[0].index_select(0, place).to(index.device),
            z=self._z[0].index_select(0, place).to(index.device),
            weight=self._weight[0].index_select(0, index),
        )

    @property
    def open_steps(self) -> int:
        """Steps of the rollout being sampled."""
        return len(self._pred) - self._open

    @property
    def nbytes(self) -> int:
        """Bytes the tape holds."""
        return sum(
            t.numel() * t.element_size() for column in (self._pred, self._z, self._weight) for t in column
        )
