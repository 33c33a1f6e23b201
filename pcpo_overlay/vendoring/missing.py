"""Files whose content a mirror lacks: which of upstream's scripts will want them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from .atomic import read_regular


def scripts_of(work_tree: Path, tracked: Iterable[str]) -> dict[str, str]:
    """The texts of upstream's shell and Python scripts by path."""
    names = [n for n in tracked if n.endswith((".sh", ".py")) and (work_tree / n).is_file()]
    files = {n: work_tree / n for n in names if not (work_tree / n).is_symlink()}
    return {n: read_regular(file).decode("utf-8", "replace") for n, file in files.items()}


def _mention(words: str) -> Callable[[str], bool]:
    pattern = re.compile(rf"(?<![\w-]){re.escape(words)}(?![\w.-])")
    return lambda text: bool(pattern.search(text))


def needed_by(texts: dict[str, str], path: str) -> list[str]:
    """Which scripts read a file, found by looking for its name in them.

    A Python file that names it is followed one step to the shell scripts that launch it, for a config file by the
    name of the function around the mention (``--config config/grpo.py:NAME``).
    """
    mention = _mention(path)
    folder = path.rpartition("/")[0]
    if not any(mention(text) for text in texts.values()) and "/" in folder:
        in_quotes = re.compile(rf"(?<![\w/])(?:\./)?{re.escape(folder)}[\"']")
        mention = lambda text: bool(in_quotes.search(text))  # noqa: E731
    shells = {name: body for name, body in texts.items() if name.endswith(".sh")}
    out: list[str] = []
    for name in sorted(name for name, text in texts.items() if mention(text)):
        launchers: set[str] = set()
        if name not in shells:
            wanted = [_mention(f"{name}:{f}") for f in _functions_around(texts[name], mention)] or [
                _mention(name)
            ]
            launchers = {sh for sh, body in shells.items() if any(names(body) for names in wanted)}
            if not launchers and not name.startswith("config/"):  # of a config, another function may be meant
                launchers = {sh for sh, body in shells.items() if _mention(name)(body)}
        out.append(f"{name} (launched by {', '.join(sorted(launchers))})" if launchers else name)
    return out


def _functions_around(text: str, mention: Callable[[str], bool]) -> list[str]:
    """Names of the top-level functions in which a mention stands."""
    bodies = re.findall(r"^def (\w+)\((.*\n(?:(?:[ \t#)].*)?\n)*)", text + "\n", re.M)
    return [name for name, body in bodies if mention(body)]
