"""What PCPO adds to the start of a script, and how long `apply.py` takes."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring.clones import why_out_of_reach
from benchmarks.measuring.pairs import alternate, ratio_of
from benchmarks.measuring.tables import Section, seconds
from pcpo_overlay.vendoring import lockfile

IMPORTS = {"torch": "import torch", "with PCPO": "import torch, pcpo_overlay, pcpo_overlay.hooks"}
APPLY_S = 600


def imports(root: Path, repeats: int, rng: random.Random) -> Section:
    """Import times in fresh processes, in turn."""
    environment = {**os.environ, "PYTHONPATH": str(root)}

    def timer(statement: str) -> Callable[[], float]:
        code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"

        def timed() -> float:
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
            )
            return float(done.stdout)

        return timed

    arms = {name: timer(statement) for name, statement in IMPORTS.items()}
    arms["beyond torch"] = timer("import torch; t = time.perf_counter(); import pcpo_overlay.hooks")
    for run in arms.values():
        run()  # byte code is compiled once
    times = alternate(arms, repeats, rng)
    section = Section("Import time, in fresh processes", ("what", "seconds, median"))
    for name, label in (("torch", IMPORTS["torch"]), ("with PCPO", IMPORTS["with PCPO"])):
        section.rows.append((f"`{label}`", seconds(statistics.median(times[name]))))
    section.rows.append(("the overlay's part of it", seconds(statistics.median(times["beyond torch"]))))
    ratio = ratio_of(times["with PCPO"], times["torch"])
    section.notes.append(f"With the overlay against torch alone, process by process: {ratio}.")
    section.values.append({"seconds": times, "ratio": vars(ratio)})
    return section


def apply(root: Path, mirror: Path | None) -> Section:
    """`python apply.py NAME` into an empty folder, and once more; a line for each upstream that cannot be reached."""
    section = Section(
        "`apply.py`: clone at the pin and patch, into an empty folder",
        ("upstream", "clone and patch", "again, nothing to do"),
    )
    lock = lockfile.load(root / "vendor.lock")
    given = str(mirror) if mirror else os.environ.get("PCPO_MIRROR")
    for upstream in lock.upstreams:
        why = why_out_of_reach(upstream.name, upstream.url, given)
        if why is not None and not given:
            why += "; give --mirror"
        if why is None:
            with tempfile.TemporaryDirectory(prefix="pcpo-apply-") as dest:
                command = [sys.executable, str(root / "apply.py"), upstream.name, "--dest", dest]
                command += ["--mirror", given] if given else []
                times = []
                for _ in range(2):
                    begun = time.perf_counter()
                    why = _run(command, root)
                    times.append(time.perf_counter() - begun)
                    if why is not None:
                        break
        if why is not None:
            section.notes.append(f"{upstream.name} was not measured: {why}.")
            continue
        section.rows.append((upstream.name, *map(seconds, times)))
        section.values.append({"upstream": upstream.name, "seconds": times})
    section.notes.append(
        f"From {'the mirror given' if given else 'where git finds the addresses of the lock'}."
    )
    return section


def _run(command: list[str], root: Path) -> str | None:
    try:
        done = subprocess.run(
            command,
            cwd=root,
            capture_output=True,
            text=True,
            timeout=APPLY_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {APPLY_S} s"
    return None if done.returncode == 0 else f"exit code {done.returncode}: {_last(done.stderr)}"


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
