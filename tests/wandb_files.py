"""What an offline run of wandb keeps: its rows, and its configuration, read from its own file."""

from __future__ import annotations

import importlib
import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: The file is a log of LevelDB's format behind a header: blocks of this size, in which a piece of a record stands
#: behind its checksum, its length and whether it is whole (1), first (2), between (3) or last (4).
BLOCK, HEADER = 2**15, 7


def records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, held = HEADER, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # no room for another piece
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        held += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield held
            held = b""


class OfflineRun:
    """The one run below a folder: ``rows`` by step, ``config`` by name."""

    def __init__(self, folder: Path) -> None:
        (path,) = folder.rglob("*.wandb")
        pb: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
        self.rows: dict[int, dict[str, Any]] = defaultdict(dict)
        self.config: dict[str, Any] = {}
        for data in records(path):
            record = pb.Record.FromString(data)
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
