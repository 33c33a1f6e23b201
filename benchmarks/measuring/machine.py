"""The head of a report: what was measured on, when, and with what."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Any

import torch

from pcpo_overlay.record import provenance
from pcpo_overlay.record.run_folder import utc_now


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1


def command_line() -> list[str]:
    """The words after Python as they were typed: a module by its name, not by where it lies."""
    spec = sys.modules["__main__"].__spec__
    start = sys.argv[:1] if spec is None else ["-m", spec.name.removesuffix(".__main__")]
    return [*start, *sys.argv[1:]]


def describe(seed: int, clock: str = "wall") -> dict[str, Any]:
    """Machine, date, versions and seed as plain values; ``clock`` is what tells seconds on a CPU."""
    on = device()
    return {
        "command": shlex.join(["python", *command_line()]),
        "date": utc_now(),
        **provenance.hardware(on, 1),
        "cores": cores(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": provenance.versions(),
        "seed": seed,
        "clock": clock,
    }


def header(described: dict[str, Any]) -> str:
    """The same for a reader."""
    clock = {"wall": "the wall's clock", "process": "the process's own time"}[described["clock"]]
    on = "GPU, timed with CUDA events" if described["device"] == "cuda" else f"CPU (no CUDA device), {clock}"
    versions = ", ".join(f"{name} {version}" for name, version in described["versions"].items())
    load = "unknown" if described["load"] is None else f"{described['load']:.1f}"
    return "\n".join(
        [
            f"- command: `{described['command']}`, {described['date']}, seed {described['seed']}",
            f"- machine: {described['name']}; measured on the {on}",
            f"- {described['cores']} cores, {described['threads']} threads, load {load} at the start; "
            f"{described['platform']}",
            f"- {versions}",
        ]
    )
