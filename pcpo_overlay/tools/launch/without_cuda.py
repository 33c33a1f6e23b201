"""Run training scripts where there is no CUDA device: each mapping stands alone and says what needs it.

Upstream's files stay as they are; torch is told from outside. :func:`install` goes before the script's first import. It
changes where tensors live and nothing that is computed, and does so alike for an unpatched and a patched clone. For
miniatures and tests: a real model on a CPU would take years.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch


class CpuAsIndex(str):
    """The device name "cpu" that a format string reads as an index: scripts write ``f"cuda:{current_device()}"``."""

    def __format__(self, spec: str) -> str:
        return "0"


def install() -> None:
    """All mappings; the process has to be one that torchrun started, or have its environment."""
    torch_load()
    module_to()
    autocast()
    process_group()
    cuda_functions()
    pinned_batches()
    fsdp()


def replaced(owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Decorator: put ``wrapper(original, *args, **kwargs)`` in the place of ``owner.name``."""
    original = getattr(owner, name)

    def decorate(wrapper: Callable[..., Any]) -> None:
        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        setattr(owner, name, replacement)

    return decorate


def _cpu_for_cuda(device: Any) -> Any:
    return "cpu" if isinstance(device, (str, torch.device)) and str(device).startswith("cuda") else device


def torch_load() -> None:
    """``map_location="cuda"`` (reward checkpoint, SkyReels' empty prompt) names a device that is not there."""

    @replaced(torch, "load")
    def load(
        original: Callable[..., Any], f: Any, map_location: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        return original(f, _cpu_for_cuda(map_location), *args, **kwargs)


def module_to() -> None:
    """``load_vae`` of the video trainers moves the VAE with ``.to("cuda")``, Bagel its reference with ``device=``."""

    @replaced(torch.nn.Module, "to")
    def to(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs = {name: _cpu_for_cuda(value) for name, value in kwargs.items()}
        return original(self, *map(_cpu_for_cuda, args), **kwargs)


def autocast() -> None:
    """``torch.autocast("cuda")`` is switched off without CUDA, and with it the bfloat16 that upstream computes in."""

    @replaced(torch.autocast, "__init__")
    def init(
        original: Callable[..., Any],
        self: Any,
        device_type: str,
        dtype: torch.dtype | None = None,
        *args: Any,
        **kw: Any,
    ) -> None:
        if device_type == "cuda":  # CUDA's default is float16, a CPU's is not
            device_type, dtype = "cpu", torch.float16 if dtype is None else dtype
        original(self, device_type, dtype, *args, **kw)


def process_group() -> None:
    """NCCL is for GPUs; gloo has the same collectives for tensors in memory, but no average."""
    dist = torch.distributed

    @replaced(dist, "init_process_group")
    def init_process_group(original: Callable[..., Any], backend: Any = None, *args: Any, **kw: Any) -> None:
        original("gloo" if backend == "nccl" else backend, *args, **kw)


def cuda_functions() -> None:
    """The scripts select their rank's GPU, take its index for a device, and count the GPUs for FSDP's ``device_id``."""
    cuda: Any = torch.cuda
    cuda.set_device = lambda device: None
    cuda.current_device = lambda: CpuAsIndex("cpu")
    cuda.device_count = lambda: 1


def float16() -> None:
    """accelerate refuses float16 on a CPU, torch does not: autocast, with torch's own loss scaler for CPUs.

    Not part of :func:`install`: it is for scripts that ask for it, where accelerate is installed.
    """
    from accelerate import Accelerator

    @replaced(Accelerator, "__init__")
    def init(
        original: Callable[..., Any], self: Any, *args: Any, mixed_precision: str | None = None, **kw: Any
    ) -> None:
        original(self, *args, mixed_precision="bf16" if mixed_precision == "fp16" else mixed_precision, **kw)
        if mixed_precision == "fp16":
            self.state._mixed_precision = "fp16"
            self.scaler = torch.amp.GradScaler("cpu")


def accelerated_fsdp() -> None:
    """accelerate shards on accelerators alone, and loads a checkpoint to the device that the script (Bagel's) names.

    Not part of :func:`install`: it is for scripts that shard by accelerate, started with its FSDP variables.
    """
    import accelerate
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    @replaced(AcceleratorState, "__init__")
    def init(original: Callable[..., Any], self: Any, *args: Any, fsdp_plugin: Any = None, **kw: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kw)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # as accelerate does

    @replaced(accelerate, "load_checkpoint_and_dispatch")
    def load(original: Callable[..., Any], model: Any, *args: Any, device_map: Any, **kw: Any) -> Any:
        mapped = {name: _cpu_for_cuda(device) for name, device in device_map.items()}
        return original(model, *args, device_map=mapped, **kw)


def pinned_batches() -> None:
    """Pinning a batch, which needs CUDA, also turns its tuples into lists; the scripts refuse captions in a tuple."""

    def lists(batch: Any) -> Any:
        return [lists(item) for item in batch] if isinstance(batch, (list, tuple)) else batch

    @replaced(torch.utils.data.DataLoader, "__iter__")
    def batches(original: Callable[..., Any], self: Any) -> Iterator[Any]:
        for batch in original(self):
            yield lists(batch) if self.pin_memory else batch


def fsdp() -> None:
    """FSDP1 shards tensors in memory too, but for three things."""
    from torch.distributed.fsdp import FullyShardedDataParallel, _init_utils
    from torch.distributed.fsdp._flat_param import FlatParamHandle

    # An integer device_id (Qwen) means an accelerator, and FSDP has no "cpu:0" (of accelerate).
    @replaced(FullyShardedDataParallel, "__init__")
    def init(
        original: Callable[..., Any], self: Any, *args: Any, device_id: Any = None, **kwargs: Any
    ) -> None:
        device_id = None if device_id is None else torch.device("cpu")
        original(self, *args, device_id=device_id, **kwargs)

    # sync_module_states (LoRA) refuses CPU parameters, for which NCCL has no broadcast; gloo has.
    _init_utils._check_module_states_for_sync_module_states = lambda module_states: None
    # Offloading a full state dict (EMA, checkpoints) frees what it copied from: here that is the copy.
    handle: Any = FlatParamHandle
    handle.to_cpu = lambda self: contextlib.nullcontext()
