"""ddpo-pytorch's own, untouched client against the reward server."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
import torch
import urllib3.util.connection
from test_serve import Answer, running
from tiny_vlm import ENCODER_LAYER, encoder, make_vlm, pictures

from pcpo_overlay.tools.serve.bertscore import BERTScore
from pcpo_overlay.tools.serve.protocol import Request

pytestmark = pytest.mark.upstream

ACTIVITIES = ("a dog riding a bike", "a cat washing dishes", "a bear playing chess")


@pytest.fixture(scope="module")
def rewards(upstream_clone: Any) -> ModuleType:
    file = upstream_clone("ddpo-pytorch", False) / "ddpo_pytorch" / "rewards.py"
    spec = importlib.util.spec_from_file_location("upstream_rewards", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``at(port)``: what the client sends to its fixed port goes to this one, so that tests may run side by side."""
    connect = urllib3.util.connection.create_connection

    def point(port: int) -> None:
        def elsewhere(address: tuple[str, int], *args: Any, **options: Any) -> socket.socket:
            assert address == ("127.0.0.1", 8085)
            return connect(("127.0.0.1", port), *args, **options)

        monkeypatch.setattr(urllib3.util.connection, "create_connection", elsewhere)

    return point


def recalls(request: Request) -> Answer:
    """Work that is quick: a number that tells the answers apart."""
    assert request.answers is not None
    scores = [[len(text) / 100 for text in row] for row in request.answers]
    return {"outputs": request.queries, "precision": scores, "recall": scores, "f1": scores}


def expected(prompts: tuple[str, ...]) -> list[float]:
    return [len(f"The image contains {prompt}") / 100 for prompt in prompts]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, subprocess.Popen[str], Path]]:
    """The command itself, with a tiny Qwen2.5-VL and a real encoder."""
    folder = tmp_path_factory.mktemp("served")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [
        "--model",
        make_vlm(folder / "vlm"),
        "--encoder",
        encoder(),
        "--layer",
        ENCODER_LAYER,
        "--port",
        port,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "pcpo_overlay", "serve", "vlm-bertscore", *map(str, words), "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stderr=(folder / "stderr.log").open("w"),
        text=True,
    )
    yield port, process, folder
    process.kill()
    process.wait()


def health(port: int) -> Any:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60) as response:
                return json.load(response)
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_the_command_serves_the_client_until_it_is_stopped(rewards: ModuleType, served: Any, at: Any) -> None:
    port, process, folder = served
    at(port)
    about = health(port)
    assert (about["status"], about["layer"], about["dtype"]) == ("ready", ENCODER_LAYER, "float32")
    prompts = ACTIVITIES * 6
    images = torch.from_numpy(pictures(18)).permute(0, 3, 1, 2) / 255
    reward, info = rewards.llava_bertscore()(images, prompts, [{}] * 18)
    assert reward.shape == (18,) and info.keys() == {"precision", "f1", "outputs"}
    # 18 go as 9 and 9; each score is that of the answer it came with
    scorer = BERTScore(str(encoder()), torch.device("cpu"), ENCODER_LAYER)
    wanted = [f"The image contains {prompt}" for prompt in prompts]
    parts = [scorer.score(list(info["outputs"][p]), wanted[p]) for p in (slice(0, 9), slice(9, 18))]
    assert np.allclose(reward, parts[0].recall + parts[1].recall, atol=1e-5)
    assert np.allclose(info["f1"], parts[0].f1 + parts[1].f1, atol=1e-5)
    again, _ = rewards.llava_bertscore()(images, prompts, [{}] * 18)
    assert np.array_equal(again, reward)
    metadata = [{"questions": ["a cat?", "a dog?"], "answers": ["cat", "dog"]}] * 4
    strict, said = rewards.llava_strict_satisfaction()(images[:4], ACTIVITIES, np.array(metadata))
    assert strict.shape == (4,) and said["answers"].shape == (4, 2)
    about = health(port)
    assert (about["answered"], about["from_cache"]) == (3, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    *lines, last = (folder / "stderr.log").read_text().splitlines()
    assert last == "pcpo serve: stopped; a trainer that asks waits until it is started again"
    assert sum("9 images, mean recall " in line for line in lines) == 2
    assert not any("Traceback" in line or "Warning" in line for line in lines), lines


def test_the_client_waits_through_a_full_queue_and_a_fault(rewards: ModuleType, at: Any) -> None:
    go, faults, calls = threading.Event(), 1, 0

    def work(request: Request) -> Answer:
        nonlocal faults, calls
        assert go.wait(30)
        calls += 1
        if faults:
            faults -= 1
            raise RuntimeError("no memory")
        return recalls(request)

    with running(work, waiting=1) as (port, log):
        at(port)
        found: dict[int, Any] = {}

        def train(seed: int) -> None:
            found[seed] = rewards.llava_bertscore()(pictures(3, seed=seed), ACTIVITIES, None)[0]

        threads = [threading.Thread(target=train, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while not any("1 requests are waiting" in line for line in log):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        go.set()
        for thread in threads:
            thread.join(60)
    assert [found[seed].tolist() for seed in (0, 1)] == [expected(ACTIVITIES)] * 2
    assert calls == 3 and any("failed by RuntimeError: no memory" in line for line in log)


def test_a_batch_that_takes_longer_than_the_client_waits_is_worked_on_once(
    rewards: ModuleType, at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    post, calls = requests.Session.post, 0

    def impatient(self: requests.Session, url: str, *, timeout: int, **options: Any) -> Any:
        assert timeout == 120
        return post(self, url, timeout=0.4, **options)

    def work(request: Request) -> Answer:
        nonlocal calls
        calls += 1
        time.sleep(1.5)
        return recalls(request)

    monkeypatch.setattr(requests.Session, "post", impatient)
    with running(work) as (port, _):
        at(port)
        reward, _ = rewards.llava_bertscore()(pictures(3), ACTIVITIES, None)
    assert reward.tolist() == expected(ACTIVITIES) and calls == 1


def test_a_refusal_ends_the_client_at_once_and_a_batch_of_one_is_said(rewards: ModuleType, at: Any) -> None:
    with running(recalls) as (port, log):
        at(port)
        with pytest.raises((pickle.UnpicklingError, ValueError, EOFError)):
            rewards.llava_bertscore()(pictures(2, size=8), ACTIVITIES[:2], None)
        assert log[-1].startswith("refused: image 0 has 8 x 8 pixels")
        with pytest.raises(TypeError):
            rewards.llava_bertscore()(pictures(1), ACTIVITIES[:1], None)
        assert any("a batch of one image" in line for line in log)
