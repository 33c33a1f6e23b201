"""What an offline run of wandb keeps: its rows, and its configuration, read from its own file."""

from __future__ import annotations

import importlib
import json
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: The file is a log of LevelDB's format behind a header: blocks of this size, in which a piece of a record stands
#: behind its checksum, its length and whether it is whole (1), first (2), between (3) or last (4).
BLOCK, HEADER = 2**15, 7


def records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    assert not data or data[:4] == b":W&B"
    at, held = HEADER, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # no room for another piece
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + length > len(data):  # the end is not written yet
            return
        held += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield held
            held = b""


def _whole(folder: Path, pb: Any) -> list[Any]:
    """The records, once the last is there: wandb's own process writes them, and may end after the training's."""
    deadline = time.monotonic() + 60
    while True:
        (path,) = folder.rglob("*.wandb")
        found = [pb.Record.FromString(data) for data in records(path)]
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < deadline, f"{path} has {len(found)} records, and no end"
        time.sleep(0.1)


class OfflineRun:
    """The one run below a folder: ``rows`` by step, ``config`` by name."""

    def __init__(self, folder: Path) -> None:
        pb: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
        self.rows: dict[int, dict[str, Any]] = defaultdict(dict)
        self.config: dict[str, Any] = {}
        for record in _whole(folder, pb):
            if record.HasField("history"):
                self._row(record.history)
            for held in (record.run.config, record.config):
                for item in held.update:
                    self.config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)

    def _row(self, history: Any) -> None:
        step = history.step.num
        for item in history.item:
            name = item.key or "/".join(item.nested_key)
            self.rows[step][name] = json.loads(item.value_json)

    def column(self, name: str) -> dict[int, Any]:
        """The values of a name by step."""
        return {step: row[name] for step, row in sorted(self.rows.items()) if name in row}
