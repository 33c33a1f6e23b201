"""The processes of a run on plain ``torch.distributed``, as accelerate's Accelerator shows them.

A session asks an Accelerator for little; trainers without accelerate get the same from here.
"""

from __future__ import annotations

import datetime
import itertools
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pcpo_overlay.config import PCPOError


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


@dataclass(frozen=True)
class Shards:
    """How the gradients of a model lie in parts on the ranks, as under FSDP.

    Attributes:
        group: the processes that hold the parts of one model; with replicas (HYBRID_SHARD) those of one of them.
        device: where collectives of that group take place, which with offloaded parameters is not where they lie.
    """

    group: dist.ProcessGroup
    device: torch.device

    @staticmethod
    def of(model: torch.nn.Module) -> Shards | None:
        """None where every rank holds whole gradients."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return None
        from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

        if (
            not isinstance(model, FullyShardedDataParallel)
            or model.sharding_strategy == ShardingStrategy.NO_SHARD
        ):
            return None
        assert model.process_group is not None and model.compute_device is not None  # of every wrapped module
        return Shards(model.process_group, model.compute_device)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the parts of one model, on every rank."""
        values = values.to(self.device)
        dist.all_reduce(values, group=self.group)
        return values


_calls = itertools.count()
#: How long a rank waits for the others to say their mode; they load the same model before.
AGREE_WITHIN = datetime.timedelta(minutes=10)


def agree(mode: str, required: bool) -> None:
    """Let every rank know every other's mode, through the process group's store: an ``off`` rank takes part too.

    Args:
        mode: of this rank, with its options.
        required: whether a rank that says nothing is a fault: it runs a script that is not patched. A baseline goes on.

    Raises:
        PCPOError: the ranks' modes differ; the message names the ranks of each.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    store, me = dist.distributed_c10d._get_default_store(), dist.get_rank()
    call = f"pcpo/{next(_calls)}"
    store.set(f"{call}/mode/{me}", mode)
    modes: dict[str, list[int]] = {}
    silent = []
    deadline = time.monotonic() + AGREE_WITHIN.total_seconds()
    for rank in range(dist.get_world_size()):
        if _is_set(store, f"{call}/mode/{rank}", deadline):
            modes.setdefault(store.get(f"{call}/mode/{rank}").decode(), []).append(rank)
        else:
            silent.append(rank)
    if len(modes) > 1 or (silent and required):
        # The store may live in rank 0's process, which is about to end.
        store.set(f"{call}/read/{me}", "")
        for rank in range(dist.get_world_size() if me == 0 else 0):
            _is_set(store, f"{call}/read/{rank}", time.monotonic() + 5)
    if silent and required:
        raise PCPOError(
            f"{_named(silent)} said no PCPO mode within {AGREE_WITHIN}: the script there is not patched; run "
            "`python apply.py` on every node"
        )
    if len(modes) > 1:
        told = "; ".join(f"{mode} on {_named(where)}" for mode, where in modes.items())
        raise PCPOError(f"the ranks run different modes: {told}; set PCPO (or --pcpo) alike on every node")


def _is_set(store: dist.Store, key: str, deadline: float) -> bool:
    try:
        store.wait([key], datetime.timedelta(seconds=max(deadline - time.monotonic(), 0.1)))
    except RuntimeError:  # the store's word for too long
        return False
    return True


def _named(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
