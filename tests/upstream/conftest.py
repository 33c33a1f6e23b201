"""Runs of upstream's training scripts in subprocesses, each made once per session and shared by the tests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dance.runs
import filelock
import pytest
import qwen_image
import torch
import warm
from launch import DDPO, FLOW_GRPO, FLOW_TRAINERS, TIMEOUT_S, Run, Trainer, environment, ranks, recorded

RunMaker = Callable[..., Run]


def run_maker(trainer: Trainer, base: Path, upstream_clone: Any) -> RunMaker:
    """``make(MODE, procs=1, env={}, args=[], config=None, **overrides)``: a run on the miniature; None is unpatched.

    ``config`` is a config file in place of the miniature's.
    """
    name = trainer.clone if trainer in (DDPO, FLOW_GRPO) else Path(trainer.script).stem
    store = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / f"{name}-runs"
    store.mkdir(exist_ok=True)

    def make(
        mode: str | None,
        procs: int = 1,
        env: dict[str, str] | None = None,
        args: list[str] | None = None,
        config: Path | str | None = None,
        **overrides: Any,
    ) -> Run:
        overrides = {k.replace("__", "."): v for k, v in overrides.items()}
        if "num_epochs" in overrides:
            overrides["num_epochs"] += trainer.idle
        if trainer.build:
            dance.runs.build({"model": trainer.build}, store / "assets")
            overrides.setdefault("pretrained.model", str(store / "assets" / "model"))
        overrides = {k: v for k, v in overrides.items() if (k, v) not in trainer.small.items()}
        settings = json.dumps([mode, procs, env, args, str(config), overrides], sort_keys=True)
        folder = store / hashlib.sha256(settings.encode()).hexdigest()[:16]
        with filelock.FileLock(str(folder) + ".lock"):
            if not (folder / "done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                (folder / "settings.json").write_text(settings)
                clone = upstream_clone(trainer.clone, mode is not None)
                _train(trainer, clone, folder, mode, procs, env or {}, args or [], config, overrides)
                (folder / "done").touch()
        ranks = [torch.load(folder / f"record.{r}.pt", weights_only=False) for r in range(procs)]
        return Run(ranks, folder / "run", (folder / "stderr.log").read_text())

    return make


def _train(
    trainer: Trainer,
    clone: Path,
    folder: Path,
    mode: str | None,
    procs: int,
    env: dict[str, str],
    args: list[str],
    config: Path | str | None,
    overrides: dict[str, Any],
) -> None:
    words = recorded(trainer, folder, config, args, overrides)
    extra = {
        "PCPO_RUN_DIR": str(folder / "run"),
        **({"PCPO": mode} if mode is not None else {}),
        **trainer.env,
        **env,
    }
    told = ranks(procs) if procs > 1 or trainer.always_distributed else [{}]
    environments = [environment(clone, **extra, **rank) for rank in told]
    stderr = folder / "stderr.log"
    code = warm.run(words, clone, environments, folder / "stdout.log", stderr, TIMEOUT_S)
    if code:
        tail = stderr.read_text()[-3000:]
        pytest.fail(f"{' '.join(words)}\nin {clone} with {extra} exited {code}:\n{tail}", pytrace=False)


@pytest.fixture(scope="session")
def ddpo_run(tmp_path_factory: pytest.TempPathFactory, upstream_clone: Any) -> RunMaker:
    """Runs of ddpo-pytorch's ``scripts/train.py``."""
    return run_maker(DDPO, tmp_path_factory.getbasetemp(), upstream_clone)


@pytest.fixture(scope="session")
def flow_run(tmp_path_factory: pytest.TempPathFactory, upstream_clone: Any) -> RunMaker:
    """Runs of flow_grpo's ``scripts/train_sd3.py``."""
    return run_maker(FLOW_GRPO, tmp_path_factory.getbasetemp(), upstream_clone)


@pytest.fixture(scope="session")
def flow_runs(tmp_path_factory: pytest.TempPathFactory, upstream_clone: Any) -> RunMaker:
    """``flow_runs(NAME, MODE, procs=1, ...)``: runs of any of flow_grpo's trainers."""

    base = tmp_path_factory.getbasetemp()

    def make(name: str, *args: Any, **settings: Any) -> Run:
        if name.startswith("qwenimage"):
            settings["pretrained__model"] = str(_qwen_image(base, edits=name.endswith("edit")))
        return run_maker(FLOW_TRAINERS[name], base, upstream_clone)(*args, **settings)

    return make


def _qwen_image(base: Path, edits: bool) -> Path:
    """The folder of that model, which is built once for all processes of the tests."""
    name = "qwen-image-edit" if edits else "qwen-image"
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    with filelock.FileLock(f"{folder}.lock"):
        return folder if (folder / "model_index.json").exists() else qwen_image.build(folder, edits)


@pytest.fixture(scope="session")
def dance_run(tmp_path_factory: pytest.TempPathFactory, upstream_clone: Any) -> RunMaker:
    """``dance_run(NAME, MODE, procs=1, ...)``: runs of DanceGRPO's trainers."""
    base = tmp_path_factory.getbasetemp()
    store = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "DanceGRPO-runs"
    return dance.runs.run_maker(store, upstream_clone)
