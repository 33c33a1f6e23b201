"""A folder of its own for each run of a script that reads and writes at relative paths; the clone stays clean."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

#: What DanceGRPO's trainers write where they run: images they score (into folders that have to be there), rewards,
#: checkpoints of the SD trainer.
WRITTEN = ("images", "images_same")
_OUTPUT = (*WRITTEN, "reward.txt", "my_checkpoints", "wandb", "logs", "outputs")


@dataclass(frozen=True)
class Workplace:
    """Where one run runs.

    Attributes:
        folder: the folder.
        links: files and folders that the script reads, each linked under its own name.
    """

    folder: Path
    links: tuple[Path, ...]

    def make(self) -> None:
        """Make the folder, or what it lacks."""
        for name in WRITTEN:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for target in self.links:
            link = self.folder / target.name
            if not link.is_symlink():
                link.symlink_to(target)

    def as_shell(self) -> str:
        """The same for a shell."""
        folders = shlex.join(str(self.folder / name) for name in WRITTEN)
        return f"mkdir -p {folders} && ln -sfn {shlex.join(map(str, self.links))} {shlex.quote(str(self.folder))}"


def readable(clone: Path) -> tuple[Path, ...]:
    """What a script may read of a clone: all but git's own and what its trainers write."""
    entries = sorted(clone.iterdir()) if clone.is_dir() else []
    return tuple(e for e in entries if e.name not in _OUTPUT and not e.name.startswith("."))
