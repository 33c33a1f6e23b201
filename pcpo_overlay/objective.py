"""What a step is trained on: its log ratio, by matching or by upstream's log probabilities, and the loss on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay import losses
from pcpo_overlay.config import HookError, PCPOConfig
from pcpo_overlay.tape import INDEX, Matched, Tape


@dataclass(frozen=True)
class Trained:
    """One step of one batch as it was trained; nothing here carries a graph.

    Attributes:
        timestep: (B,) what the metrics file it under.
        log_rho: (B,) log ratio of the live and the rollout's policy.
        clipped: (B,) what upstream's ratio is the exponential of, where that is not the policy's log ratio; else None.
        credit: (B,) what the objective's hinge is on, where that is not a function of the log ratio; else None.
        kl: (B,) KL divergence of the two policies' step; None where the rollout recorded nothing.
        advantages: (B,) of each loss that is trained on this step.
        loss: () as the trainer backpropagates it.
        clip_range: ``xi``.
        divisor: what the trainer divided its loss by.
    """

    timestep: Tensor
    log_rho: Tensor
    advantages: list[Tensor]
    loss: Tensor
    clip_range: float
    divisor: float = 1
    credit: Tensor | None = None
    kl: Tensor | None = None
    clipped: Tensor | None = None


class Objective:
    """The steps of a run as they are trained, one after another.

    Args:
        config: mode and options.
        tape: what the rollouts recorded.
        clip_range: the trainer's; None where it comes with every loss.
        loss_weights: what the trainer weights the losses of one step with before it adds them up.
    """

    def __init__(
        self,
        config: PCPOConfig,
        tape: Tape,
        clip_range: float | None = None,
        loss_weights: tuple[float, ...] = (1.0,),
    ) -> None:
        self.was_computed = False
        self._config = config
        self._tape = tape
        self._clip_range = clip_range
        self._loss_weights = loss_weights
        self._timestep: Tensor | None = None
        self._recorded: Matched | None = None
        self._match: losses.Match | None = None
        self._kl: Tensor | None = None
        self._clip_scale: Tensor | None = None
        self._losses: list[tuple[Tensor, Tensor]] = []

    def begin_step(self, sample: dict[str, Any], step: int, timestep: Tensor) -> None:
        """One step of one batch is about to be trained."""
        self._timestep, self._match, self._kl, self._recorded = timestep, None, None, None
        self._clip_scale = None
        self._losses.clear()
        if self._config.matching and INDEX not in sample:
            raise HookError("the samples have lost their place on the tape (pcpo_index)")
        if INDEX in sample:
            self._recorded = self._tape.lookup(sample[INDEX], step)
            self._clip_scale = self._recorded.clip_scale

    def match_step(
        self, pred: Tensor, prev_sample: Tensor | None, *rest: Tensor
    ) -> tuple[Tensor, ...] | None:
        """``(prev_sample, log rho, *rest)`` from the live prediction; None where upstream's step is to run.

        The log ratio is the policy's, so what upstream logs of it means what it means without PCPO. It carries no
        graph: the loss hook puts the objective in the place of upstream's.
        """
        if prev_sample is None or not torch.is_grad_enabled():
            return None
        recorded, self._recorded = self._recorded, None
        if not self._config.matching:
            if recorded is not None:
                self._kl = losses.kl_divergence(pred, recorded.pred_old, recorded.policy_weight)
            return None
        if recorded is None or recorded.z is None:
            raise HookError(
                "a step is trained that no begin_step hook named: the training script is not patched"
            )
        # With native weights the objective is on what upstream's is: the policy's log ratio, on upstream's scale.
        native = self._config.weights == "native"
        weight = recorded.policy_weight if native else recorded.weight
        match = losses.match(pred, recorded.pred_old, recorded.z, weight, recorded.policy_weight)
        if native and recorded.clip_scale is not None:
            match = replace(match, credit=match.credit * recorded.clip_scale)
        self._match, self._kl = match, match.kl
        return prev_sample, self._scaled(match.log_rho), *rest

    def _scaled(self, log_rho: Tensor) -> Tensor:
        """(B,) what upstream's ratio is the exponential of, from the policy's log ratio."""
        return log_rho if self._clip_scale is None else log_rho * self._clip_scale

    def loss(
        self,
        loss: Tensor,
        log_prob: Tensor,
        log_prob_old: Tensor,
        advantage: Tensor,
        clip_range: float | None,
        divisor: float,
        ratio: Tensor | None = None,
    ) -> tuple[Tensor, Trained | None]:
        """The mode's loss, or upstream's in ``observe``; and the step as it was trained, with its last loss.

        ``ratio`` (B,) is what upstream clips, where that is not the exponential of the difference of log probabilities.
        """
        xi = self._clip_range if clip_range is None else clip_range
        if xi is None:
            raise HookError("the trainer gave its clip range neither at the start nor with the loss")
        if self._timestep is None:
            raise HookError("a loss is computed for a step that no begin_step hook named")
        if self._config.matching and self._match is None:
            raise HookError("the loss is computed, but the patched step function was not run for this step")
        exponent = log_prob - log_prob_old
        if self._config.active:
            on = exponent if self._match is None else self._match.credit
            loss = losses.log_hinge_loss(on, advantage, xi).mean()
            loss = loss if divisor == 1 else loss / divisor
            self.was_computed = True
        self._losses.append((loss.detach(), advantage))
        if len(self._losses) < len(self._loss_weights):
            return loss, None
        trained = [
            pair for pair, weight in zip(self._losses, self._loss_weights, strict=True) if weight
        ] or self._losses
        clipped = log_rho = exponent.detach()
        if self._match is not None:
            log_rho = self._match.log_rho
        elif self._clip_scale is not None:
            log_rho = clipped / self._clip_scale
        if ratio is not None:
            clipped = ratio.detach().log()
        return loss, Trained(
            timestep=self._timestep,
            log_rho=log_rho,
            advantages=[advantage for _, advantage in trained],
            loss=self._sum(),
            clip_range=xi,
            divisor=divisor,
            credit=None if self._match is None else self._match.credit.detach(),
            kl=self._kl,
            clipped=None if ratio is None and self._clip_scale is None else clipped,
        )

    def _sum(self) -> Tensor:
        """() the losses of the step as the trainer adds them up."""
        if len(self._losses) == 1 and self._loss_weights == (1.0,):
            return self._losses[0][0]
        weighted = [w * loss for w, (loss, _) in zip(self._loss_weights, self._losses, strict=True)]
        return torch.stack(weighted).sum()
