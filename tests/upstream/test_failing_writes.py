"""A training outlives its record: where the run folder can no longer be written, the run says so once and goes on."""

from __future__ import annotations

from typing import Any

import pytest
from bits import first_difference

pytestmark = pytest.mark.upstream

#: The first write that fails, and what makes it.
WRITES = {
    "rewind": "begin_epoch:gone",
    "run.json": "end_rollout:gone",
    "append": "log_step:full",
    "end": "finish:gone",
}


@pytest.mark.parametrize("procs", [1, 2], ids=["one-rank", "two-ranks"])
@pytest.mark.parametrize("write", WRITES)
def test_the_training_is_that_of_an_undisturbed_run(ddpo_run: Any, write: str, procs: int) -> None:
    run = ddpo_run(
        "full", procs, env={"RECORD_FAIL": WRITES[write]}
    )  # which fails unless every rank exits with 0
    assert first_difference(run.ranks, ddpo_run("full", procs).ranks) is None
    said = [line for line in run.stderr.splitlines() if "can no longer be written" in line]
    assert len(said) == run.stderr.count("[pcpo] warning:") == 1
    assert ("No space left" if write == "append" else "No such file") in said[0]
    assert "Traceback" not in run.stderr and "Exception" not in run.stderr
    lost = run.folder if write == "append" else run.folder.with_name("run-lost")
    assert lost.exists() and not (write != "append" and run.folder.exists())
    written = (lost / "metrics.jsonl").read_text()
    assert bool(written) == (write == "end")
    assert '"status": "running"' in (lost / "run.json").read_text() or write == "append"
