"""Files whose content a mirror lacks: which of upstream's scripts will want them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .atomic import look_below


def scripts_of(work_tree: Path, tracked: Iterable[str]) -> dict[str, str]:
    """The texts of upstream's shell and Python scripts by path."""
    files = {name: look_below(work_tree, name) for name in tracked if name.endswith((".sh", ".py"))}
    there = {name: seen.data for name, seen in files.items() if seen and not seen.link}
    return {name: data.decode("utf-8", "replace") for name, data in there.items()}


def _mention(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(words)}(?![\w.-])")


def needed_by(texts: Mapping[str, str], path: str) -> list[str]:
    """Which scripts read a file, found by looking for its name in them.

    A Python file that names it is followed one step to the shell scripts that launch it, for a config file by the
    name of the function around the mention (``--config config/grpo.py:NAME``).
    """
    mention, folder = _mention(path), path.rpartition("/")[0]
    if "/" in folder and not any(map(mention.search, texts.values())):
        mention = re.compile(rf"(?<![\w/])(?:\./)?{re.escape(folder)}[\"']")
    out: list[str] = []
    for name in sorted(name for name, text in texts.items() if mention.search(text)):
        launchers: set[str] = set()
        if not name.endswith(".sh"):
            called = [f"{name}:{function}" for function in _functions_around(texts[name], mention)]
            launchers = _shells(texts, called or [name])
            if not launchers and not name.startswith("config/"):  # of a config, another function may be meant
                launchers = _shells(texts, [name])
        out.append(f"{name} (launched by {', '.join(sorted(launchers))})" if launchers else name)
    return out


def _shells(texts: Mapping[str, str], words: Iterable[str]) -> set[str]:
    """The shell scripts that say one of these."""
    patterns = [_mention(word) for word in words]
    shells = {name: text for name, text in texts.items() if name.endswith(".sh")}
    return {name for name, text in shells.items() if any(pattern.search(text) for pattern in patterns)}


def _functions_around(text: str, mention: re.Pattern[str]) -> list[str]:
    """Names of the top-level functions in which a mention stands."""
    bodies = re.findall(r"^def (\w+)\((.*\n(?:(?:[ \t#)].*)?\n)*)", text + "\n", re.M)
    return [name for name, body in bodies if mention.search(body)]
