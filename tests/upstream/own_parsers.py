"""What upstream's scripts make of a command line: their own parsers, taken from the clone's source when a test runs."""

from __future__ import annotations

import argparse
import ast
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock


def absl_config(script: Path, arguments: list[str]) -> Any:
    """The config of a script with absl flags, which its ``--config`` and overrides give. Run in the clone's folder."""
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()

    def define(*args: Any) -> None:
        config_flags.DEFINE_config_file(*args, flag_values=values)

    calls = [
        node
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "config_flags.DEFINE_config_file"
    ]
    (call,) = calls
    code = compile(ast.Expression(call), script.name, "eval")
    eval(code, {"config_flags": SimpleNamespace(DEFINE_config_file=define)})
    # ml_collections looks for the overrides there
    with mock.patch.object(sys, "argv", [script.name, *arguments]):
        left_over = values(sys.argv)
    assert left_over == [script.name], f"words that are no flags: {left_over}"
    return values.config


def argparse_arguments(script: Path, arguments: list[str]) -> argparse.Namespace:
    """What a script with argparse parses: its ``if __name__ == "__main__"`` block, up to where main() is called."""
    blocks = [
        node
        for node in ast.parse(script.read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
    ]
    (block,) = blocks
    assert ast.unparse(block.body[-1]) == "main(args)"
    scope: dict[str, Any] = {"argparse": argparse}
    with mock.patch.object(sys, "argv", [script.name, *arguments]):
        exec(compile(ast.Module(block.body[:-1], type_ignores=[]), script.name, "exec"), scope)
    namespace: argparse.Namespace = scope["args"]
    return namespace


def launches(script: Path) -> list[list[str]]:
    """The words of each launch in a shell script, those that are commented out included."""
    text = script.read_text().replace("\\\n", " ")
    lines = [line.strip().lstrip("# ") for line in text.splitlines()]
    return [
        shlex.split(line.rstrip("\\"))
        for line in lines
        if line.startswith(("torchrun ", "accelerate launch "))
    ]


def accelerate_launch(words: list[str]) -> argparse.Namespace:
    """What accelerate makes of the words after ``accelerate launch``."""
    from accelerate.commands.launch import launch_command_parser

    namespace: argparse.Namespace = launch_command_parser().parse_args(words)
    return namespace


def torchrun(words: list[str]) -> argparse.Namespace:
    """What torchrun makes of the words after its name."""
    from torch.distributed.run import get_args_parser

    namespace: argparse.Namespace = get_args_parser().parse_args(words)
    return namespace


def statements(script: Path, *starts: str) -> Any:
    """The statements of a script, at any depth, whose source begins with one of the given texts, in source order."""
    found = [
        node
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.stmt) and ast.unparse(node).startswith(starts)
    ]
    found.sort(key=lambda node: node.lineno)
    return compile(ast.Module(found, type_ignores=[]), script.name, "exec"), found
