"""Is every policy ratio exactly 1 before the first update, on this card?"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.gpu.part import Part, watched
from benchmarks.measuring import ratios
from benchmarks.measuring.machine import cores
from benchmarks.measuring.miniature_run import Miniatures

#: Seconds that the modes of a setting need at the least.
NEEDED = 60


def run(part: Part) -> None:
    """Every trainer with a miniature, in each precision that it has."""
    settings = ratios.SETTINGS[:1] if part.tiny else ratios.SETTINGS
    # The runs share the card; each keeps a core or two busy.
    jobs = max(1, min(4, cores() // 2))
    with tempfile.TemporaryDirectory(prefix="pcpo-gpu-") as scratch:
        for n, setting in enumerate(settings):
            what = {"trainer": setting.upstream, "dtype": setting.dtype, "network": setting.network}
            if not part.has(NEEDED, **what):
                continue
            with watched(part, **what):
                made = Miniatures(part.vendor, Path(scratch) / str(n))
                made.scratch.mkdir()
                for mode, found in ratios.measure(made, [setting], jobs)[setting].items():
                    largest = float(torch.expm1(found.log_rho).abs().max())
                    part.keep(
                        **what,
                        mode=mode,
                        largest=largest,
                        outside=float(found.outside.double().mean()),
                        masked=float(found.masked.double().mean()),
                        wrong=setting.is_exact(mode) and largest != 0,
                    )
