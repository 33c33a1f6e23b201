"""One display of long work: lines where nobody looks on, bars on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from pcpo_overlay.tools.progress import Display, bar, make_display


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(display: Display) -> None:
    with display:
        display.started(0, "output in x")
        display.step(0, 1, told="reward 2")
        display.step(0, 2, 5)
        display.say("a note of [bold]no[/bold] markup")
        display.ended(0, "FAILED")
        display.ended(1, "finished already", 3)


def test_lines() -> None:
    stream = io.StringIO()
    work(make_display(["a", "b"], 3, "epoch", stream))
    assert stream.getvalue().splitlines() == [
        "[1/2] a: started, output in x",
        "[1/2] a: epoch 1/3, reward 2",
        "[1/2] a: epoch 2/5",
        "a note of [bold]no[/bold] markup",
        "[1/2] a: FAILED",
        "[2/2] b: finished already",
    ]


def test_steps_without_a_name_are_no_lines() -> None:
    stream = io.StringIO()
    display = make_display(["a"], stream=stream)
    with display:
        display.started(0)
        display.step(0, 1, 2)
    assert stream.getvalue() == ""


def test_bars() -> None:
    pytest.importorskip("rich")
    stream = Terminal()
    work(make_display(["a [x]", "b"], 3, "epoch", stream))
    shown = stream.getvalue()
    for text in ("a [x]", "2/5", "3/3", "FAILED", "finished already", "[bold]no[/bold]"):
        assert text in shown, text


def test_bars_without_rich_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    stream = Terminal()
    work(make_display(["a", "b"], 3, "epoch", stream))
    assert "[1/2] a: epoch 2/5\n" in stream.getvalue()


def test_a_bar_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("embedding", 4, "prompts") as report:
        report(2)
        report(4, 0.5)
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == (
        "",
        ["[1/1] embedding: prompts 2/4", "[1/1] embedding: prompts 4/4, loss 0.5000"],
    )
