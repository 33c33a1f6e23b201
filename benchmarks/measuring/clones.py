"""Upstream's own code, taken from a clone when a benchmark runs: as upstream wrote it, and as it is patched."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

#: Seconds in which an upstream answers, or does not.
REACH_S = 20


class MissingClone(Exception):
    """A clone is not there, or not patched; the message has the command that makes it."""


@dataclass(frozen=True)
class Code:
    """One file of a clone.

    Attributes:
        path: the file.
        text: of it.
    """

    path: Path
    text: str

    def module(self) -> ModuleType:
        """The file as a module."""
        module = ModuleType(self.path.stem)
        exec(compile(self.text, str(self.path), "exec"), vars(module))
        return module

    def function(self, name: str, scope: dict[str, Any]) -> Callable[..., Any]:
        """One function of a script that cannot be imported, with the names it uses of the script's in ``scope``.

        Raises:
            ValueError: there is none.
        """
        for node in ast.parse(self.text).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return self._define(node, scope)
        raise ValueError(f"{self.path} has no function {name}; the clone is at another commit than the pin")

    def loss_lines(self, loss: str, arguments: Sequence[str], scope: dict[str, Any]) -> Callable[..., Any]:
        """The lines of a training loop from the advantages or the ratio to the loss, as a function that returns it.

        Args:
            loss: what the script calls the loss that it backpropagates (before a KL term).
            arguments: names that the lines find in the loop, which become the function's arguments.
            scope: what they find otherwise.

        Raises:
            ValueError: there are no such lines.
        """
        for node in ast.walk(ast.parse(self.text)):
            body = (
                [s for s in getattr(node, "body", []) if isinstance(s, ast.stmt)] if _has_body(node) else []
            )
            names = [_assigned(statement) for statement in body]
            if "ratio" in names and loss in names:
                first = next(n for n, name in enumerate(names) if name == "ratio" or "advantages" in name)
                last = len(names) - 1 - names[::-1].index(loss)
                made = ast.parse(f"def loss_lines({', '.join(arguments)}):\n    return {loss}").body[0]
                assert isinstance(made, ast.FunctionDef)
                made.body = body[first : last + 1] + made.body
                return self._define(made, scope)
        raise ValueError(
            f"{self.path} computes no ratio and {loss}; the clone is at another commit than the pin"
        )

    def _define(self, node: ast.FunctionDef, scope: dict[str, Any]) -> Callable[..., Any]:
        exec(compile(ast.Module([node], type_ignores=[]), str(self.path), "exec"), scope)
        defined: Callable[..., Any] = scope[node.name]
        return defined


def _has_body(node: ast.AST) -> bool:
    return isinstance(getattr(node, "body", None), list)


def _assigned(statement: ast.stmt) -> str:
    """The name that a statement assigns, or nothing."""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return ""


@dataclass(frozen=True)
class Clone:
    """A patched clone."""

    path: Path

    @staticmethod
    def find(name: str, vendor: Path) -> Clone:
        """The clone of that name in a folder of clones.

        Raises:
            MissingClone: it is not there.
        """
        path = (vendor / name).resolve()
        if not (path / ".git").exists():
            raise MissingClone(
                f"there is no clone of {name} in {vendor}; make it with: python apply.py {name} --dest {vendor}"
            )
        return Clone(path)

    def as_upstream_wrote_it(self, file: str) -> Code:
        """A file at the commit that the clone is at, without the patch, which is never committed."""
        shown = subprocess.run(
            ["git", "-C", str(self.path), "show", f"HEAD:{file}"], capture_output=True, text=True, check=False
        )
        if shown.returncode:
            raise MissingClone(f"{self.path} does not give {file} at its commit: {shown.stderr.strip()}")
        return Code(self.path / file, shown.stdout)

    def patched(self, file: str) -> Code:
        """A file as it lies in the clone.

        Raises:
            MissingClone: the hooks are not in it.
        """
        text = (self.path / file).read_text(encoding="utf-8")
        if "pcpo_overlay" not in text:
            raise MissingClone(
                f"{self.path / file} is not patched; patch it with: python apply.py {self.path.name} "
                f"--dest {self.path.parent}"
            )
        return Code(self.path / file, text)


def why_out_of_reach(name: str, url: str, mirror: str | None) -> str | None:
    """None if an upstream can be cloned, else one line that says why not.

    Args:
        name: of the upstream, and of its folder in the mirror.
        url: where git finds it; asked only without a mirror.
        mirror: a folder of clones to clone from.
    """
    if mirror:
        found = any((Path(mirror) / folder).is_dir() for folder in (name, f"{name}.git"))
        return None if found else f"the mirror {mirror} has no {name}"
    try:
        asked = subprocess.run(
            ["git", "ls-remote", "--exit-code", url, "HEAD"],
            capture_output=True,
            text=True,
            timeout=REACH_S,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError:
        return "git is not installed"
    except subprocess.TimeoutExpired:
        return f"{url} did not answer in {REACH_S} s"
    if asked.returncode == 0:
        return None
    said = (asked.stderr.strip().splitlines() or ["git ls-remote failed"])[-1]
    return f"{url} cannot be reached ({said})"
