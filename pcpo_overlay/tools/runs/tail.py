"""Following a run folder that grows."""

from __future__ import annotations

import os
from pathlib import Path

from pcpo_overlay.tools.runs.files import RunError, is_number, parse_object, read_object_or_none
from pcpo_overlay.tools.runs.run import METRICS, RUN
from pcpo_overlay.tools.runs.settings import planned_epochs


class MetricsTail:
    """Follows a growing ``metrics.jsonl``: the epochs done and the last reward."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offset = 0
        self._rest = b""
        self.epochs = 0
        self.reward: float | None = None
        self.seconds: float | None = None
        self._total: int | None = None

    @property
    def total(self) -> int | None:
        """The number of epochs the trainer was asked for, once ``run.json`` says it."""
        if self._total is None:
            self._total = planned_epochs(read_object_or_none(self._folder / RUN) or {})
        return self._total

    def poll(self) -> bool:
        """Read what was appended since the last call; True where another epoch was finished."""
        try:
            with (self._folder / METRICS).open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:  # begun anew
                    self._offset, self._rest, self.epochs = 0, b"", 0
                file.seek(self._offset)
                appended = file.read()
        except OSError:
            return False
        self._offset += len(appended)
        *lines, self._rest = (self._rest + appended).split(b"\n")
        before = self.epochs
        for line in lines:
            try:
                record = parse_object(line.decode("utf-8", errors="replace"), METRICS)
            except RunError:
                continue
            if record.get("kind") == "epoch":
                self.epochs += 1
                reward, seconds = record.get("reward_mean"), record.get("seconds_total")
                self.reward = reward if is_number(reward) else None
                self.seconds = seconds if is_number(seconds) else None
        return self.epochs > before
