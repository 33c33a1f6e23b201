"""Run folders that anybody may have written: each fault is one line that names its place, and no traceback."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import write_quality, write_run

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.faults import printable
from pcpo_overlay.tools.report import build
from pcpo_overlay.tools.runs.files import RunError, parse_object, read_object
from pcpo_overlay.tools.runs.run import find, load
from pcpo_overlay.tools.runs.tail import MetricsTail

FILES = ("run.json", "metrics.jsonl", "evaluation.jsonl")
#: With those of test_hostile_commands there are 2,000, in a minute all together on a quiet machine.
MUTATIONS = 1000
#: How many of them are drawn too, which takes a second each.
DRAWN = 6


def command(*argv: object) -> int:
    return main(["report", *map(str, argv)])


def whole_run(path: Path, mode: str = "observe") -> Path:
    """A run with everything in it that is read."""
    run = write_run(
        path, mode, rewards=[0.0, 1.0, 2.0], steps_per_epoch=1, kl=[0.1, 0.2, 0.3],
        evaluations={0: 1.0, 3: 2.0}, resolved={"std": [0.5, 0.25], "std_native": [0.5, 0.25]},
    )  # fmt: skip
    return write_quality(run, {0: 0.0, 3: 1.0})


#: JSON texts in place of a value, as they stand in a file.
NASTY = (
    "null", "true", "-1", "0", "1e400", "-1e400", "1e308", "-1e308", "1e-320", "NaN", "Infinity", "-Infinity",
    "1" + "0" * 309, "9" * 5000, "1" + "0" * 18, "2.5", '""', '"x"', "[]", "{}", '[{}]', '{"a": 1}', '"\\ud800"',
    '"\\u0000"', '"a\\nb|c`"', '"../../up"', '"$\\\\frac{"', '"' + "x" * 3000 + '"', "[" * 2000 + "]" * 2000,
    '{"a":' * 300 + "1" + "}" * 300, "[1, 2, 3]", '["a", null]', "1e99", "-0.0", "123456789012345678901234",
)  # fmt: skip
PLACE = "\u2603"


def mutated(text: str, draw: random.Random) -> bytes:
    """A text of JSON lines with one or two faults: in its bytes, in a value, in a name, or in its lines."""
    kind = draw.choice(("bytes", "value", "value", "value", "name", "lines"))
    lines = text.splitlines()
    if kind == "lines":
        n = draw.randrange(len(lines))
        lines[n:n] = draw.choice(([], [lines[n]], ["{}"], ["[]"], ["null"], [""], ["[" * 5000]))
        if draw.random() < 0.5:
            del lines[draw.randrange(len(lines))]
        return "\n".join(lines).encode()
    if kind == "bytes":
        data = bytearray(text.encode())
        at = draw.randrange(len(data))
        data[at : at + draw.randrange(1, 30)] = draw.choice(
            (b"", b"\xff", b"\x00", b"{", b"]", b'"', b"9" * 40, b"-")
        )
        return bytes(data[: draw.choice((len(data), len(data), at + 1))])
    whole = text.startswith("{\n") or len(lines) == 1
    n = 0 if whole else draw.randrange(len(lines))
    value = json.loads(text if whole else lines[n])
    change(value, draw, rename=kind == "name")
    made = json.dumps(value).replace(f'"{PLACE}"'.encode("unicode_escape").decode(), draw.choice(NASTY))
    made = made.replace(json.dumps(PLACE), draw.choice(NASTY))
    return made.encode() if whole else "\n".join([*lines[:n], made, *lines[n + 1 :]]).encode() + b"\n"


def change(value: Any, draw: random.Random, *, rename: bool) -> None:
    """Put :data:`PLACE` where something was, at any depth, or give an entry another name or none."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw.choice(keys)
        held = value[key]
        if isinstance(held, dict | list) and held and draw.random() < 0.7:
            value = held
            continue
        if rename and isinstance(value, dict):
            held = value.pop(key)
            if draw.random() < 0.7:
                value[draw.choice(("", "x", "\ud800", "$", "epoch", "kind", "a.b", "\n"))] = held
        else:
            value[key] = PLACE
        return


@pytest.mark.slow
def test_no_mutation_of_a_run_folder_shows_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = build.draw_all
    draw = random.Random(18)
    run, twin = whole_run(tmp_path / "runs" / "a"), whole_run(tmp_path / "b", "full")
    texts = {name: (run / name).read_text() for name in FILES}
    texts["run.json"] = json.dumps(json.loads(texts["run.json"]))
    refused = 0
    started = time.process_time()
    for n in range(MUTATIONS):
        name = draw.choice(FILES)
        data = mutated(texts[name], draw)
        (run / name).write_bytes(data)
        monkeypatch.setattr(build, "draw_all", drawing if n % (MUTATIONS // DRAWN) == 0 else lambda *args: {})
        runs = [run, twin] if n % 20 == 0 else [run]
        told = f"mutation {n} of {name}: {data[:2000]!r}"
        try:
            code = command(*runs, "--out", tmp_path / "out")
        except Exception as error:
            raise AssertionError(told) from error
        err = capsys.readouterr().err.splitlines()
        assert code in (0, 1), told
        assert all(line.startswith("pcpo report: ") for line in err) and bool(err) == (code == 1), (told, err)
        refused += code
        (run / name).write_text(texts[name])
    assert MUTATIONS / 10 < refused < MUTATIONS * 0.9, "the mutations are all refused, or none is"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "out", "runs"], "nothing is written elsewhere"
    took = time.process_time() - started
    assert took < 60, f"{took:.1f} s"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("run.json", {"trainer": []}, "run.json: trainer is a list in place of an object"),
        ("run.json", {"upstream": 7}, "run.json: upstream is a number in place of a text"),
        ("run.json", {"upstream": "../../up"}, "run.json: upstream is no word: '../../up'"),
        ("run.json", {"pcpo": {"mode": "full", "weights": "$x$"}}, "run.json: pcpo.weights is no word"),
        ("run.json", {"clip_range": PLACE + "1e400"}, "run.json: clip_range is too large for a number"),
        ("run.json", {"clip_range": PLACE + "-Infinity"}, "run.json: clip_range is infinite"),
        ("run.json", {"seed": PLACE + "9" * 5000}, "run.json: seed is a whole number of 5000 digits"),
        ("run.json", {"trainer": {"a": [PLACE + "1e999"]}}, "run.json: trainer.a[0] is too large"),
        ("run.json", {"argv": PLACE + "[" * 60 + "]" * 60}, "run.json: argv"),
        ("run.json", {"argv": PLACE + "[" * 9999 + "]" * 9999}, "more than 50 levels deep"),
        ("run.json", {"status": PLACE + '"\\ud800"'}, "status holds half of a character"),
        ("metrics.jsonl", {"per_timestep": 3}, "metrics.jsonl: per_timestep is a number in place of an object"),
        ("metrics.jsonl", {"per_timestep": {"count": 3}}, "per_timestep.count is a number in place of a list"),
        ("metrics.jsonl", {"reward_mean": PLACE + "1" + "0" * 309}, "reward_mean is a whole number of 310 digits"),
        ("metrics.jsonl", {"epoch": -1}, "metrics.jsonl has no epoch number"),
        ("metrics.jsonl", {"epoch": True}, "metrics.jsonl has no epoch number"),
        ("metrics.jsonl", {"epoch": 10**12}, "metrics.jsonl has no epoch number"),
        ("evaluation.jsonl", {"overall": {"reward": 1.0}}, "evaluation.jsonl is damaged; move the file away"),
        ("evaluation.jsonl", {"prompts": {}}, "evaluation.jsonl is damaged; move the file away"),
    ],
)  # fmt: skip
def test_a_field_that_is_not_what_it_should_be_is_named(
    tmp_path: Path, file: str, change: dict[str, Any], said: str
) -> None:
    run = whole_run(tmp_path / "a")
    *before, last = [json.loads(line) for line in (run / file).read_text().splitlines()]
    for record in (last, *before):
        if file != "metrics.jsonl" or record["kind"] == "epoch":
            record.update(change)
    made = "\n".join(json.dumps(record) for record in [*before, last]) + "\n"
    while PLACE.encode("unicode_escape").decode() in made:
        start = made.index(f'"{PLACE.encode("unicode_escape").decode()}')
        end = json.JSONDecoder().raw_decode(made, start)[1]
        made = made[:start] + json.loads(made[start:end])[1:] + made[end:]
    (run / file).write_text(made)
    with pytest.raises(RunError) as error:
        load(run)
    assert said in str(error.value) and str(run) in str(error.value) and "\n" not in str(error.value)


def test_a_number_beyond_computing_is_left_out_and_said(tmp_path: Path) -> None:
    run = load(write_run(tmp_path / "a", rewards=[0.0, 1e300, 2.0]))
    assert run.series("reward_mean").to_dict() == {0: 0.0, 2: 2.0}
    assert "1 numbers beyond 1e100 are left out" in run.notes


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(run: Path) -> str:
        assert command(run, "--out", tmp_path / "out") == 1
        first, *rest = capsys.readouterr().err.splitlines()
        assert rest == ["pcpo report: no run could be read; no report is written"]
        return first

    pipe = whole_run(tmp_path / "pipe")
    (pipe / "run.json").unlink()
    os.mkfifo(pipe / "run.json")
    assert "run.json is not a regular file" in refused(pipe)
    folder = whole_run(tmp_path / "folder")
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    assert "metrics.jsonl is not a regular file" in refused(folder)
    loop = whole_run(tmp_path / "loop")
    (loop / "run.json").unlink()
    (loop / "run.json").symlink_to("run.json")
    assert "run.json cannot be read: " in refused(loop)
    large = whole_run(tmp_path / "large")
    os.truncate(large / "run.json", 2**30)
    assert "run.json is larger than 16 MiB" in refused(large)
    line = whole_run(tmp_path / "line")
    os.truncate(line / "metrics.jsonl", 2**25)
    assert "metrics.jsonl: line " in refused(line)
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_read_are_named_and_the_others_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "draw_all", lambda *args: {})
    good = whole_run(tmp_path / "runs" / "good")
    (tmp_path / "runs" / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:  # whoever runs the tests may be allowed to read everything
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert command(tmp_path / "runs", "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err == f"pcpo report: {tmp_path / 'runs' / 'closed'}: Permission denied\n"
    assert good.name in (tmp_path / "out" / "report.md").read_text()

    too_long = tmp_path / ("x" * 5000)
    _, errors = find([too_long, Path("a\0b"), tmp_path / "runs" / "good" / "run.json"])
    assert len(errors) == 3 and all("\n" not in error for error in errors)
    assert "too long" in errors[0] and "not a folder" in errors[2]


def test_an_out_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = whole_run(tmp_path / "a")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "loop" / "out", tmp_path / "file" / "out", tmp_path / ("x" * 5000)):
        assert command(run, "--out", out) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("pcpo report: ") and "cannot be written" in line


def test_a_name_of_any_bytes_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "draw_all", lambda *args: {})
    run = whole_run(tmp_path / "plain")
    for name in (os.fsdecode(b"\xff\xfe"), "two\nlines", "bell\a"):
        renamed = tmp_path / name
        shutil.copytree(run, renamed)
        assert command(renamed, "--out", tmp_path / "out") == 0
        assert printable(name) in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""


def test_a_window_of_any_size_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "draw_all", lambda *args: {})
    run = write_run(tmp_path / "a", rewards=[float(n) for n in range(400)], steps_per_epoch=1)
    started = time.monotonic()
    for window in (10**7, 10**30):
        assert command(run, "--out", tmp_path / "out", "--window", window) == 0
    assert time.monotonic() - started < 10


def test_what_is_read_within_bounds() -> None:
    assert parse_object('{"a": NaN, "b": 1e-400, "c": "é", "d": [[1]]}', "x") == {
        "a": None, "b": 0.0, "c": "é", "d": [[1]],
    }  # fmt: skip
    with pytest.raises(RunError, match=r"^x is not a JSON object but a list$"):
        parse_object("[]", "x")


def test_a_tail_passes_over_what_it_cannot_read(tmp_path: Path) -> None:
    follower = MetricsTail(tmp_path)
    lines = [
        "[" * 9999,
        '{"kind": "epoch", "reward_mean": "x"}',
        '{"kind": "epoch", "reward_mean": 1e400}',
        "\ud800",
    ]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + b"\n")
    (tmp_path / "run.json").write_text("[" * 9999)
    assert follower.poll() and (follower.epochs, follower.reward, follower.total) == (1, None, None)


def test_a_missing_file_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "nothing.json")
