"""Bit-for-bit comparison of recorded runs, with a message that names the first difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def first_difference(a: Any, b: Any, where: str = "") -> str | None:
    """None where two records are equal bit for bit, else where they first differ and by how much."""
    if type(a) is not type(b):
        return f"{where}: {type(a).__name__} against {type(b).__name__}"
    if isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{where}: {a.dtype} {tuple(a.shape)} against {b.dtype} {tuple(b.shape)}"
        # NaN equals NaN here: the log probability of a deterministic step is one.
        if torch.allclose(a, b, rtol=0, atol=0, equal_nan=True):
            return None
        return f"{where}: differs by up to {(a.double() - b.double()).abs().max():.3g}"
    if isinstance(a, np.ndarray):
        return None if np.array_equal(a, b) and a.dtype == b.dtype else f"{where}: arrays differ"
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{where}: keys {sorted(a.keys() ^ b.keys())} are in one alone"
        return next((d for k in a if (d := first_difference(a[k], b[k], f"{where}[{k!r}]"))), None)
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return f"{where}: {len(a)} against {len(b)} entries"
        pairs = enumerate(zip(a, b, strict=True))
        return next((d for i, (x, y) in pairs if (d := first_difference(x, y, f"{where}[{i}]"))), None)
    return None if a == b else f"{where}: {a!r} against {b!r}"


def relative_distance(a: list[torch.Tensor | None], b: list[torch.Tensor | None]) -> float:
    """``||a - b|| / ||b||`` over lists of gradients in float64."""
    flat_a, flat_b = (torch.cat([g.double().flatten() for g in x if g is not None]) for x in (a, b))
    return float((flat_a - flat_b).norm() / flat_b.norm())
