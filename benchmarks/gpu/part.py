"""What every part of the check is given, and how it keeps what it finds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Part:
    """A part under way.

    Attributes:
        file: takes its lines.
        vendor: folder of patched clones.
        deadline: of :func:`time.monotonic`, by which it has to be done.
        tiny: small sizes in place of real ones, to try the check where there is no GPU.
    """

    file: Path
    vendor: Path
    deadline: float
    tiny: bool

    @property
    def left(self) -> float:
        """Seconds until its time is up."""
        return self.deadline - time.monotonic()

    def keep(self, **found: Any) -> None:
        """Write a line, so that it is there whatever comes next."""
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(found) + "\n")
            out.flush()
            os.fsync(out.fileno())

    def has(self, needed: float, **what: Any) -> bool:
        """Whether so many seconds are left; if not, the line says what was left out."""
        if self.left >= needed:
            return True
        self.keep(**what, skipped=f"{self.left:.0f} s left of the part's time, {needed:.0f} s needed")
        return False


@contextmanager
def watched(part: Part, **what: Any) -> Iterator[None]:
    """Whatever fails inside is a line of the part's, and the part goes on: a card's fault is what is looked for."""
    try:
        yield
    except Exception as error:
        part.keep(**what, error=f"{type(error).__name__}: {error}"[:2000])
