"""Metrics of a run: collected on the device without a host sync, reduced once per optimizer step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.losses import as_float64, clip_statistics
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
        log_objective: whether the objective's hinge is on the log ratio (Eq. 3) rather than on ``rho - 1`` (Eq. 2).
        on_cpu: the tensors that are noted lie on a CPU.
    """

    log_objective: bool
    on_cpu: bool = False
    clip_range: float = 0.0
    _columns: dict[str, list[Kept]] = field(default_factory=lambda: defaultdict(list))
    _loss: list[Kept] = field(default_factory=list)
    _divisor: list[float] = field(default_factory=list)
    _kl_loss: list[Kept] = field(default_factory=list)

    def add(self, trained: Trained) -> None:
        """Take note of one backward pass."""
        self.clip_range = trained.clip_range
        columns = {
            "timestep": trained.timestep,
            "log_rho": trained.log_rho,
            "credit": trained.credit,
            "kl": trained.kl,
            "clipped": trained.clipped,
        }
        columns.update({f"advantage{i}": a for i, a in enumerate(trained.advantages)})
        for name, column in columns.items():
            if column is not None:
                self._columns[name].append(self._kept(column))
        self._loss.append(self._kept(trained.loss))
        self._divisor.append(trained.divisor)

    def add_kl(self, kl_loss: Tensor) -> None:
        """Take note of the () KL term of one backward pass, where the trainer has one."""
        self._kl_loss.append(self._kept(kl_loss))

    def _kept(self, x: Tensor) -> Kept:
        return x.tolist() if self.on_cpu else x.detach()

    def clear(self) -> None:
        """Forget what no optimizer step will follow on."""
        for kept in (self._columns, self._loss, self._divisor, self._kl_loss):
            kept.clear()

    def reduce(self, gather: Gather) -> Samples:
        """Everything noted since the last call, from all ranks, on the host."""
        columns = torch.stack([_joined(kept) for kept in self._columns.values()], dim=1)
        # One KL term a loss, or none at all: a second column beside it.
        losses = torch.stack([_joined(c) for c in (self._loss, self._kl_loss) if c], dim=1)
        losses[:, 0] *= losses.new_tensor(self._divisor)
        columns, losses = gather(columns).cpu(), gather(losses).cpu()
        columns = columns[columns[:, 0] != PADDING]
        named = dict(zip(self._columns, columns.unbind(1), strict=True))
        self.clear()
        advantages = [column for name, column in named.items() if name.startswith("advantage")]
        log_rho = named["log_rho"]
        clipped = named.get("clipped", log_rho)
        credit = named.get("credit")
        if credit is None:
            credit = clipped if self.log_objective else torch.expm1(clipped)
        return Samples(
            timestep=named["timestep"],
            log_rho=log_rho,
            clipped=clipped,
            credit=credit,
            kl=named.get("kl", log_rho.new_empty(0)),
            advantages=torch.stack(advantages),
            loss=losses[:, 0],
            kl_loss=losses[:, 1:].flatten(),
            clip_range=self.clip_range,
        )


def _joined(column: Sequence[Kept]) -> Tensor:
    """The (n,) float64 of all that was kept in a column."""
    if isinstance(column[0], Tensor):
        return as_float64(torch.cat([kept.reshape(-1) for kept in column if isinstance(kept, Tensor)]))
    numbers = chain.from_iterable(kept if isinstance(kept, list) else [kept] for kept in column)
    return torch.tensor(list(numbers), dtype=torch.float64)


@dataclass(frozen=True)
class Samples:
    """Sample-timesteps on the host: (n,) float64 columns, and the (m,) losses of their backward passes.

    Attributes:
        timestep, log_rho: (n,), the log ratio of the policy.
        clipped: (n,) what upstream's ratio is the exponential of: the log ratio, but where it has a scale of its own.
        credit: (n,) what the objective's hinge is on.
        kl: (n,) exact KL divergence of the step, or empty where the rollouts recorded nothing.
        advantages: (k, n) of the k losses trained on a step.
        loss: (m,).
        kl_loss: (m,) where the trainer has a KL term, else empty.
        clip_range: ``xi``.
    """

    timestep: Tensor
    log_rho: Tensor
    clipped: Tensor
    credit: Tensor
    kl: Tensor
    advantages: Tensor
    loss: Tensor
    kl_loss: Tensor
    clip_range: float

    @staticmethod
    def concatenate(parts: list[Samples]) -> Samples:
        """Several steps as one."""
        columns = {
            column.name: torch.cat([getattr(part, column.name) for part in parts], dim=-1)
            for column in fields(Samples)
            if column.name != "clip_range"
        }
        return Samples(**columns, clip_range=parts[0].clip_range)

    @property
    def nonfinite(self) -> Tensor:
        """(n,) bool: where the log ratio or the credit is not finite."""
        return ~(torch.isfinite(self.log_rho) & torch.isfinite(self.credit))

    def summary(self) -> dict[str, Any]:
        """The fields of a "step" record; statistics are over the finite log ratios, ``nonfinite`` counts the rest.

        ``ratio_*``, ``fraction_outside``, ``approx_kl`` and ``kl`` are of the policy in every mode, ``credit_*`` and
        ``fraction_masked`` of the objective.
        """
        finite = ~self.nonfinite
        timestep, credit = self.timestep[finite], self.credit[finite]
        stats = clip_statistics(
            self.log_rho[finite], credit, self.advantages[:, finite], self.clip_range, self.clipped[finite]
        )
        outside, masked = stats.outside.double(), stats.masked.double()
        above = outside * (stats.ratio > 1)
        kl = self.kl[finite] if self.kl.numel() else None
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
            "ratio_off": torch.zeros(len(times), dtype=torch.float64)
            .scatter_reduce_(0, row, (stats.ratio - 1).abs(), "amax")
            .flip(0)
            .tolist(),
            **({} if kl is None else {"kl": by_timestep(kl)}),
        }
        return {
            "samples": self.log_rho.numel(),
            "loss": mean(finite_loss),
            "fraction_outside": mean(outside),
            "fraction_above": mean(above),
            "fraction_below": mean(outside - above),
            "fraction_masked": mean(masked),
            **_spread("ratio", stats.ratio),
            **_spread("credit", credit),
            "log_ratio_error_mean": mean(error) if error.numel() else 0.0,
            "log_ratio_error_max": float(error.max()) if error.numel() else 0.0,
            "approx_kl": mean(stats.approx_kl),
            **({} if kl is None else {"kl": mean(kl)}),
            **({"kl_loss": mean(self.kl_loss)} if self.kl_loss.numel() else {}),
            "nonfinite": int(self.nonfinite.sum()) + int((~torch.isfinite(self.loss)).sum()),
            "per_timestep": per_timestep,
        }


def _spread(name: str, x: Tensor) -> dict[str, float | None]:
    """Mean, standard deviation and extremes of (n,) values; None of nothing but for the mean."""
    return {
        f"{name}_mean": mean(x),
        f"{name}_std": mean((x - x.mean()) ** 2) ** 0.5 if x.numel() else None,
        f"{name}_min": float(x.min()) if x.numel() else None,
        f"{name}_max": float(x.max()) if x.numel() else None,
    }


def mean(x: Tensor) -> float:
    """Mean as a Python float; NaN of nothing (written as null)."""
    return float(x.mean()) if x.numel() else math.nan
