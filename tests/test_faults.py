"""How the command line fails: one line on stderr, a documented code, and no traceback on the terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import pcpo_overlay.__main__ as command_line
from pcpo_overlay.__main__ import COMMANDS, main
from pcpo_overlay.config import PCPOError
from pcpo_overlay.tools.faults import Fault, Stopped, WrongArgument, guarded

Capture = pytest.CaptureFixture[str]


def fails_with(error: BaseException, capsys: Capture) -> tuple[int, str]:
    def run() -> int:
        raise error

    code = guarded("pcpo toy", run)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("pcpo toy: ")
    return code, err.removeprefix("pcpo toy: ").rstrip("\n")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (Fault("it is not so"), 1, "it is not so"),
        (Fault("two\nlines and a bell\a"), 1, "two lines and a bell\\x07"),
        (WrongArgument("--x: no"), 2, "--x: no"),
        (PCPOError("PCPO: no such mode"), 2, "PCPO: no such mode"),
        (ImportError("this needs rich"), 1, "this needs rich"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "/x/y: Permission denied"),
        (OSError("the disk is on fire"), 1, "the disk is on fire"),
        (KeyboardInterrupt(), 130, "stopped"),
        (Stopped("stopped; type it again"), 130, "stopped; type it again"),
    ],
)
def test_what_is_expected_is_one_line_and_a_code(
    error: BaseException, code: int, told: str, capsys: Capture
) -> None:
    assert fails_with(error, capsys) == (code, told)


def test_the_unexpected_is_one_line_and_its_traceback_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, line = fails_with(KeyError("what\nnobody thought of"), capsys)
    (file,) = tmp_path.iterdir()
    assert code == 70 and line.startswith("unexpected KeyError: ") and str(file) in line
    text = file.read_text()
    assert text.startswith("Traceback") and "raise error" in text and "nobody thought of" in text


def test_the_unexpected_where_no_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    code, line = fails_with(ValueError("no"), capsys)
    assert code == 70 and line.endswith("its traceback could not be written")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_fails_in_this_way(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Through the parser, with whatever function the command has."""
    least: dict[str, list[str]] = {
        "weights": ["ddim"], "ab": ["ddpo"], "evaluate": ["x"], "report": ["x"], "experiments": [],
        "embed": ["flux", "--model", "x", "--prompts", "x", "--out", "x"], "miniature": ["check", "sd"],
        "demo": [], "doctor": ["x"], "sample": ["--model", "x", "--prompts", "x", "--out", "x"],
        "grid": ["x", "--out", "x"], "export-lora": ["x", "--out", "x"], "score": ["x", "--metrics", "fid"],
        "reward": ["pickscore", "--out", "x"],
        "serve": ["vlm-bertscore"], "study": ["report", "x"],
    }  # fmt: skip
    parser = command_line.build_parser()
    monkeypatch.setattr(command_line, "build_parser", lambda: parser)
    parse = parser.parse_args

    def failing(args: object) -> int:
        raise Fault("made on purpose")

    def with_failing(words: list[str]) -> object:
        args = parse(words)
        args.func = failing
        return args

    monkeypatch.setattr(parser, "parse_args", with_failing)
    assert main([command, *least[command]]) == 1
    assert capsys.readouterr().err == f"pcpo {command}: made on purpose\n"


@pytest.mark.parametrize(
    "words",
    [
        ["report", "a\0b"],
        ["ab", "ddpo", "--config", "x\0.py"],
        ["evaluate", "x", "--samples", "1" + "0" * 6],
        ["evaluate", "x", "--samples", "9" * 5000],
        ["evaluate", "x", "--seed", str(2**32)],
        ["evaluate", "x", "--seed", "9" * 5000],
        ["miniature", "check", "sd", "--seed", str(2**64)],
        ["miniature", "check", "sd", "--guidance", "nan"],
        ["weights", "ddim", "--eta", "inf"],
    ],
)
def test_wrong_arguments_are_one_short_line(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and err.count("\n") == 1 and len(err) < 400


def in_a_process(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_ctrl_c_is_130_without_a_traceback() -> None:
    run = in_a_process(
        "import sys, time, pcpo_overlay.__main__ as m\n"
        "def _run(words):\n    print('here', flush=True)\n    time.sleep(60)\n"
        "m._run = _run\nsys.exit(m.main(['report', 'x']))"
    )
    assert run.stdout is not None and run.stdout.readline() == "here\n"
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (130, "pcpo: stopped\n")


def test_a_name_that_stdout_cannot_hold_is_printed_all_the_same() -> None:
    code = (
        "import sys, pcpo_overlay.__main__ as m\n"
        "m._run = lambda words: print('Fr\\xe9chet', '\\udcff') or 0\nsys.exit(m.main(['report', 'x']))"
    )
    run = in_a_process(code, PYTHONIOENCODING="ascii")
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (0, "Fr\\xe9chet \\udcff\n", "")


def test_the_codes_are_documented() -> None:
    told = command_line.__doc__ or ""
    assert set(re.findall(r"\b(\d+)\b", told)) == {"0", "1", "2", "70", "130"}
    assert "70 a fault of pcpo itself" in (command_line.build_parser().epilog or "")


def test_a_hostile_name_of_a_run_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    assert main(["report", str(tmp_path / "two\nlines"), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and "two\\nlines" in err[0]  # the second: that nothing could be read
