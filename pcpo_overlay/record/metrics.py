"""Metrics of a run: collected on the device without a host sync, reduced once per optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.losses import clip_statistics
from pcpo_overlay.objective import Trained

#: Gathers a tensor over the ranks along its first dimension; shorter ranks are padded with :data:`PADDING`.
Gather = Callable[[Tensor], Tensor]
#: No timestep is negative.
PADDING = -1.0
#: What is kept of a tensor, (B,) or (): itself, or its numbers.
Kept = Tensor | list[float] | float


@dataclass
class StepMetrics:
    """Sample-timesteps seen since the last optimizer step.

    On a GPU ``add`` keeps references to detached tensors, and ``reduce`` moves everything to the host in one transfer.
    On a CPU it keeps numbers: small tensors that outlive a pass lie between its large ones, and then the allocator
    asks the system for new memory where it would have used the same again, up to a quarter of a loss step.

    Attributes:
        on_cpu: the tensors that are noted lie on a CPU.
    """

    log_objective: bool
    on_cpu: bool = False
    clip_range: float = 0.0
    _log_rho: list[Kept] = field(default_factory=list)
    _advantage: list[Kept] = field(default_factory=list)
    _timestep: list[Kept] = field(default_factory=list)
    _loss: list[Kept] = field(default_factory=list)
    _divisor: list[float] = field(default_factory=list)
    _kl: list[Kept] = field(default_factory=list)

    def add(self, trained: Trained) -> None:
        """Take note of one backward pass."""
        self.clip_range = trained.clip_range
        self._timestep.append(self._kept(trained.timestep))
        self._log_rho.append(self._kept(trained.log_rho))
        self._advantage.append(self._kept(trained.advantage))
        self._loss.append(self._kept(trained.loss))
        self._divisor.append(trained.divisor)

    def add_kl(self, kl_loss: Tensor) -> None:
        """Take note of the () KL term of one backward pass, where the trainer has one."""
        self._kl.append(self._kept(kl_loss))

    def _kept(self, x: Tensor) -> Kept:
        return x.tolist() if self.on_cpu else x.detach()

    def reduce(self, gather: Gather) -> Samples:
        """Everything noted since the last call, from all ranks, on the host."""
        columns = torch.stack([_joined(c) for c in (self._timestep, self._log_rho, self._advantage)], dim=1)
        # One KL term a loss, or none at all: a second column beside it.
        losses = torch.stack([_joined(c) for c in (self._loss, self._kl) if c], dim=1)
        losses[:, 0] *= losses.new_tensor(self._divisor)
        columns, losses = gather(columns).cpu(), gather(losses).cpu()
        columns = columns[columns[:, 0] != PADDING]
        self._timestep, self._log_rho, self._advantage = [], [], []
        self._loss, self._divisor, self._kl = [], [], []
        return Samples(
            columns[:, 0],
            columns[:, 1],
            columns[:, 2],
            losses[:, 0],
            losses[:, 1:].flatten(),
            self.clip_range,
            self.log_objective,
        )


def _joined(column: Sequence[Kept]) -> Tensor:
    """The (n,) float64 of all that was kept in a column."""
    if isinstance(column[0], Tensor):
        return torch.cat([kept.reshape(-1) for kept in column if isinstance(kept, Tensor)]).double()
    numbers = chain.from_iterable(kept if isinstance(kept, list) else [kept] for kept in column)
    return torch.tensor(list(numbers), dtype=torch.float64)


@dataclass(frozen=True)
class Samples:
    """Sample-timesteps on the host: (n,) float64 columns, and the (m,) losses of their backward passes.

    ``kl_loss`` is (m,) too where the trainer has a KL term, else empty.
    """

    timestep: Tensor
    log_rho: Tensor
    advantage: Tensor
    loss: Tensor
    kl_loss: Tensor
    clip_range: float
    log_objective: bool

    @staticmethod
    def concatenate(parts: list[Samples]) -> Samples:
        """Several steps as one."""
        timestep, log_rho, advantage, loss, kl_loss = (
            torch.cat([getattr(p, c) for p in parts])
            for c in ("timestep", "log_rho", "advantage", "loss", "kl_loss")
        )
        first = parts[0]
        return Samples(timestep, log_rho, advantage, loss, kl_loss, first.clip_range, first.log_objective)

    @property
    def nonfinite(self) -> Tensor:
        """(n,) bool: where the log ratio is not finite."""
        return ~torch.isfinite(self.log_rho)

    def summary(self) -> dict[str, Any]:
        """The fields of a "step" record; statistics are over the finite log ratios, ``nonfinite`` counts the rest."""
        finite = ~self.nonfinite
        timestep, log_rho, advantage = self.timestep[finite], self.log_rho[finite], self.advantage[finite]
        stats = clip_statistics(log_rho, advantage, self.clip_range, log_objective=self.log_objective)
        outside, masked = stats.outside.double(), stats.masked.double()
        finite_loss = self.loss[torch.isfinite(self.loss)]
        # Where rho is 1 there is no relative error to speak of.
        error = stats.log_ratio_error[stats.ratio != 1]

        times, row = torch.unique(timestep, return_inverse=True)
        count = torch.bincount(row, minlength=len(times))

        def by_timestep(x: Tensor) -> list[float]:
            sums = torch.zeros(len(times), dtype=x.dtype).index_add_(0, row, x)
            return (sums / count).flip(0).tolist()

        per_timestep = {
            "timestep": [int(t) if t.is_integer() else t for t in times.flip(0).tolist()],
            "count": count.flip(0).tolist(),
            "fraction_outside": by_timestep(outside),
            "fraction_masked": by_timestep(masked),
            "ratio_mean": by_timestep(stats.ratio),
        }
        return {
            "samples": self.log_rho.numel(),
            "loss": mean(finite_loss),
            "fraction_outside": mean(outside),
            "fraction_masked": mean(masked),
            "ratio_mean": mean(stats.ratio),
            "ratio_std": mean((stats.ratio - stats.ratio.mean()) ** 2) ** 0.5 if log_rho.numel() else None,
            "ratio_min": float(stats.ratio.min()) if log_rho.numel() else None,
            "ratio_max": float(stats.ratio.max()) if log_rho.numel() else None,
            "log_ratio_error_mean": mean(error) if error.numel() else 0.0,
            "log_ratio_error_max": float(error.max()) if error.numel() else 0.0,
            "approx_kl": mean(stats.approx_kl),
            **({"kl_loss": mean(self.kl_loss)} if self.kl_loss.numel() else {}),
            "nonfinite": int(self.nonfinite.sum()) + int((~torch.isfinite(self.loss)).sum()),
            "per_timestep": per_timestep,
        }


def mean(x: Tensor) -> float:
    """Mean as a Python float; NaN of nothing (written as null)."""
    return float(x.mean()) if x.numel() else math.nan
