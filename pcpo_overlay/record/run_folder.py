"""The folder a run leaves behind: ``run.json`` (what ran) and ``metrics.jsonl`` (what happened)."""

from __future__ import annotations

import datetime
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from pcpo_overlay.config import PCPOError

FORMAT = 1
#: Environment variable that names the folder; the default is ``pcpo_runs/<utc>-<upstream>-<mode>``.
VARIABLE = "PCPO_RUN_DIR"
METRICS = "metrics.jsonl"
#: Where the records go that a resumed run repeats.
SUPERSEDED = "metrics.superseded.jsonl"


class RunFolder:
    """Writes the run folder; only rank 0 makes one.

    Raises:
        PCPOError: the folder holds another run already, and this one does not resume it, or it cannot be written.
    """

    def __init__(self, path: Path, run: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        self.run = {"format": FORMAT, **run, "started": utc_now(), "finished": None, "status": "running"}
        try:
            path.mkdir(parents=True, exist_ok=True)
            if (path / METRICS).exists() and not resume:
                raise PCPOError(
                    f"{path} already holds the metrics of a run; set {VARIABLE} to another folder, or resume it"
                )
            self._metrics = (path / METRICS).open("a", encoding="utf-8")
            self.write_run()
        except OSError as error:
            raise PCPOError(
                f"the run folder {path} cannot be written: {error}; set {VARIABLE} to another"
            ) from error

    def write_run(self, **updates: Any) -> None:
        """Write ``run.json`` with these fields changed, atomically."""
        self.run.update(updates)
        partial = self.path / ".run.json.partial"
        partial.write_text(json.dumps(jsonable(self.run), indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path / "run.json")

    def append(self, record: dict[str, Any]) -> None:
        """Append one record to ``metrics.jsonl`` and flush it, so that a killed run keeps what it had."""
        self._metrics.write(json.dumps(jsonable(record)) + "\n")
        self._metrics.flush()

    def rewind(self, epoch: int) -> None:
        """Set aside the records from ``epoch`` on, which a resumed run is about to repeat; none is deleted."""
        path = self.path / METRICS
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept: list[str] = []
        repeated: list[str] = []
        for line in lines:
            try:
                is_kept = json.loads(line)["epoch"] < epoch
            except (ValueError, KeyError):  # the line a kill cut short
                is_kept = False
            (kept if is_kept else repeated).append(line)
        if not repeated:
            return
        with (self.path / SUPERSEDED).open("a", encoding="utf-8") as aside:
            aside.writelines(line if line.endswith("\n") else line + "\n" for line in repeated)
        self._metrics.close()
        partial = self.path / f".{METRICS}.partial"
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
        self._metrics = path.open("a", encoding="utf-8")

    def finish(self) -> None:
        """Mark the run as finished."""
        self.write_run(finished=utc_now(), status="finished")
        self._metrics.close()


def default_path(upstream: str, mode: str) -> Path:
    """``PCPO_RUN_DIR``, or ``pcpo_runs/<utc>-<upstream>-<mode>`` under the current directory."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser()
    base = (
        Path("pcpo_runs") / f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}-{upstream}-{mode}"
    )
    path, n = base, 1
    while path.exists():  # two runs started within one second
        n += 1
        path = base.with_name(f"{base.name}-{n}")
    return path


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes: of the allocator on a GPU, of the resident process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on this platform
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def jsonable(value: Any) -> Any:
    """``value`` as strict JSON takes it: non-finite numbers become null, unknown objects their ``str``."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
