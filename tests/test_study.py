"""``pcpo study``: nobody sees which side is which or answers twice, and no acknowledged answer is ever lost."""

from __future__ import annotations

import io
import json
import logging
import math
import signal
import socket
import sqlite3
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.study_page import served
from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.report.stats import Estimate
from pcpo_overlay.tools.sample import folder
from pcpo_overlay.tools.study.answers import Answers, Vote
from pcpo_overlay.tools.study.pairs import load
from pcpo_overlay.tools.study.tally import left_share, share, tallies

Capture = pytest.CaptureFixture[str]
TEXTS = ("a <b>red</b> fox & a hen", "two boats at night", "the number three")
SEEDS = range(4)
#: The red of every pixel tells a test, and nobody else, which arm a picture is of.
RED = {"ours": 200, "epoch180": 20, "epoch240": 90}


def arm(path: Path, red: int, *, seeds: range = SEEDS, side: int = 24) -> Path:
    """A folder such as ``pcpo sample`` leaves, of pictures whose red is the arm's."""
    into = folder.begin(path, {"steps": red}, {}, {})
    drawn = []
    for n, text in enumerate(TEXTS):
        for seed in seeds:
            pixels = torch.randint(
                0,
                256,
                (3, side, side),
                generator=torch.Generator().manual_seed(100 * n + seed),
                dtype=torch.uint8,
            )
            pixels[0] = red
            drawn.append((folder.Picture(n, seed, text), pixels))
    folder.keep(into, drawn)
    return path


def made(base: Path, *more: str) -> Path:
    """A study of three arms: 3 prompts, 2 seeds, 2 comparisons are 12 pairs."""
    arms = [str(arm(base / name, red)) for name, red in RED.items()]
    assert (
        main(
            ["study", "make", *arms, "--pairs", "2", "--questions", "5", "--out", str(base / "study"), *more]
        )
        == 0
    )
    return base / "study"


def red(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return int(np.asarray(image)[0, 0, 0])


class Person:
    """A participant with a browser that has cookies and follows redirects; every reply is kept."""

    def __init__(self, address: str, query: str = "") -> None:
        self.replies: list[httpx.Response] = []
        hooks = {"response": [self.replies.append]}
        self.client = httpx.Client(base_url=address, follow_redirects=True, timeout=30, event_hooks=hooks)
        self.page = self.client.get("/" + query).text

    def begin(self) -> Person:
        self.page = self.client.post("begin").text
        return self

    @property
    def key(self) -> str | None:
        """Of the question on the page; None where there is none."""
        return self.page.partition('data-key="')[2].partition('"')[0] or None

    def reds(self) -> tuple[int, int]:
        left, right = (
            red(self.client.get(f"picture/{self.key}/{side}").content) for side in ("left", "right")
        )
        return left, right

    def form(self, *choices: str) -> dict[str, str]:
        return {"question": self.key or "", **{f"c{n}": choice for n, choice in enumerate(choices)}}

    def answer(self, *choices: str) -> None:
        reply = self.client.post("answer", data=self.form(*choices))
        assert reply.status_code == 200, reply.text
        self.page = reply.text


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def address(study: Path) -> Iterator[str]:
    """Of one server that several tests share, each with participants of its own."""
    with served(study, "--port", "0") as (at, _):
        yield at


def votes_of(study: Path) -> list[Vote]:
    return Answers(load(study), create=False).votes()


# --- making one ---------------------------------------------------------------------------------------------------


def test_pairs_are_of_one_prompt_and_seed_and_their_files_say_nothing(tmp_path: Path) -> None:
    study = load(made(tmp_path))
    assert Counter(p.against for p in study.pairs) == {1: 6, 2: 6}
    assert set(Counter((p.against, p.prompt) for p in study.pairs).values()) == {2}
    assert len({(p.against, p.prompt, p.seed) for p in study.pairs}) == 12
    for pair in study.pairs:
        for name, of in ((pair.first, "ours"), (pair.other, study.arms[pair.against])):
            source = folder.load(tmp_path / of)
            drawn = source.read(
                folder.Picture(pair.prompt, pair.seed, pair.text, digest(source, pair.prompt, pair.seed))
            )
            data = study.picture(name).read_bytes()
            assert torch.equal(folder.decode(data), drawn) and chunks(data) == {b"IHDR", b"IDAT", b"IEND"}
    names = {p.name for p in (tmp_path / "study" / "pictures").iterdir()}
    assert len(names) == 24 and all(len(n) == 36 for n in names)


def digest(source: folder.Folder, prompt: int, seed: int) -> str:
    return next(p.sha256 for p in source.pictures() if (p.prompt, p.seed) == (prompt, seed))


def chunks(png: bytes) -> set[bytes]:
    found, at = set(), 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        found.add(png[at + 4 : at + 8])
        at += 12 + length
    return found


def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path: Path, capsys: Capture) -> None:
    one, other = str(arm(tmp_path / "one", 1)), str(arm(tmp_path / "other", 2))
    out = ["--out", str(tmp_path / "study")]
    fewer, larger = str(arm(tmp_path / "fewer", 3, seeds=range(1))), str(arm(tmp_path / "larger", 4, side=32))
    for words, code, said in (
        ([one, other, "--pairs", "5"], 1, "one and other have 4 seeds in common of prompt 0"),
        ([one, fewer, "--pairs", "2"], 1, "one and fewer have 1 seeds in common of prompt 0"),
        ([one, larger, "--pairs", "1"], 1, "has 32x32 pixels, and others have 24x24"),
        ([one, one, "--pairs", "1"], 1, "two arms are called one"),
        ([one], 2, "two folders of pictures or more"),
        ([one, other, "--labels", "a"], 2, "1 labels for 2 folders"),
        ([one, other, "--category", "a=b", "--category", "a=c"], 2, "two --category have the same name"),
        ([one, str(tmp_path)], 1, "is no folder of `pcpo sample`"),
    ):
        capsys.readouterr()
        assert main(["study", "make", *words, *out]) == code
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("pcpo study: ") and said in line
        assert not (tmp_path / "study").exists()


def test_a_study_with_answers_is_never_replaced(tmp_path: Path, capsys: Capture) -> None:
    study = made(tmp_path)
    answers = Answers(load(study), create=True)
    key = answers.begin()
    kept = (study / "study.json").read_bytes()
    words = [str(tmp_path / "ours"), str(tmp_path / "epoch180"), "--pairs", "2", "--out", str(study)]
    assert main(["study", "make", *words]) == 1
    assert "answers.sqlite" in capsys.readouterr().err
    assert (study / "study.json").read_bytes() == kept and answers.knows(key)


def test_answers_of_another_study_are_refused(tmp_path: Path, capsys: Capture) -> None:
    for name in ("a", "b"):
        Answers(load(made(tmp_path / name)), create=True)
    (tmp_path / "a" / "study" / "answers.sqlite").replace(tmp_path / "b" / "study" / "answers.sqlite")
    capsys.readouterr()
    assert main(["study", "report", str(tmp_path / "b" / "study"), "--out", str(tmp_path / "report")]) == 1
    assert "answers of another study" in capsys.readouterr().err


def test_every_participants_questions_are_drawn_at_random(tmp_path: Path) -> None:
    answers = Answers(load(made(tmp_path)), create=True)
    people = [answers.begin() for _ in range(60)]
    with closing(sqlite3.connect(answers.path)) as db:
        rows = db.execute("SELECT participant, number, pair, swapped FROM question").fetchall()
    assert len(rows) == 60 * 5 and len(set(people)) == 60
    assert len({(person, pair) for person, _, pair, _ in rows}) == 300  # no pair twice
    # 300 draws: of the sides within 5 standard deviations; most pairs come first for somebody
    assert abs(sum(swapped for *_, swapped in rows) - 150) < 5 * math.sqrt(75)
    assert len({pair for _, number, pair, _ in rows if number == 1}) > 8
    assert len({tuple(pair for p, _, pair, _ in rows if p == person) for person in range(1, 61)}) > 50


# --- one participant ----------------------------------------------------------------------------------------------


def test_a_participant_is_blind_and_what_they_choose_is_counted(study: Path, address: str) -> None:
    before, person = len(votes_of(study)), Person(address)
    assert "5 pairs" in person.page
    person.begin()
    for number in range(1, 6):
        assert f"Pair {number} of 5" in person.page
        left, right = person.reds()
        assert (left == RED["ours"]) != (right == RED["ours"])
        ours, other = ("left", "right") if left == RED["ours"] else ("right", "left")
        person.answer(ours, "same", other)
    assert "Thank you" in person.page and person.key is None
    mine = votes_of(study)[-15:]
    assert len(votes_of(study)) == before + 15
    assert {(v.category, v.outcome) for v in mine} == {
        ("overall", "win"),
        ("quality", "tie"),
        ("prompt", "loss"),
    }
    held = load(study)
    secret = [
        *held.arms,
        *(name for p in held.pairs for name in (p.first, p.other)),
        str(study),
        "answers.sqlite",
    ]
    for reply in person.replies:
        sent = f"{reply.url} {reply.headers} {reply.content.decode('latin-1')}"
        assert not [word for word in secret if word in sent]
        assert "etag" not in reply.headers or reply.url.path.startswith("/study.")
    pictures = [r for r in person.replies if r.url.path.startswith("/picture/")]
    assert len({r.url.path for r in pictures}) == len(pictures) == 10
    assert "a &lt;b&gt;red" in "".join(
        r.text for r in person.replies if "text/html" in r.headers.get("content-type", "")
    )


def test_nobody_answers_twice_or_for_another(study: Path, address: str) -> None:
    person, other = Person(address).begin(), Person(address).begin()
    stale = person.form("left", "left", "left")
    with ThreadPoolExecutor(8) as pool:  # a double click, eight times over
        replies = list(
            pool.map(
                lambda _: httpx.post(f"{address}answer", data=stale, cookies=person.client.cookies), range(8)
            )
        )
    assert {r.status_code for r in replies} == {303}
    count = len(votes_of(study))
    stale["c0"] = "right"
    assert person.client.post("answer", data=stale).status_code == 200
    assert len(votes_of(study)) == count and votes_of(study)[-1].choice == "left"

    theirs = other.form("left", "left", "left")
    for data in (theirs, {**theirs, "question": "none"}, {}):
        assert person.client.post("answer", data=data).status_code == 400
    for choices in (("left", "left"), ("left", "left", "up"), ()):
        reply = other.client.post("answer", data=other.form(*choices))
        assert reply.status_code == 400 and "needs an answer" in reply.text
    assert httpx.get(f"{address}picture/{other.key}/left").status_code == 404
    assert person.client.get(f"picture/{other.key}/left").status_code == 404
    assert other.client.get(f"picture/{other.key}/middle").status_code == 404
    assert len(votes_of(study)) == count
    key = other.key
    assert other.begin().key == key  # beginning again goes on


def test_a_reload_and_a_hostile_form(address: str) -> None:
    person = Person(address).begin()
    reds, page = person.reds(), person.page
    assert person.client.get("/").text == page and person.reds() == reds
    assert person.client.post("answer", content=b"x" * 100_000).status_code == 413
    assert person.client.post("answer", content=b"\xff\xfe&question=%ff").status_code == 400
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(address, cookies={"pcpo_study_x": "'; DROP TABLE answer"}).status_code == 200
    assert (
        httpx.get(f"{address}study.json").status_code
        == httpx.get(f"{address}picture/..%2f/left").status_code
        == 404
    )


# --- many, and a kill ---------------------------------------------------------------------------------------------


def through(address: str, at_once: threading.Barrier) -> int:
    at_once.wait(30)
    person, count = Person(address).begin(), 0
    while person.key:
        person.reds()
        person.answer("left", "same", "right")
        count += 1
    return count


def test_twenty_at_once(study: Path, address: str) -> None:
    before = Counter(v.participant for v in votes_of(study))
    barrier = threading.Barrier(20)
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda _: through(address, barrier), range(20))) == [5] * 20
    after = Counter(v.participant for v in votes_of(study)) - before
    assert sorted(after.values()) == [15] * 20


def test_a_kill_loses_no_acknowledged_answer_and_people_go_on(tmp_path: Path) -> None:
    study = made(tmp_path)
    acknowledged: Counter[str] = Counter()
    people: list[Person] = []
    with served(study, "--port", "0") as (address, server):
        people += [Person(address).begin() for _ in range(6)]

        def work(person: Person) -> None:
            try:
                while person.key:
                    key = person.key
                    person.answer("left", "left", "same")
                    acknowledged[key] += 3
            except httpx.HTTPError:
                return  # the kill

        threads = [threading.Thread(target=work, args=(person,)) for person in people]
        for thread in threads:
            thread.start()
        while sum(acknowledged.values()) < 24:
            time.sleep(0.002)
        server.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join(30)
    with closing(sqlite3.connect(study / "answers.sqlite")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        kept = Counter(key for (key,) in db.execute("SELECT question FROM answer"))
    assert not acknowledged - kept and set(kept.values()) == {3}  # nothing lost, nothing half
    assert len(kept) < 30
    port = str(httpx.URL(address).port)
    with served(study, "--port", port):
        for person in people:
            person.page = person.client.get("/").text
            while person.key:
                person.answer("right", "same", "same")
            assert "Thank you" in person.page
    assert set(Counter(v.participant for v in votes_of(study)).values()) == {15}


# --- the door -----------------------------------------------------------------------------------------------------


def test_with_a_host_it_asks_for_a_token_and_it_stops_in_a_line(tmp_path: Path) -> None:
    study = made(tmp_path)
    with served(study, "--host", "127.0.0.1", "--port", "0") as (link, server):
        address, _, token = link.partition("?token=")
        assert token == Answers(load(study), create=False).token and len(token) > 20
        stranger = Person(address)
        assert stranger.replies[-1].status_code == 403 and 'name="token"' in stranger.page
        for reply in (
            stranger.client.post("begin"),
            stranger.client.post("answer", data={}),
            stranger.client.get("picture/a/left"),
            stranger.client.get("/?token=wrong"),
            stranger.client.post("token", data={"token": "wrong\xe9"}),
        ):
            assert reply.status_code == 403
        assert Answers(load(study), create=False).turnout().began == 0
        typed = stranger.client.post("token", data={"token": f" {token}\n"})
        assert typed.status_code == 200 and "Begin" in typed.text
        invited = Person(address, f"?token={token}")
        assert "Begin" in invited.page and "token" not in str(invited.replies[-1].url)
        assert invited.begin().key and len(invited.reds()) == 2
        assert httpx.get(address, headers={"Host": "study.example"}).status_code == 403  # behind a proxy
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=20)
        assert server.returncode == 130
        assert said.splitlines()[-1].startswith("pcpo study: stopped; the answers are in ")


def test_without_one_it_listens_to_this_machine_alone(
    study: Path, address: str, capsys: Capture, tmp_path: Path
) -> None:
    assert httpx.URL(address).host == "127.0.0.1"
    port = str(httpx.URL(address).port)
    with closing(logging.FileHandler(tmp_path / "log")) as others:
        assert main(["study", "serve", str(study), "--port", port]) == 1
        assert others.stream is not None  # which closing it would have made it
    assert f"127.0.0.1 port {port} cannot be listened at" in capsys.readouterr().err
    with socket.socket() as probe:
        probe.settimeout(1)
        with pytest.raises(OSError):
            probe.connect(("127.0.0.2", int(port)))


# --- what they say ------------------------------------------------------------------------------------------------


def cast(people: list[list[str]]) -> list[Vote]:
    """Outcomes by participant, in one category."""
    choice = {"win": "left", "tie": "same", "loss": "right"}
    return [Vote(n, 1, "overall", choice[o], o) for n, held in enumerate(people) for o in held]


def won(vote: Vote) -> float:
    return float(vote.outcome == "win")


def test_intervals_are_clustered_by_participant() -> None:
    draw = np.random.default_rng(0)
    people = [["win" if draw.random() < 0.6 else "loss"] for _ in range(200)]
    single = share(cast(people), won)
    p = 1 - sum(held == ["loss"] for held in people) / 200
    assert single.mean == pytest.approx(100 * p) and single.low is not None and single.high is not None
    # one answer each is a binomial
    assert single.high - single.low == pytest.approx(2 * 196 * math.sqrt(p * (1 - p) / 200), rel=0.1)
    # ten times the same answer from everyone is no more evidence
    many = share(cast([held * 10 for held in people]), won)
    assert (many.mean, many.low, many.high) == pytest.approx((single.mean, single.low, single.high))


def test_the_interval_is_that_of_a_cluster_robust_variance() -> None:
    draw = np.random.default_rng(1)
    tastes = draw.beta(2, 1.5, 120)
    people = [
        ["win" if draw.random() < taste else "loss" for _ in range(draw.integers(2, 12))] for taste in tastes
    ]
    found = share(cast(people), won)
    total, count = np.array([held.count("win") for held in people]), np.array([len(held) for held in people])
    residual = total - count * total.sum() / count.sum()
    error = 100 * np.sqrt((residual**2).sum()) / count.sum()
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    naive = 100 * math.sqrt(total.sum() / count.sum() * (1 - total.sum() / count.sum()) / count.sum())
    assert error > 1.2 * naive


def test_no_interval_is_claimed_where_there_is_none() -> None:
    assert share(cast([["win"], ["loss"]]), won) == Estimate(50.0)  # two people
    assert share(cast([["win"]] * 9), won) == Estimate(100.0)  # all alike
    assert share([], won) == Estimate()


def test_shares_add_up_and_the_left_is_told() -> None:
    votes = cast([["win", "tie"], ["loss", "loss", "tie"], ["win", "win"]])
    first, empty = tallies(votes, ["overall"], 3)
    assert (first.win.mean, first.tie.mean, first.loss.mean) == pytest.approx((300 / 7, 200 / 7, 200 / 7))
    assert first.lead.mean == pytest.approx(100 / 7) and (first.answers, first.participants) == (7, 3)
    assert (empty.against, empty.answers, empty.win) == (2, 0, Estimate())
    assert left_share(votes).mean == pytest.approx(60)


def test_the_report(tmp_path: Path, capsys: Capture) -> None:
    study, out = made(tmp_path), tmp_path / "report"
    words = ["study", "report", str(study), "--out", str(out)]
    assert main(words) == 1 and "has no answers yet" in capsys.readouterr().err
    answers = Answers(load(study), create=True)
    assert main(words) == 1 and "nobody has answered yet (0 began)" in capsys.readouterr().err
    for n in range(6):
        person = answers.begin()
        while n and (question := answers.current(person)):
            ours, other = ("right", "left") if question.swapped else ("left", "right")
            answers.record(question, {"overall": ours, "quality": other if n % 2 else ours, "prompt": "same"})
    for _ in range(2):  # a second one takes the place of the first
        assert main(words) == 0
        printed = capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {
        "report.md",
        "report.json",
        "preference.png",
        ".pcpo-made.json",
    }
    text = (out / "report.md").read_text()
    assert "6 people began, 5 answered all of their 5 pairs" in text and printed.splitlines()[2] in text
    numbers = json.loads((out / "report.json").read_text())
    assert len(numbers["tallies"]) == 6 and sum(t["answers"] for t in numbers["tallies"]) == 75
    for held in numbers["tallies"]:
        assert {"overall": held["win"], "prompt": held["tie"]}.get(held["category"], {"mean": 100})[
            "mean"
        ] == 100
        assert held["win"]["mean"] + held["tie"]["mean"] + held["loss"]["mean"] == pytest.approx(100)
    with Image.open(out / "preference.png") as image:
        assert image.width > 900
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20


def test_a_damaged_study_is_a_line(tmp_path: Path, capsys: Capture) -> None:
    study = made(tmp_path)
    held = json.loads((study / "study.json").read_text())
    for change, said in (
        ({"pairs": [{"first": 1}]}, "is damaged"), ({"questions": 99}, "is damaged"),
        ({"format": 9}, "not of this version"),
        ({"pairs": [{**held["pairs"][0], "first": "../x"}], "questions": 1}, "is damaged"),
    ):  # fmt: skip
        (study / "study.json").write_text(json.dumps({**held, **change}))
        capsys.readouterr()
        assert main(["study", "serve", str(study)]) == 1
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    (study / "study.json").write_text(json.dumps(held))
    next((study / "pictures").iterdir()).unlink()
    assert main(["study", "serve", str(study)]) == 1 and "is gone" in capsys.readouterr().err
