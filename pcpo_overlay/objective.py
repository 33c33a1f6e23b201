"""What a step is trained on: its log ratio, by matching or by upstream's log probabilities, and the loss on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay import losses
from pcpo_overlay.config import HookError, PCPOConfig
from pcpo_overlay.tape import INDEX, Matched, Tape


@dataclass(frozen=True)
class Trained:
    """One step of one batch as it was trained.

    Attributes:
        timestep: (B,) what the metrics file it under.
        log_rho: (B,) log ratio of the objective.
        advantage: (B,).
        loss: () as the trainer backpropagates it.
        clip_range: ``xi``.
        divisor: what the trainer divided its loss by.
    """

    timestep: Tensor
    log_rho: Tensor
    advantage: Tensor
    loss: Tensor
    clip_range: float
    divisor: float


class Objective:
    """The steps of a run as they are trained, one after another.

    Args:
        config: mode and options.
        tape: what the rollouts recorded.
        clip_range: the trainer's; None where it comes with every loss.
    """

    def __init__(self, config: PCPOConfig, tape: Tape, clip_range: float | None = None) -> None:
        self.was_computed = False
        self._config = config
        self._tape = tape
        self._clip_range = clip_range
        self._timestep: Tensor | None = None
        self._matched: Matched | None = None
        self._log_rho: Tensor | None = None

    def begin_step(self, sample: dict[str, Any], step: int, timestep: Tensor) -> None:
        """One step of one batch is about to be trained."""
        self._timestep, self._log_rho = timestep, None
        if self._config.matching:
            self._matched = self._tape.lookup(sample[INDEX][:, step])

    def match_step(
        self, pred: Tensor, prev_sample: Tensor | None, *rest: Tensor
    ) -> tuple[Tensor, ...] | None:
        """``(prev_sample, log rho, *rest)`` from the live prediction; None where upstream's step is to run."""
        if prev_sample is None or not self._config.matching or not torch.is_grad_enabled():
            return None
        if self._matched is None:
            raise HookError(
                "a step is trained that no begin_step hook named: the training script is not patched"
            )
        matched, self._matched = self._matched, None
        self._log_rho = losses.log_ratio(pred, matched.pred_old, matched.z, matched.weight)
        return prev_sample, self._log_rho, *rest

    def loss(
        self,
        loss: Tensor,
        log_prob: Tensor,
        log_prob_old: Tensor,
        advantage: Tensor,
        clip_range: float | None,
        divisor: float,
    ) -> Trained:
        """The step as it is trained: the mode's loss, or upstream's in ``observe``."""
        xi = self._clip_range if clip_range is None else clip_range
        if xi is None:
            raise HookError("the trainer gave its clip range neither at the start nor with the loss")
        if self._timestep is None:
            raise HookError("a loss is computed for a step that no begin_step hook named")
        if self._config.matching:
            if self._log_rho is None:
                raise HookError(
                    "the loss is computed, but the patched step function was not run for this step"
                )
            log_rho = self._log_rho
        elif self._config.active:
            log_rho = log_prob - log_prob_old
        else:  # a number for the metrics, not worth a graph
            log_rho = log_prob.detach() - log_prob_old
        if self._config.active:
            loss = losses.log_hinge_loss(log_rho, advantage, xi).mean()
            loss = loss if divisor == 1 else loss / divisor
            self.was_computed = True
        return Trained(self._timestep, log_rho, advantage, loss, xi, divisor)
