"""The ``torchrun`` line of a launch script, for trainers that take all their settings from it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from pcpo_overlay.tools.ab import ABError
from pcpo_overlay.tools.ab.upstreams import PORT
from pcpo_overlay.tools.faults import told

_PORT_OPTIONS = ("--master_port", "--master-port")


@dataclass(frozen=True)
class LaunchLine:
    """A ``torchrun`` command.

    Attributes:
        options: of torchrun itself, with :data:`upstreams.PORT` in the place of a port.
        script: the training script, as the line names it.
        arguments: of the training script.
    """

    options: list[str]
    script: str
    arguments: list[str]


def read_launch_script(file: Path) -> LaunchLine:
    """The line of a launch script that starts the training. What else the script does (installing, say) is not done.

    Raises:
        ABError: not one ``torchrun`` line with a Python script in it, or one with a shell variable.
    """
    # a shell goes on after a backslash at the end of a line, and drops one at the end of the file
    text = re.sub(r"\\(\n|\Z)", " ", file.read_text(encoding="utf-8", errors="replace"))
    lines = [line for line in text.splitlines() if line.split()[:1] == ["torchrun"]]
    if len(lines) != 1:
        raise ABError(
            f"{file} has {len(lines)} lines that begin with torchrun; one is needed, as upstream's have it"
        )
    try:
        words = shlex.split(lines[0], comments=True)[1:]
    except ValueError as error:
        raise ABError(f"{file}: the torchrun line cannot be read: {told(error)}") from None
    for word in words:
        if "$" in word or "`" in word:
            raise ABError(f"{file}: {word} in the torchrun line is known to the shell alone; write its value")
    at = next((n for n, word in enumerate(words) if word.endswith(".py")), None)
    if at is None:
        raise ABError(f"{file}: the torchrun line names no Python script")
    return LaunchLine(_with_free_port(words[:at]), words[at], words[at + 1 :])


def _with_free_port(options: list[str]) -> list[str]:
    """Runs at one time cannot share the script's port."""
    kept = list(options)
    for n, word in enumerate(kept):
        name, equals, _ = word.partition("=")
        if name in _PORT_OPTIONS and equals:
            kept[n : n + 1] = [name, PORT]
        elif name in _PORT_OPTIONS and n + 1 < len(kept):
            kept[n + 1] = PORT
    return kept
