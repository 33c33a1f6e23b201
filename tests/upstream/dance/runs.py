"""Runs of DanceGRPO's trainers in subprocesses: each is made once and shared, and so are the models they read.

A run works in a folder of its own: upstream's relative paths (``data/``, ``images/``, ``reward.txt``, ...)
lie there, and the clone stays untouched. Two runs are compared by ``bits.first_difference(a.ranks, b.ranks)``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import launch
import torch
import warm
from dance.launch import TRAINERS, Trainer, command

TIMEOUT_S = 600

RunMaker = Callable[..., "Run"]


@dataclass(frozen=True)
class Run:
    """A finished run: what ``record.py`` saved on every rank, the folder it ran in, what it printed."""

    ranks: list[dict[str, Any]]
    folder: Path
    stdout: str
    stderr: str

    @property
    def record(self) -> dict[str, Any]:
        return self.ranks[0]

    @property
    def pcpo(self) -> Path:
        """The run folder that PCPO wrote, if it did."""
        return self.folder / "pcpo"

    def metrics(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.pcpo / "metrics.jsonl").read_text().splitlines()
        return [r for r in map(json.loads, lines) if r["kind"] == kind]


def run_maker(store: Path, upstream_clone: Callable[[str, bool], Path]) -> RunMaker:
    """``make(NAME, MODE=None, procs=1, env={}, args=[], **overrides)``: a run of trainer NAME; mode None is unpatched.

    Args:
        store: a folder that keeps models and runs; processes may share it.
        upstream_clone: ``upstream_clone("DanceGRPO", patched)`` gives a clone.
    """

    def make(
        name: str,
        mode: str | None = None,
        procs: int = 1,
        env: dict[str, str] | None = None,
        args: list[str] | None = None,
        **overrides: Any,
    ) -> Run:
        trainer = TRAINERS[name]
        overrides = {k.replace("__", "."): v for k, v in overrides.items()}
        overrides = {k: v for k, v in overrides.items() if (k, v) not in trainer.small.items()}
        settings = json.dumps([name, mode, procs, env, args, overrides], sort_keys=True)
        folder = store / hashlib.sha256(settings.encode()).hexdigest()[:16]
        store.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"):
            if not (folder / "done").exists():
                clone = upstream_clone("DanceGRPO", mode is not None)
                build(trainer.reads, store / "assets")
                shutil.rmtree(folder, ignore_errors=True)
                place(trainer, folder, store / "assets")
                (folder / "settings.json").write_text(settings)
                pcpo = {"PCPO_RUN_DIR": str(folder / "pcpo"), **({"PCPO": mode} if mode is not None else {})}
                extra = {**pcpo, **(env or {})}
                environments = [launch.environment(clone, **extra, **rank) for rank in launch.ranks(procs)]
                train(command(trainer, clone, folder, args, **overrides), folder, environments)
                (folder / "done").touch()
        ranks = [torch.load(folder / f"record.{rank}.pt", weights_only=False) for rank in range(procs)]
        return Run(ranks, folder, (folder / "stdout.log").read_text(), (folder / "stderr.log").read_text())

    return make


def build(reads: Mapping[str, Callable[[Path], None]], assets: Path) -> None:
    """Write what a trainer reads into the assets folder, unless it is there. Torch's random state is left alone."""
    for path, write in reads.items():
        done = assets / ".done" / path.replace("/", "-")
        done.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{done}.lock"):
            if not done.exists():
                shutil.rmtree(assets / path, ignore_errors=True)
                with torch.random.fork_rng(devices=[]):
                    write(assets / path)
                done.touch()


def place(trainer: Trainer, folder: Path, assets: Path) -> None:
    """Make a working directory: links to what the trainer reads, and the folders that it expects for its images."""
    for name in ("images", "images_same", "videos"):
        (folder / name).mkdir(parents=True)
    for name in {Path(path).parts[0] for path in trainer.reads}:
        (folder / name).symlink_to(assets.resolve() / name)


def train(words: list[str], folder: Path, environments: list[dict[str, str]]) -> None:
    """Run a Python file in its folder to the end, one process for each of the environments.

    Raises:
        RuntimeError: where it fails, with the end of what the script said.
    """
    stderr = folder / "stderr.log"
    code = warm.run(words, folder, environments, folder / "stdout.log", stderr, TIMEOUT_S)
    if code:
        tail = stderr.read_text()[-3000:]
        raise RuntimeError(f"{' '.join(words)}\nin {folder} exited {code}:\n{tail}")
