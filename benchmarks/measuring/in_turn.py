"""Run a training script in this process, and let it go on only when it is its turn.

    python in_turn.py scripts/train.py [ARGS...]

At every optimizer step it tells the process that started it (a port in ``PCPO_BENCH_TURNS``) how long the training took
since it was last let go, and waits to be let go again. Upstream's code is not touched and PCPO's is not asked: torch
itself calls after an optimizer step, alike in every mode.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

TURNS = "PCPO_BENCH_TURNS"


class Turns:
    """This process's end of the connection to the one that gives the turns."""

    def __init__(self, address: str) -> None:
        host, port, name = address.split(":")
        self._file = socket.create_connection((host, int(port))).makefile("rw", encoding="utf-8")
        self._say({"name": name})
        self._let_go()

    def after_step(self, *_: Any) -> None:
        """An optimizer step was taken."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken = {"wall": time.perf_counter() - self._wall, "process": time.process_time() - self._process}
        self._say({**taken, "peak": peak_memory()})
        if not self._file.readline():  # nobody is there to wait for
            raise SystemExit("the process that gives the turns is gone")
        self._let_go()

    def _say(self, what: dict[str, Any]) -> None:
        self._file.write(json.dumps(what) + "\n")
        self._file.flush()

    def _let_go(self) -> None:
        self._wall, self._process = time.perf_counter(), time.process_time()


def peak_memory() -> int | None:
    """Peak bytes of this process: of the allocator on a GPU, else resident. PCPO is not asked: ``off`` has none."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # not on this platform
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(script).resolve().parent)  # as Python has it for a script
    register_optimizer_step_post_hook(Turns(os.environ[TURNS]).after_step)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
