"""The folder a run leaves behind: ``run.json`` (what ran) and ``metrics.jsonl`` (what happened)."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import itertools
import json
import math
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pcpo_overlay.config import TELLING, PCPOError
from pcpo_overlay.files import write_atomically
from pcpo_overlay.messages import say

FORMAT = 1
#: Environment variable that names the folder; the default is ``pcpo_runs/<utc>-<upstream>-<mode>``.
VARIABLE = "PCPO_RUN_DIR"
RUN = "run.json"
METRICS = "metrics.jsonl"
#: Where the records go that a resumed run repeats.
SUPERSEDED = "metrics.superseded.jsonl"


#: What a resumed run must have in common with what its folder holds.
_SAME = ("upstream", "mode", "pcpo", "clip_range")


class RunFolder:
    """Writes the run folder; only rank 0 makes one.

    Refusing is for the start. Afterwards a write that fails (full disk, stale mount) is said once and ends the
    recording, never the training.

    Args:
        path: the folder; None for a new one under ``pcpo_runs``, or what :data:`VARIABLE` names.
        run: what ``run.json`` says of the run; fields of the run itself are added.
        resume: whether the run goes on from a checkpoint, in a folder that may hold its earlier part.

    Raises:
        PCPOError: the folder holds another run already, and this one does not resume it, or it cannot be written.
    """

    def __init__(self, path: Path | None, run: dict[str, Any], *, resume: bool) -> None:
        given = os.environ.get(VARIABLE)
        self.is_recording = True
        try:
            if path is None and not given:
                path = _new_folder(str(run["upstream"]), str(run["mode"]))
            self.path = (Path(given or "").expanduser() if path is None else path).absolute()
            self.path.mkdir(parents=True, exist_ok=True)
            earlier = self._earlier(run, resume)
            start: dict[str, Any] = {
                "time": utc_now(),
                "pid": os.getpid(),
                "host": socket.gethostname(),
                **{name: run[name] for name in ("argv", "versions", "hardware", "clone") if name in run},
            }
            self.run = {
                "format": FORMAT,
                **run,
                "started": earlier.get("started", start["time"]),
                "finished": None,
                "status": "running",
                "starts": [*earlier.get("starts", []), start],
            }
            self._metrics = (self.path / METRICS).open("a", encoding="utf-8")
            self._write_run()
        except OSError as error:
            raise PCPOError(
                f"the run folder {path or given} cannot be written: {error}; set {VARIABLE} to another"
            ) from error

    def _earlier(self, run: dict[str, Any], resume: bool) -> dict[str, Any]:
        """``run.json`` of the run that this one resumes; empty where there is none."""
        if not (self.path / METRICS).exists():
            return {}
        if not resume:
            raise PCPOError(
                f"{self.path} already holds the metrics of a run; set {VARIABLE} to another folder, or resume it"
            )
        try:
            earlier = json.loads((self.path / RUN).read_text(encoding="utf-8"))
            if not isinstance(earlier, dict):
                raise ValueError("it holds no object")
        except (ValueError, RecursionError, FileNotFoundError) as error:
            raise PCPOError(
                f"{self.path / RUN} cannot be read ({error}), so this run cannot go on there; set {VARIABLE} to another"
            ) from None
        for name in _SAME:
            before, now = _computed(earlier.get(name)), _computed(jsonable(run.get(name)))
            # A clip range that comes with the loss is not known yet.
            if before != now and not (name == "clip_range" and None in (before, now)):
                raise PCPOError(
                    f"{self.path} holds a run with {name} {before}, and this one has {now}: they are not one run; set "
                    f"{VARIABLE} to another folder, or resume with the same settings"
                )
        return earlier

    def write_run(self, **updates: Any) -> None:
        """Write ``run.json`` with these fields changed, atomically."""
        self.run.update(updates)
        self._guarded(self._write_run)

    def _write_run(self) -> None:
        write_atomically(self.path / RUN, json.dumps(jsonable(self.run), indent=1) + "\n")

    def append(self, record: dict[str, Any]) -> None:
        """Append one record to ``metrics.jsonl`` and flush it, so that a killed run keeps what it had."""

        def write() -> None:
            self._metrics.write(json.dumps(jsonable(record)) + "\n")
            self._metrics.flush()

        self._guarded(write)

    def rewind(self, epoch: int) -> None:
        """Set aside the records from ``epoch`` on, which a resumed run is about to repeat; none is deleted."""
        self._guarded(lambda: self._rewind(epoch))

    def _rewind(self, epoch: int) -> None:
        path = self.path / METRICS
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept: list[str] = []
        repeated: list[str] = []
        for line in lines:
            try:
                is_kept = json.loads(line)["epoch"] < epoch
            except (ValueError, KeyError, TypeError):  # the line a kill cut short
                is_kept = False
            (kept if is_kept else repeated).append(line)
        if not repeated:
            return
        with (self.path / SUPERSEDED).open("a", encoding="utf-8") as aside:
            aside.writelines(line if line.endswith("\n") else line + "\n" for line in repeated)
        self._metrics.close()
        write_atomically(path, "".join(kept))
        self._metrics = path.open("a", encoding="utf-8")

    def end(self, status: str, **fields: Any) -> None:
        """Say how the run ended: ``finished``, ``failed`` or ``stopped``; the first to say it is right."""
        if self.run["status"] != "running":
            return
        self.write_run(finished=utc_now(), status=status, **fields)
        self._guarded(self._metrics.close)

    def end_with_process(self) -> None:
        """From now on a run that an exception ends says so, and so does one that ends before its last line."""
        hook = sys.excepthook

        def failed(kind: type[BaseException], error: BaseException, trace: Any) -> None:
            words = f"{kind.__name__}: {error}"
            self.end("stopped" if issubclass(kind, KeyboardInterrupt) else "failed", error=words[:2000])
            hook(kind, error, trace)

        sys.excepthook = failed
        atexit.register(self._stopped)

    def _stopped(self) -> None:
        if self.path.is_dir():  # else there is nobody left to tell
            self.end("stopped")

    def _guarded(self, write: Callable[[], None]) -> None:
        """Write, unless a write has failed before."""
        if not self.is_recording:
            return
        try:
            write()
        except (OSError, ValueError) as error:  # ValueError: of a file that a failure has left closed
            self.is_recording = False
            with contextlib.suppress(OSError):  # or what it holds is tried anew at the end
                self._metrics.close()
            say(
                f"warning: the run folder {self.path} can no longer be written ({error}); the training goes on, "
                "nothing more is recorded"
            )


def _computed(value: Any) -> Any:
    """Of options those that decide what a run computes; anything else as it is."""
    return {k: v for k, v in value.items() if k not in TELLING} if isinstance(value, dict) else value


def _new_folder(trainer: str, mode: str) -> Path:
    """``pcpo_runs/<utc>-<trainer>-<mode>``, made by this process alone."""
    base = (
        Path("pcpo_runs") / f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}-{trainer}-{mode}"
    )
    base.parent.mkdir(parents=True, exist_ok=True)
    for n in itertools.count(1):  # several may start within one second
        path = base if n == 1 else base.with_name(f"{base.name}-{n}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("itertools.count has no end")


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
    """``value`` as strict JSON takes it: non-finite numbers become null, unknown objects their ``str``.

    A path need not be UTF-8. What of it is no character is escaped, as in ``\\udcff``: a reader may refuse it as it is.
    """
    if isinstance(value, dict):
        return {jsonable(str(k)): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value).encode("utf-8", "backslashreplace").decode()
