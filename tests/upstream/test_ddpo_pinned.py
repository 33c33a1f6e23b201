"""The same patches in the environment that upstream pins for itself, built here from the package index."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from bits import first_difference
from launch import CONFIG, HERE, arguments, environment

pytestmark = [pytest.mark.upstream, pytest.mark.slow, pytest.mark.timeout(1500)]


def python_for_the_pins() -> str:
    """A Python that the pinned wheels exist for: 3.10 or 3.11."""
    if sys.version_info < (3, 12):
        return sys.executable
    found = next((p for n in ("python3.11", "python3.10") if (p := shutil.which(n))), None)
    if found is None:
        message = "upstream's pinned versions have no wheels for Python 3.12, and no 3.10 or 3.11 is on PATH"
        if os.environ.get("PCPO_REQUIRE_UPSTREAM") == "1":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def pinned_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    venv = shared / "pinned-venv"
    with filelock.FileLock(str(shared / "pinned-venv.lock")):
        python = venv / "bin" / "python"
        if not (venv / "done").exists():
            subprocess.run([python_for_the_pins(), "-m", "venv", "--clear", str(venv)], check=True)
            command = [str(python), "-m", "pip", "install", "--quiet", "-r", str(HERE / "pinned.txt")]
            # Of this machine's constraints the build of torch alone: the others are for the versions of today.
            torch_alone = shared / "pinned-constraints.txt"
            torch_alone.write_text("torch==2.13.0\n")
            result = subprocess.run(
                command,
                capture_output=True,
                text=True,
                env={**os.environ, "PIP_CONSTRAINT": str(torch_alone)},
            )
            if result.returncode:
                pytest.fail(f"{' '.join(command)} failed:\n{result.stderr[-3000:]}", pytrace=False)
            (venv / "done").touch()
    return python


def train(python: Path, clone: Path, folder: Path, mode: str | None, **overrides: Any) -> dict:
    folder.mkdir()
    extra = {"PCPO_RUN_DIR": str(folder / "run"), **({"PCPO": mode} if mode else {})}
    result = subprocess.run(
        [
            str(python),
            str(HERE / "record.py"),
            str(folder / "record"),
            "scripts/train.py",
            f"--config={CONFIG}",
            *arguments({"logdir": str(folder / "logs"), **overrides}),
        ],
        cwd=clone,
        env=environment(clone, **extra),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(folder / "record.0.pt", weights_only=False)


def test_pinned_environment(
    pinned_python: Path, ddpo_pristine: Path, ddpo_patched: Path, tmp_path: Path
) -> None:
    version = subprocess.run(
        [str(pinned_python), "-c", "import diffusers; print(diffusers.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert version == "0.17.1"

    unpatched = train(pinned_python, ddpo_pristine, tmp_path / "unpatched", None)
    off = train(pinned_python, ddpo_patched, tmp_path / "off", "off")
    assert first_difference(unpatched, off) is None
    assert len(off["gradients"]) == 4

    full = train(pinned_python, ddpo_patched, tmp_path / "full", "full")
    assert first_difference(unpatched["weights"], full["weights"]) is not None
    with (tmp_path / "full" / "run" / "metrics.jsonl").open() as lines:
        first = json.loads(next(lines))
    assert first["ratio_min"] == first["ratio_max"] == 1.0
    assert first["fraction_outside"] == first["fraction_masked"] == 0.0
