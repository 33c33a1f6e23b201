"""The reward server: what it refuses, its queue and cache, and its faults as the client sees them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_vlm import jpeg, pictures

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.serve import app as serving
from pcpo_overlay.tools.serve import protocol
from pcpo_overlay.tools.serve.app import make_app, make_server
from pcpo_overlay.tools.serve.protocol import Refused, Request, decode, read
from pcpo_overlay.tools.serve.worker import TRIES, Busy, Worker

Answer = dict[str, list[list[Any]]]
JPEGS = [jpeg(picture) for picture in pictures(2)]


def payload(**changes: Any) -> dict[str, Any]:
    """What the client sends of two images."""
    question = "Answer concisely: what is going on in this image?"
    held = {"images": JPEGS, "queries": [[question]] * 2, "answers": [["The image contains a cat"]] * 2}
    return {**held, **changes}


@pytest.mark.parametrize("number", [3, 4, 5])
def test_the_clients_payload_is_read(number: int) -> None:
    read_back = read(pickle.dumps(payload(), protocol=number))
    assert read_back == Request(JPEGS, payload()["queries"], payload()["answers"])
    without = {name: value for name, value in payload().items() if name != "answers"}
    assert read(pickle.dumps(without, protocol=number)).answers is None


class Attack:
    """A pickle that writes a file when it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


def test_an_attack_is_refused_before_it_runs(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    for held in (Attack(proof), payload(images=[Attack(proof)]), payload(queries=[[Attack(proof)]])):
        for number in range(6):
            with pytest.raises(Refused, match="its pickle holds"):
                read(pickle.dumps(held, protocol=number))
            assert not proof.exists()
    pickle.loads(pickle.dumps(Attack(proof)))
    assert proof.exists(), "it is an attack"


#: A memo of four billion places; a frame, a string and bytes that are longer than the body; a class by its extension.
BOMBS = {
    "memo": b"\x80\x04]r\xff\xff\xff\xff.",
    "memo of text": b"\x80\x03]p4294967295\n.",
    "bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "string": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pname\n.",
    "number": b"\x80\x04\x8b\xff\xff\xff\x7f.",
    "many": b"\x80\x04" + b"]0" * protocol.MOST_OPERATIONS + b"].",
    "deep": b"\x80\x04" + b"]" * 9000 + b"a" * 8999 + b".",
    "empty": b"",
    "nothing": b"\x80\x04.",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "cut": pickle.dumps(payload())[:-20],
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_broken_pickle_is_refused_in_no_time_and_no_memory(name: str) -> None:
    begin = time.monotonic()
    with pytest.raises(Refused):
        read(BOMBS[name])
    assert time.monotonic() - begin < 2


LONG = "a" * (protocol.MOST_CHARACTERS + 1)
MALFORMED: dict[str, Any] = {
    "no dict": [1, 2],
    "a key more": payload(more=1),
    "a key less": {"images": JPEGS},
    "no images": payload(images=[], queries=[], answers=[]),
    "images in a dict": payload(images={0: JPEGS[0], 1: JPEGS[1]}),
    "too many images": payload(images=JPEGS * 40, queries=[["a"]] * 80, answers=[["a"]] * 80),
    "an image as text": payload(images=["a", "b"]),
    "no JPEG": payload(images=[b"\xff\xd8\xff", JPEGS[0]]),
    "fewer queries": payload(queries=[["a"]]),
    "a query that is no list": payload(queries=["ab", "cd"]),
    "a query of bytes": payload(queries=[[b"a"], [b"b"]]),
    "no question": payload(queries=[[], []], answers=[[], []]),
    "more answers": payload(answers=[["a", "b"], ["c"]]),
    "too many questions": payload(queries=[["a"] * 200] * 2, answers=[["a"] * 200] * 2),
    "a long question": payload(queries=[[LONG], ["a"]]),
    "half a character": payload(queries=[["\ud800"], ["a"]]),
    "the model's own marks": payload(queries=[["<|image_pad|>"], ["a"]]),
    "an answer of None": payload(answers=[[None], ["a"]]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        read(pickle.dumps(MALFORMED[name], protocol=4))


def test_images_are_jpeg_of_bounded_size() -> None:
    def encoded(size: tuple[int, int], form: str) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size).save(buffer, format=form)
        return buffer.getvalue()

    for data in (encoded((64, 64), "PNG"), encoded((4000, 64), "JPEG"), encoded((8, 8), "JPEG")):
        with pytest.raises(Refused, match="image 1"):
            read(pickle.dumps(payload(images=[JPEGS[0], data])))
    whole = jpeg(pictures(1, 256)[0])
    damaged = payload(images=[whole, whole[: len(whole) // 2]])
    with pytest.raises(Refused, match="image 1 is a damaged JPEG"):
        decode(read(pickle.dumps(damaged)))
    assert [image.size for image in decode(read(pickle.dumps(payload())))] == [(64, 64)] * 2


# ------------------------------------------------------------------------------------------------------- the worker


def outputs(request: Request) -> Answer:
    """Work that is quick: the questions as answers."""
    return {"outputs": request.queries}


def asked(name: str) -> tuple[bytes, Request]:
    return hashlib.sha256(name.encode()).digest(), Request([], [[name]], None)


def test_the_queue_is_bounded_and_the_same_request_joins() -> None:
    go, calls = threading.Event(), []

    def work(request: Request) -> Answer:
        calls.append(request.queries[0][0])
        assert go.wait(10)
        return outputs(request)

    async def run() -> None:
        worker = Worker(work, waiting=2, kept=1, say=lambda _: None)
        first, second = (asyncio.create_task(worker.ask(*asked(name))) for name in "ab")
        again = asyncio.create_task(worker.ask(*asked("a")))
        await asyncio.sleep(0.05)
        with pytest.raises(Busy, match="2 requests are waiting"):
            await worker.ask(*asked("c"))
        first.cancel()  # its client gave up; the work goes on
        go.set()
        assert pickle.loads(await again) == {"outputs": [["a"]]}
        assert pickle.loads(await second) == {"outputs": [["b"]]}
        assert (calls, worker.waiting) == (["a", "b"], 0)
        await worker.ask(*asked("b"))
        assert calls == ["a", "b"], "it is in the cache"
        await worker.ask(*asked("a"))
        assert calls == ["a", "b", "a"], "of one place"
        assert (worker.answered, worker.from_cache) == (3, 1)

    asyncio.run(run())


def test_a_fault_passes_or_the_request_is_refused_at_last() -> None:
    failing = True

    def work(request: Request) -> Answer:
        if failing:
            raise RuntimeError("CUDA out of\nmemory")
        return outputs(request)

    async def run() -> None:
        nonlocal failing
        worker = Worker(work, waiting=2, kept=2, say=lambda _: None)
        for _ in range(TRIES - 1):
            with pytest.raises(Busy, match="failed by RuntimeError: CUDA out of memory"):
                await worker.ask(*asked("a"))
        assert worker.fault is not None
        with pytest.raises(Refused, match=f"it failed {TRIES} times"):
            await worker.ask(*asked("a"))
        failing = False
        assert pickle.loads(await worker.ask(*asked("a"))) == {"outputs": [["a"]]}
        assert worker.fault is None

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------- the server


@contextmanager
def running(work: Callable[[Request], Answer], waiting: int = 8) -> Iterator[tuple[int, list[str]]]:
    """A server on a free port, and its log."""
    log: list[str] = []
    worker = Worker(work, waiting, 8, log.append)
    server = make_server(make_app(worker, {"model": "tiny"}, log.append, ["127.0.0.1", "localhost"]))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1], log
        finally:
            server.should_exit = True
            thread.join(20)
            worker.close()
    assert not thread.is_alive()


def exchange(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    held = response.read()
    connection.close()
    return response.status, held, response.headers


def test_requests_are_answered_refused_and_sent_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failing = False

    def work(request: Request) -> Answer:
        decode(request)
        if failing:
            raise RuntimeError("no memory")
        return outputs(request)

    whole = jpeg(pictures(1, 256)[0])
    monkeypatch.setattr(protocol, "MOST_BYTES", 2**20)
    with running(work) as (port, log):
        status, body, _ = exchange(port, "POST", "/", pickle.dumps(payload()))
        assert (status, pickle.loads(body)) == (200, {"outputs": payload()["queries"]})

        status, body, _ = exchange(
            port, "POST", "/", pickle.dumps(payload(images=[Attack(tmp_path / "proof")]))
        )
        assert status == 400 and b"its pickle holds" in body and body.count(b"\n") == 1
        status, body, _ = exchange(
            port, "POST", "/", pickle.dumps(payload(images=[whole, whole[: len(whole) // 2]]))
        )
        assert status == 400 and b"damaged" in body
        assert exchange(port, "POST", "/", b"\0" * (2**20 + 1))[0] == 413
        assert exchange(port, "POST", "/")[0] == 400
        assert exchange(port, "GET", "/")[0] == 405
        assert exchange(port, "GET", "/docs")[0] == 404
        # a page in a browser, whose name its owner has pointed at this machine
        assert exchange(port, "GET", "/health", Host="evil.example")[0] == 400
        assert sum(line.startswith("refused: ") for line in log) == 4

        failing = True
        status, body, headers = exchange(port, "POST", "/", pickle.dumps(payload(images=JPEGS[::-1])))
        assert (status, headers["Retry-After"]) == (503, str(serving.AGAIN_S))
        status, body, _ = exchange(port, "GET", "/health")
        assert status == 503 and json.loads(body)["fault"] == "RuntimeError: no memory"
        failing = False
        assert exchange(port, "POST", "/", pickle.dumps(payload(images=JPEGS[::-1])))[0] == 200
        status, body, _ = exchange(port, "GET", "/health")
        expected = {
            "status": "ready",
            "fault": None,
            "waiting": 0,
            "answered": 2,
            "from_cache": 0,
            "model": "tiny",
        }
        assert (status, json.loads(body)) == (200, expected)

        monkeypatch.setattr(serving, "BODY_S", 0.2)
        slow = socket.create_connection(("127.0.0.1", port), timeout=10)
        slow.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nabc")
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
        slow.close()
    assert not (tmp_path / "proof").exists()


def test_health_answers_while_a_batch_is_worked_on() -> None:
    go = threading.Event()

    def work(request: Request) -> Answer:
        assert go.wait(10)
        return outputs(request)

    with running(work, waiting=1) as (port, _):
        thread = threading.Thread(target=exchange, args=(port, "POST", "/", pickle.dumps(payload())))
        thread.start()
        try:
            deadline = time.monotonic() + 10
            while json.loads(exchange(port, "GET", "/health")[1])["waiting"] == 0:
                assert time.monotonic() < deadline
            status, body, _ = exchange(port, "POST", "/", pickle.dumps(payload(images=JPEGS[::-1])))
            assert status == 503 and b"1 requests are waiting" in body
        finally:
            go.set()
            thread.join(10)


# ------------------------------------------------------------------------------------------------------ the command


def test_what_cannot_be_served_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "vlm-bertscore", "--port", port]) == 1
        assert f"cannot listen on 127.0.0.1 port {port}: " in capsys.readouterr().err
    assert main(["serve", "vlm-bertscore", "--port", port, "--model", str(tmp_path)]) == 1
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith(f"pcpo serve: {tmp_path} cannot be loaded: ")
    assert main(["serve", "vlm-bertscore", "--port", port, "--device", "abacus"]) == 2
    assert main(["serve", "vlm-bertscore", "--port", port, "--host", "no such host"]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "something"])
