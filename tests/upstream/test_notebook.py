"""The notebook of the two-minute path: every cell runs, in order, on a training of one epoch in place of ten."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launch import ROOT, environment

pytestmark = [pytest.mark.upstream("ddpo-pytorch"), pytest.mark.slow]

NOTEBOOK = ROOT / "docs" / "two_minutes.ipynb"


def test_every_cell_runs(tmp_path: Path) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(
        cell["outputs"] or cell["execution_count"] for cell in cells
    )  # nothing of a machine is kept
    text = "\n\n".join("".join(cell["source"]) for cell in cells)
    assert text.count("EPOCHS = 10\n") == 1
    script = tmp_path / "notebook.py"
    script.write_text(text.replace("EPOCHS = 10\n", "EPOCHS = 1\n"))
    environ = {**environment(ROOT), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environ |= {name: value for name, value in os.environ.items() if name == "PCPO_MIRROR"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout.splitlines()
    assert any(line.split() and line.split()[0] == "101" and "8.3" in line for line in printed)  # the weights
    assert any(line.startswith("observe-seed0") for line in printed)
    assert printed[-1].startswith("Next: PCPO=full before the line that launched scripts/train.py")
