"""What a rollout records of every step: the prediction, the noise, and the step's weights and scale.

The tape keeps the tensors; the trainer's samples carry an index into it (``pcpo_index``), so whatever the trainer
does to its samples (shuffle, drop, rebatch) costs the tape nothing and cannot separate a step from its weights.
"""

from __future__ import annotations

import bisect
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
        pred_old: (B, ...) prediction the rollout sampled with, in the dtype it was kept in.
        z: (B, ...) noise of the step, in the dtype it was drawn in; None where it was not recorded.
        weight: (B,) float32 weight of the step in the objective.
        policy_weight: (B,) float32 weight of the sampler in use.
        clip_scale: (B,) float32, what upstream's ratio is the exponential of, in log ratios of the policy; None where
            it is just that.
    """

    pred_old: Tensor
    z: Tensor | None
    weight: Tensor
    policy_weight: Tensor
    clip_scale: Tensor | None = None


@dataclass
class _Column:
    """Rows of one kind, (rows, ...), appended batch by batch.

    In the first epoch they are kept as they come. On an accelerator they are joined at the first lookup, piece by
    piece, each freed as it is copied; in the CPU's memory they are read where they are. A later epoch writes into room
    for as many rows as the last one had.

    Attributes:
        on_cpu: keep them in the CPU's memory, pinned where they come from a GPU.
    """

    on_cpu: bool = False
    rows: int = 0
    _pieces: list[Tensor] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)  # the first row of each piece
    _room: Tensor | None = None
    _last_rows: int = 0

    def append(self, rows: Tensor) -> None:
        end = self.rows + rows.shape[0]
        if self._room is None and not self._pieces and self._last_rows >= end:
            self._room = self._empty(self._last_rows, rows)
        if self._room is not None and end > self._room.shape[0]:
            self._pieces, self._starts, self._room = [self._room[: self.rows]], [0], None
        if self._room is not None:
            self._room[self.rows : end].copy_(rows, non_blocking=True)
        else:
            self._starts.append(self.rows)
            self._pieces.append(
                self._empty(rows.shape[0], rows).copy_(rows, non_blocking=True) if self.on_cpu else rows
            )
        self.rows = end

    def _empty(self, rows: int, like: Tensor) -> Tensor:
        device = torch.device("cpu") if self.on_cpu else like.device
        return torch.empty(
            (rows, *like.shape[1:]), dtype=like.dtype, device=device, pin_memory=self.on_cpu and like.is_cuda
        )

    def select(self, index: Tensor) -> Tensor:
        """The rows at (B,) places, which are in the CPU's memory if the rows are."""
        if self._room is None and len(self._pieces) > 1 and self._pieces[0].device.type == "cpu":
            return torch.stack([self._row(i) for i in index.tolist()])
        return self.joined().index_select(0, index)

    def _row(self, i: int) -> Tensor:
        piece = bisect.bisect(self._starts, i) - 1
        return self._pieces[piece][i - self._starts[piece]]

    def joined(self) -> Tensor:
        """All rows in one tensor."""
        if self._room is None:
            if len(self._pieces) == 1:
                self._room = self._pieces.pop()
            else:
                self._room = self._empty(self.rows, self._pieces[0])
                at = 0
                self._pieces.reverse()
                while self._pieces:
                    piece = self._pieces.pop()
                    self._room[at : at + piece.shape[0]] = piece
                    at += piece.shape[0]
        return self._room

    def clear(self) -> None:
        self._pieces, self._starts, self._room = [], [], None
        self._last_rows, self.rows = self.rows, 0

    @property
    def nbytes(self) -> int:
        held = self._pieces if self._room is None else [self._room]
        return sum(t.numel() * t.element_size() for t in held)


class Tape:
    """Records of the rollouts of one epoch, step by step; read back by index.

    Args:
        on_cpu: keep predictions and noise in the CPU's memory; the weights, two or three numbers a step, stay on
            the device.
            What is recorded crosses over without waiting for the device, what is read back without the device waiting;
            a batch waits once, for its index.
    """

    def __init__(self, on_cpu: bool = False) -> None:
        self.on_cpu = on_cpu
        self._pred, self._z = _Column(on_cpu), _Column(on_cpu)
        self._weights = _Column()
        self._open_from = 0  # first row of the rollout being sampled
        self._open_steps = 0
        self._host_index: tuple[Tensor, Tensor] | None = None
        #: Bytes of the noise that the epoch's rollouts drew and that was not to be kept.
        self.left_out = 0

    def clear(self) -> None:
        """Forget everything, before the first rollout of an epoch or when its training is done."""
        if self._weights.rows:
            for column in (self._pred, self._z, self._weights):
                column.clear()
        self._open_from = self._open_steps = self.left_out = 0

    def record(self, pred: Tensor, z: Tensor | None, *weights: Tensor) -> None:
        """Append one step of the rollout: (B, ...) prediction, noise or none, (B,) float32 weights, scale if any."""
        self._device = weights[0].device
        self._pred.append(pred.detach())
        if z is not None:
            self._z.append(z.detach())
        self._weights.append(torch.stack(weights, dim=1))
        self._open_steps += 1

    def close_rollout(self) -> Tensor:
        """End one rollout.

        Returns:
            (B, steps) int64: where each sample's steps lie on the tape.

        Raises:
            HookError: the sampler recorded nothing.
        """
        if not self._open_steps:
            raise HookError(
                "the sampler of this rollout recorded no step: the step function that ran is not the patched one; "
                "check with `python apply.py check` that the clone is patched and is the one being imported"
            )
        rows = torch.arange(self._open_from, self._weights.rows, device=self._device)
        index = rows.reshape(self._open_steps, -1).T
        self._open_from, self._open_steps = self._weights.rows, 0
        return index.contiguous()

    def lookup(self, index: Tensor, column: int) -> Matched:
        """The records of one training step.

        Args:
            index: (B, steps) int64 of a batch, rows of what :meth:`close_rollout` gave.
            column: which of its steps.
        """
        here = index[:, column]
        there = self._on_host(index)[:, column] if self.on_cpu else here
        weight, policy_weight, *clip_scale = self._weights.select(here).unbind(1)
        return Matched(
            pred_old=self._select(self._pred, there, index.device),
            z=self._select(self._z, there, index.device) if self._z.rows else None,
            weight=weight,
            policy_weight=policy_weight,
            clip_scale=clip_scale[0] if clip_scale else None,
        )

    def _on_host(self, index: Tensor) -> Tensor:
        """A batch's index in the CPU's memory: copied, and waited for, once for all of its steps."""
        if self._host_index is None or self._host_index[0] is not index:
            self._host_index = (index, index.cpu())  # this also waits for what was recorded
        return self._host_index[1]

    def _select(self, column: _Column, index: Tensor, device: torch.device) -> Tensor:
        rows = column.select(index)
        if not self.on_cpu or device.type != "cuda":
            return rows
        return rows.pin_memory().to(device, non_blocking=True)

    @property
    def open_steps(self) -> int:
        """Steps of the rollout being sampled."""
        return self._open_steps

    @property
    def nbytes(self) -> int:
        """Bytes the tape holds."""
        return self._pred.nbytes + self._z.nbytes + self._weights.nbytes
