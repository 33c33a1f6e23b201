"""Upstream's own code, called in the tests' process: a module of a clone, or a few statements of its trainer."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor


def load(path: Path) -> ModuleType:
    """A file of a clone as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class NamedAssignments(ast.NodeVisitor):
    """The statements that assign one of the names, in source order."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.found: list[ast.stmt] = []

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.targets[0], ast.Name) and node.targets[0].id in self.names:
            self.found.append(node)


def ppo_loss(script: Path, name: str) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    """Upstream's own policy loss as a function, taken from the clone's source when the test runs.

    Args:
        script: the training script.
        name: what the script calls the loss.
    """
    visitor = NamedAssignments({"ratio", "unclipped_loss", "clipped_loss", name})
    visitor.visit(ast.parse(script.read_text()))
    assert len(visitor.found) == 4
    code = compile(ast.Module(visitor.found, type_ignores=[]), script.name, "exec")

    def loss(log_prob: Tensor, log_prob_old: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
        scope = {
            "torch": torch,
            "log_prob": log_prob,
            "sample": {"log_probs": log_prob_old[:, None]},
            "j": 0,
            "advantages": advantages,
            "config": SimpleNamespace(train=SimpleNamespace(clip_range=clip_range)),
        }
        exec(code, scope)
        result: Tensor = scope[name]  # type: ignore[assignment]
        return result

    return loss
