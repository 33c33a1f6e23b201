"""The project's documents as tests read them: links, headings, and the shell commands that a reader would type."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]
_MARKDOWN = MarkdownIt("commonmark").enable("table")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")


@dataclass(frozen=True)
class Code:
    """A piece of code in a document: a fenced block with its language, or a span (language None)."""

    text: str
    language: str | None


def name(path: Path) -> str:
    """A document's name in a test's id."""
    return path.relative_to(ROOT).as_posix()


def _tokens(path: Path) -> Iterator[Token]:
    for token in _MARKDOWN.parse(path.read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


def links(path: Path) -> list[str]:
    """The targets of all links and images."""
    found = [token.attrGet("href") or token.attrGet("src") for token in _tokens(path)]
    return [str(target) for target in found if target is not None]


def code(path: Path) -> list[Code]:
    """All code, in order."""
    return [
        Code(token.content, token.info.split(" ")[0] if token.type == "fence" else None)
        for token in _tokens(path)
        if token.type in ("fence", "code_inline")
    ]


def headings(path: Path) -> list[str]:
    """The text of all headings."""
    tokens = list(_MARKDOWN.parse(path.read_text(encoding="utf-8")))
    return [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings in addresses."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in headings(path):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
        seen[slug] += 1
    return found


@dataclass(frozen=True)
class Command:
    """A simple command of a shell line.

    Attributes:
        variables: assignments in front of it.
        words: program and arguments.
    """

    variables: dict[str, str]
    words: list[str]


def commands(text: str) -> list[Command]:
    """The simple commands of some shell lines, comments left out."""
    made: list[Command] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set(";&|") or not word:
                words.append(word)
            elif words:
                made.append(_command(words))
                words = []
    return made


def _command(words: list[str]) -> Command:
    count = 0
    while count < len(words) and _ASSIGNMENT.match(words[count]):
        count += 1
    variables = dict(word.split("=", 1) for word in words[:count])
    return Command(variables, words[count:])
