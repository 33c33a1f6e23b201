"""The processes of a run on plain ``torch.distributed``, as accelerate's Accelerator shows them.

A session asks an Accelerator for little; trainers without accelerate get the same from here.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class TorchRanks:
    """What a session uses of an Accelerator.

    Args:
        device: the trainer's: an index, as ``torch.cuda.current_device()`` gives it, or what ``torch.device`` takes.
    """

    mixed_precision = "no"  # these trainers autocast by themselves, in sampling and training alike
    sync_gradients = True  # the hook stands where an optimizer step follows
    scaler = None

    def __init__(self, device: int | str | torch.device) -> None:
        self.device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        distributed = dist.is_available() and dist.is_initialized()
        self.num_processes = dist.get_world_size() if distributed else 1
        self.process_index = dist.get_rank() if distributed else 0

    @property
    def is_main_process(self) -> bool:
        return self.process_index == 0

    def gather(self, tensor: Tensor) -> Tensor:
        """(n, ...) of every rank, in rank order, (ranks*n, ...)."""
        if self.num_processes == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.num_processes)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def pad_across_processes(self, tensor: Tensor, dim: int = 0, pad_index: float = 0) -> Tensor:
        """As it is: these trainers train equally many samples on every rank."""
        return tensor


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether each rank holds a part of the gradients only, as under FSDP with more than one process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return False
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    return (
        isinstance(model, FullyShardedDataParallel) and model.sharding_strategy != ShardingStrategy.NO_SHARD
    )


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all ranks, on every rank."""
    dist.all_reduce(values)
    return values
