"""Runs of upstream's training scripts in subprocesses, each made once per session and shared by the tests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
CONFIG = ROOT / "pcpo_overlay" / "miniature" / "ddpo_config.py"
TIMEOUT_S = 600

#: The miniature at its smallest: 2 epochs of 8 samples, 2 optimizer steps an epoch, 5 denoising steps. Sampling and
#: training use the same batch size, so that the network's output is reproduced bit for bit wherever it can be.
SMALL = {
    "num_epochs": 2,
    "seed": 7,
    "sample.num_steps": 5,
    "sample.batch_size": 4,
    "sample.num_batches_per_epoch": 2,
    "train.batch_size": 4,
    "train.gradient_accumulation_steps": 1,
    "train.learning_rate": 1e-3,
    "per_prompt_stat_tracking.min_count": 100,
    "save_freq": 1000,
}


@dataclass(frozen=True)
class Run:
    """A finished run: what ``record.py`` saved on every rank, and the run folder that PCPO wrote, if any."""

    ranks: list[dict[str, Any]]
    folder: Path
    stderr: str

    @property
    def record(self) -> dict[str, Any]:
        return self.ranks[0]

    @property
    def run_json(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        return loaded

    def metrics(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [r for r in map(json.loads, lines) if r["kind"] == kind]


def environment(clone: Path, **extra: str) -> dict[str, str]:
    """The subprocess's environment: one thread (bits depend on the number), no network, no wandb."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PCPO", "ACCELERATE", "WANDB"))}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(clone)]),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "CUDA_VISIBLE_DEVICES": "",
        **extra,
    }


def arguments(overrides: dict[str, Any]) -> list[str]:
    return [f"--config.{k}={v}" for k, v in {**SMALL, **overrides}.items()]


RunMaker = Callable[..., Run]


@pytest.fixture(scope="session")
def ddpo_run(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory, upstream_clone: Any
) -> RunMaker:
    """``ddpo_run(MODE, procs=1, env={}, args=[], **overrides)``: a run on the miniature; MODE None is unpatched."""
    base = tmp_path_factory.getbasetemp()
    store = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "ddpo-runs"
    store.mkdir(exist_ok=True)

    def make(
        mode: str | None,
        procs: int = 1,
        env: dict[str, str] | None = None,
        args: list[str] | None = None,
        **overrides: Any,
    ) -> Run:
        overrides = {k.replace("__", "."): v for k, v in overrides.items()}
        settings = json.dumps([mode, procs, env, args, overrides], sort_keys=True)
        folder = store / hashlib.sha256(settings.encode()).hexdigest()[:16]
        with filelock.FileLock(str(folder) + ".lock"):
            if not (folder / "done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                (folder / "settings.json").write_text(settings)
                _train(folder, mode, procs, env or {}, args or [], overrides)
                (folder / "done").touch()
        ranks = [torch.load(folder / f"record.{r}.pt", weights_only=False) for r in range(procs)]
        return Run(ranks, folder / "run", (folder / "stderr.log").read_text())

    def _train(
        folder: Path,
        mode: str | None,
        procs: int,
        env: dict[str, str],
        args: list[str],
        overrides: dict[str, Any],
    ) -> None:
        clone = upstream_clone("ddpo-pytorch", mode is not None)
        python = [sys.executable]
        if procs > 1:
            python += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={procs}"]
        command = [
            *python,
            str(HERE / "record.py"),
            str(folder / "record"),
            "scripts/train.py",
            f"--config={CONFIG}",
            *arguments({"logdir": str(folder / "logs"), **overrides}),
            *args,
        ]
        extra = {"PCPO_RUN_DIR": str(folder / "run"), **({"PCPO": mode} if mode is not None else {}), **env}
        with (folder / "stdout.log").open("w") as out, (folder / "stderr.log").open("w") as err:
            code = subprocess.run(
                command, cwd=clone, env=environment(clone, **extra), stdout=out, stderr=err, timeout=TIMEOUT_S
            ).returncode
        if code:
            tail = (folder / "stderr.log").read_text()[-3000:]
            pytest.fail(f"{' '.join(command)}\nin {clone} with {extra} exited {code}:\n{tail}", pytrace=False)

    return make
