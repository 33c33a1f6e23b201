"""What a run says is readable, whatever else is drawn on the terminal."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tqdm import tqdm
from tqdm.auto import tqdm as auto_tqdm

from pcpo_overlay.messages import say


def shown(stream: str) -> list[str]:
    """The lines of a terminal that was sent this: tqdm returns to a line's start and goes up to an outer bar."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\r|\n|\x1b\[A|[^\r\n\x1b]+", stream):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif part == "\x1b[A":
            row -= 1
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("bar_type", [tqdm, auto_tqdm])
def test_a_line_has_no_part_of_a_progress_bar(
    bar_type: type[tqdm], capfd: pytest.CaptureFixture[str]
) -> None:
    with bar_type(total=4, desc="outer", mininterval=0) as outer:
        outer.update()
        with bar_type(total=4, desc="inner", position=1, leave=False, mininterval=0) as inner:
            inner.update()
            say("mode full")
            inner.update()
        outer.update()
    out, err = capfd.readouterr()
    assert out == ""
    lines = shown(err)
    assert lines[0] == "[pcpo] mode full"
    assert lines[1].startswith("outer:  50%") and not any(lines[2:])
    assert "inner:  25%" in err.split("[pcpo] mode full\n")[1]  # the bar that is gone by now


def test_without_tqdm_it_is_a_line_on_stderr() -> None:
    program = "import sys; from pcpo_overlay.messages import say; say('mode full'); assert 'tqdm' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "[pcpo] mode full\n")
