"""What an epoch's rewards say beyond their mean: how many groups have no spread, and each reward by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.trainers import Trainer, setting

#: Reward functions of Flow-GRPO give this where they have nothing to judge.
NO_REWARD = -10


class Rewards:
    """The rewards of one epoch after another.

    Args:
        trainer: which script.
        settings: its own.
    """

    def __init__(self, trainer: Trainer, settings: Mapping[str, Any]) -> None:
        self._grouped = trainer.groups is None or bool(setting(settings, trainer.groups))
        size = setting(settings, trainer.group_size) if trainer.group_size else None
        self._size = size if isinstance(size, int) else None
        self._prompts: list[Tensor] = []
        self._named: list[dict[str, Any]] = []

    def clear(self) -> None:
        """A new epoch."""
        self._prompts.clear()
        self._named.clear()

    def note(self, sample: Mapping[str, Any]) -> None:
        """A rollout's samples, as the trainer collects them: (B, tokens) prompts, rewards or what computes them."""
        if isinstance(sample.get("prompt_ids"), Tensor):
            self._prompts.append(sample["prompt_ids"])
        self._named.append({name: value for name, value in sample.items() if name.endswith("rewards")})

    def summary(
        self, rewards: Tensor, device: torch.device, gather: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        """Fields of an epoch's record; every rank asks for them.

        Args:
            rewards: (n,) of all ranks.
            device: where the ranks gather.
            gather: a tensor over the ranks along its first dimension, in the order of ``rewards``.

        Returns:
            ``groups_without_spread``, the share of groups of two and more whose rewards are all equal, where there are
            groups; ``rewards``, the mean by name, where there are several.
        """
        found: dict[str, Any] = {}
        group = self._groups(rewards, gather)
        if group is not None:
            share = without_spread(rewards, group)
            found |= {} if share is None else {"groups_without_spread": share}
        by_name = self._by_name(device, gather)
        if len(by_name) > 1:
            found["rewards"] = by_name
        self.clear()
        return found

    def _groups(self, rewards: Tensor, gather: Callable[[Tensor], Tensor]) -> Tensor | None:
        """(n,) the number of each reward's group; None where that is not known."""
        n = rewards.numel()
        if not self._grouped:
            return torch.zeros(n, dtype=torch.long)
        if self._size:
            return torch.arange(n) // self._size
        if not self._prompts:
            return None
        prompts = gather(torch.cat(self._prompts)).cpu()
        return torch.unique(prompts, dim=0, return_inverse=True)[1] if len(prompts) == n else None

    def _by_name(self, device: torch.device, gather: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means over all ranks of each reward that the trainer has by name."""
        columns: dict[str, list[Tensor]] = {}
        for held in self._named:
            for name, value in held.items():
                # Some compute them in another thread; the trainer has waited for all of them by now.
                value = value.result()[0] if hasattr(value, "result") else value
                named = value if isinstance(value, Mapping) else {name.removesuffix("_rewards"): value}
                for key, values in named.items():
                    values = torch.as_tensor(values, device=device).float().flatten()
                    columns.setdefault(key, []).append(values)
        if len(columns) < 2:
            return {}
        means = {}
        for name, parts in columns.items():
            values = gather(torch.cat(parts)).cpu().double()
            values = values[values != NO_REWARD]
            if values.numel():
                means[name] = float(values.mean())
        return means


def without_spread(rewards: Tensor, group: Tensor) -> float | None:
    """Share of the groups of two and more whose rewards are all equal; None where there is no such group.

    Args:
        rewards: (n,).
        group: (n,) int64, the number of each one's group.
    """
    count = torch.bincount(group)
    high, low = (
        torch.zeros(len(count), dtype=rewards.dtype).scatter_reduce_(
            0, group, rewards, kind, include_self=False
        )
        for kind in ("amax", "amin")
    )
    several = count > 1
    return float((high == low)[several].double().mean()) if bool(several.any()) else None
