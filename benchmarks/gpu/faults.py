"""Do DanceGRPO's FLUX trainers end in an illegal memory access, or in NaN, in which modes, and where?"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.gpu.part import Part
from benchmarks.measuring.miniature_run import LOG, Miniatures, Run
from benchmarks.measuring.training import SHORT
from pcpo_overlay.tools.ab.plan import Planned
from pcpo_overlay.tools.ab.upstreams import UPSTREAMS, Upstream

TRAINERS = ("dancegrpo_flux", "dancegrpo_flux_lora")
MODES = ("off", "observe", "log", "match", "full")
#: What a dry run starts in place of every mode of each.
TINY = tuple(zip(TRAINERS, ("off", "full"), strict=True))
EPOCHS = 3
#: Seconds that a run needs at the least to be worth its start.
NEEDED = 60
#: Bytes of a log's end that are kept: the stack at the fault is there.
END = 6000
#: What the trainers print of a loss that is no number.
NOT_A_NUMBER = "final loss nan"
#: So that the stack is that of the call that failed.
BLOCKING = {"CUDA_LAUNCH_BLOCKING": "1"}


def run(part: Part) -> None:
    """Every mode of both trainers; the first that fails again without cuDNN's attention, and under memcheck."""
    failed: tuple[Upstream, str] | None = None
    with tempfile.TemporaryDirectory(prefix="pcpo-gpu-") as scratch:
        make = Miniatures(part.vendor, Path(scratch))
        for name, mode in TINY if part.tiny else product(TRAINERS, MODES):
            sound = _one(part, make, UPSTREAMS[name], mode, "as it is")
            if sound is False and failed is None:
                failed = (UPSTREAMS[name], mode)
        if failed is None:
            return
        _one(part, make, *failed, "without cuDNN's attention", before=[str(_without_cudnn())])
        memcheck = shutil.which("compute-sanitizer")
        if memcheck is None:
            part.keep(what="memcheck", skipped="there is no compute-sanitizer on this machine")
            return
        _one(
            part,
            make,
            *failed,
            "under memcheck",
            wrapper=[memcheck, "--tool", "memcheck", "--target-processes", "all"],
        )


def _without_cudnn() -> Path:
    return Path(__file__).with_name("without_cudnn_attention.py")


def _one(
    part: Part,
    make: Miniatures,
    upstream: Upstream,
    mode: str,
    how: str,
    before: Sequence[str] = (),
    wrapper: Sequence[str] = (),
    environment: Mapping[str, str] = BLOCKING,
) -> bool | None:
    """Run once and keep a line of it.

    Returns:
        whether it ended as it should, with losses that are numbers; None where it was not run to its end.
    """
    what = {"trainer": upstream.name, "mode": mode, "how": how}
    if not part.has(NEEDED, **what):
        return None
    planned = make.plan(
        upstream,
        mode,
        f"{upstream.name}-{mode}-{how}".replace(" ", "-").replace("'", ""),
        before=before,
        overrides=SHORT[upstream.name],
        epochs=1 if part.tiny else EPOCHS,
    )
    planned = replace(planned, command=[*wrapper, *planned.command])
    begun = time.monotonic()
    with ExitStack() as stack:
        started = Run(upstream.name, planned, stack, environment)
        try:
            code = started.process.wait(timeout=max(1.0, part.left))
        except subprocess.TimeoutExpired:
            part.keep(**what, skipped="the part's time was up while it ran", **_said(planned))
            return None
    said = _said(planned)
    part.keep(**what, exit_code=code, seconds=round(time.monotonic() - begun, 1), **said)
    return code == 0 and not said["nan_losses"]


def _said(planned: Planned) -> dict[str, Any]:
    """How many losses in a run's log are no numbers, and its end."""
    log = (planned.folder / LOG).read_text(errors="replace")
    return {"nan_losses": log.count(NOT_A_NUMBER), "end": log[-END:]}
