"""An argument parser whose errors are one line: what is wrong, and where help is."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn


class OneLineParser(argparse.ArgumentParser):
    """Reports an error in one line on stderr, exit code 2, and names the command it belongs to."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        # The top-level parser would report what a subcommand left over, with its own options in view.
        namespace, left_over = super().parse_known_args(args, namespace)
        if left_over:
            self.error(f"unrecognized arguments: {' '.join(left_over)}")
        return namespace, left_over
