"""What an earlier try left in a run's folder, and whether that is the run asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from pcpo_overlay.files import write_atomically
from pcpo_overlay.record.run_folder import jsonable, utc_now
from pcpo_overlay.tools.ab import ABError
from pcpo_overlay.tools.ab.plan import Planned
from pcpo_overlay.tools.faults import printable
from pcpo_overlay.tools.runs.files import read_object_or_none
from pcpo_overlay.tools.runs.run import ended, is_alive

RECORD = "ab.json"
LOG = "output.log"
#: Begins what torch's elastic launcher writes about a worker that failed: some thirty lines that never say why.
LAUNCHERS_ACCOUNT = re.compile(r"torch[./]distributed[./]elastic\S*\s*failed \(exitcode")


def is_finished(planned: Planned) -> bool:
    """Whether this very run is done already.

    Raises:
        ABError: the folder holds a run with other settings, or something that is no run of this command, or a run
            that is still going.
    """
    if not planned.folder.exists() or not any(planned.folder.iterdir()):
        return False
    record = read_object_or_none(planned.folder / RECORD)
    if record is None:
        raise ABError(
            f"{planned.folder} is there already and is not a run of this command (no readable {RECORD} in it); "
            "move it away or choose another --out"
        )
    if record.get("digest") != planned.digest:
        settings = record.get("settings")
        changed = _changed(settings if isinstance(settings, dict) else {}, planned.settings)
        raise ABError(
            f"{planned.folder} holds a run with other settings ({changed}); choose another --out, or move it away"
        )
    run = read_object_or_none(planned.folder / "run.json") or {}
    if run.get("status") == "finished" and record.get("exit_code") in (0, None):
        return True
    pid = record.get("pid")
    if (
        record.get("exit_code") is None
        and isinstance(pid, int)
        and is_alive(pid)
        and _is_ours(pid, planned.folder)
    ):
        raise ABError(
            f"{planned.folder}: this run is still going as process {pid}, left over from a killed command; "
            f"wait for it, or end it with: kill {pid}"
        )
    return False


def _changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    return "; ".join(
        f"{printable(key[:80])}: {old.get(key)!r:.120} there, {new.get(key)!r:.120} asked for"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether the process with this id is a run into this folder: ids are used again, so its arguments must tell."""
    try:
        arguments = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        try:
            done = subprocess.run(
                ["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            return True
        arguments = done.stdout
    return str(folder) in arguments


def set_aside(folder: Path) -> str | None:
    """Rename what an unfinished run left, so that the run can begin anew; nothing is deleted.

    Returns:
        A line that says how that run ended and where it is now, or None where there was nothing.
    """
    if not folder.exists():
        return None
    if not any(folder.iterdir()):
        return None
    pattern = re.compile(re.escape(folder.name) + r"\.aside-(\d+)")
    numbers = [int(m[1]) for m in (pattern.fullmatch(p.name) for p in folder.parent.iterdir()) if m]
    aside = folder.with_name(f"{folder.name}.aside-{max(numbers, default=0) + 1}")
    folder.rename(aside)
    how = ended(read_object_or_none(aside / "run.json") or {})
    return f"an unfinished run was there ({how}); it is now {aside}"


def write_record(planned: Planned, **updates: Any) -> None:
    """Write the record of a run, atomically: its settings, command and environment, and the given fields."""
    record = {
        "format": 1,
        "settings": planned.settings,
        "digest": planned.digest,
        "command": planned.command,
        "cwd": str(planned.cwd),
        "environment": planned.environment,
        "written": utc_now(),
        "job": os.environ.get("SLURM_JOB_ID"),
        **updates,
    }
    write_atomically(planned.folder / RECORD, json.dumps(jsonable(record), indent=1) + "\n")


def tail(path: Path, lines: int = 20) -> list[str]:
    """The last lines of a log; of a progress bar that redraws itself only the last state.

    Where the launcher of several processes added its own account of a failure, the lines before it, which say why.
    """
    try:
        text = path.read_bytes()[-(2**18) :].decode("utf-8", errors="replace")
    except OSError:
        return []
    kept = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    kept = [line for line in kept if line.strip()]
    account = next((n for n, line in enumerate(kept) if LAUNCHERS_ACCOUNT.search(line)), 0)
    return kept[: account or None][-lines:]
