"""What DanceGRPO's trainers need of torch before 2.11."""

from __future__ import annotations

from typing import Any


def install() -> None:
    """Since torch 2.11 pinning a batch no longer makes lists of its tuples; DanceGRPO refuses captions in a tuple."""
    from torch.utils.data._utils import pin_memory as pinning

    pin = pinning.pin_memory
    if isinstance(pin(("",)), list):
        return

    def pin_memory(data: Any, device: Any = None) -> Any:
        pinned = pin(data, device)
        return list(pinned) if type(pinned) is tuple else pinned

    pinning.pin_memory = pin_memory
