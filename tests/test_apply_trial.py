"""A random trial: sequences of commands, edits, kills, full disks and moved pins lose no byte and leave no half state.

``PCPO_TRIAL=500`` runs 500 sequences instead of 12; ``PCPO_TRIAL_SEED`` is the seed of the first.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path
from random import Random

import pytest
from apply_toy import HOOKS, STEP, TRAIN, Toy, build, git

from pcpo_overlay.vendoring.errors import ExitCode
from pcpo_overlay.vendoring.stages import STAGES

SEQUENCES = int(os.environ.get("PCPO_TRIAL", "12"))
SEED = int(os.environ.get("PCPO_TRIAL_SEED", "17"))
PINS = ("old", "pin", "clean")
BASES = {
    "old": TRAIN.replace("line_2 = 2\n", "line_2 = 2\n# older\n"),
    "pin": TRAIN,
    "clean": TRAIN.replace("line_20 = 20", "line_20 = 2000"),
}
HOOK_LINES = {path: [line for hook in hooks for line in hook.lines] for path, hooks in HOOKS.items()}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The toy, with a lock and patches for each of three pins beside it."""
    root = tmp_path_factory.mktemp("toy")
    toy = build(root / "master")
    for pin in PINS:
        trial = toy.copy(root / pin)
        if pin != "pin":
            trial.ok("update", "toy", "--to", pin, "--write")
        shutil.copytree(trial.overlay, toy.root / "pins" / pin)
    return toy


class Trial:
    """One sequence, and what its user has to find at any moment."""

    def __init__(self, toy: Toy, random: Random) -> None:
        self.toy, self.random = toy, random
        self.lines: dict[str, dict[str, str]] = {
            path: {} for path in HOOKS
        }  # the user's line -> the line it precedes
        self.files: dict[str, str] = {}
        self.log: list[str] = []

    # --- what the user does

    def edit(self) -> None:
        path = self.random.choice(list(HOOKS))
        file = self.toy.clone / path
        lines = file.read_text().split("\n")
        places = [n for n, line in enumerate(lines) if line.startswith(("line_", "def ", "    return"))]
        place = self.random.choice(places)
        indent = "    " if lines[place].startswith("    ") else ""
        line = f"{indent}mine_{len(self.lines[path])}_{self.random.randrange(10**9)} = 1"
        self.lines[path][line] = lines[place].split(" = ")[0]
        file.write_text("\n".join([*lines[:place], line, *lines[place:]]))

    def other(self) -> None:
        name = self.random.choice(
            ["other.py", "data/big.txt", "notes.txt", "scripts/untracked.py", "staged.txt"]
        )
        self.files[name] = f"mine {self.random.random()}\n"
        (self.toy.clone / name).write_text(self.files[name])
        if name == "staged.txt":
            git(self.toy.clone, "add", name)

    def pin(self) -> None:
        pin = self.random.choice(PINS)
        shutil.rmtree(self.toy.overlay)
        shutil.copytree(self.toy.root / "pins" / pin, self.toy.overlay)
        self.log.append(pin)

    # --- what apply.py does

    def command(self) -> list[str]:
        words = [self.random.choice(["apply", "revert"]), "toy"]
        return words + (["--into", str(self.toy.clone)] if self.random.random() < 0.4 else [])

    def run(self) -> None:
        command = self.command()
        fate = self.random.choice(["well", "well", "killed", "full"])
        self.log.append(f"{fate} {' '.join(command[:3:2])}")
        if fate == "killed":
            self.killed(command)
        elif fate == "full":
            self.full(command)
        self.check(None)
        result = self.toy.run(*command)
        fine = {ExitCode.OK, ExitCode.EDITED, ExitCode.CONFLICT}
        assert result.code in fine, (self.log, result)
        assert result.code == 0 or any(self.lines.values()) or "staged.txt" in result.err, (self.log, result)
        self.check(command[0] if result.code == 0 else None)

    def killed(self, command: list[str]) -> None:
        passed, last = 0, self.random.randrange(1, 12)

        def die(name: str) -> None:
            nonlocal passed
            passed += name in STAGES
            if passed == last:
                os.kill(os.getpid(), signal.SIGKILL)

        self.toy._forked(self.toy.command(*command), self.toy.environment(), die)

    def full(self, command: list[str]) -> None:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.random.choice([500, 700, 900, 1200, 1600]), limit[1]))
        try:
            self.toy.run(*command)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    # --- what has to hold

    def check(self, done: str | None) -> None:
        clone = self.toy.clone
        head = git(clone, "rev-parse", "HEAD")
        version = next(pin for pin in PINS if self.toy.commits[pin] == head)
        for name, text in self.files.items():
            assert (clone / name).read_text() == text, (self.log, name)
        if "staged.txt" in self.files:
            assert git(clone, "ls-files", "staged.txt") == "staged.txt"
        for path, mine in self.lines.items():
            lines = (clone / path).read_text().split("\n")
            for line, before in mine.items():
                assert lines.count(line) == 1, (self.log, path, line)
                following = [other for other in lines[lines.index(line) :] if other not in mine]
                following = [other for other in following if other not in HOOK_LINES[path]]
                assert following[0].split(" = ")[0] == before, (self.log, path, line)
            hooks = [line for line in lines if line in HOOK_LINES[path]]
            assert hooks in ([], HOOK_LINES[path]), (self.log, path, "hooks in pieces")
            bare = "\n".join(line for line in lines if line not in mine and line not in HOOK_LINES[path])
            wanted = {
                "scripts/train.py": [BASES[version]] if done else list(BASES.values()),
                "step.py": [STEP],
            }
            assert bare in wanted[path], (self.log, path)
            if done is not None:
                assert bool(hooks) == (done == "apply"), (self.log, path)
        if done is not None:
            assert self.toy.unfinished() == [], self.log
            assert git(clone, "write-tree", "--missing-ok")


@pytest.mark.timeout(3600)
def test_random_sequences_lose_nothing(toys: Toy, tmp_path: Path) -> None:
    for number in range(SEQUENCES):
        random = Random(SEED + number)
        toy = toys.copy(tmp_path / str(number))
        toy.ok("toy", "--no-patch")
        trial = Trial(toy, random)
        for _ in range(random.randrange(3, 9)):
            random.choice([trial.edit, trial.other, trial.pin, trial.run, trial.run, trial.run])()
        result = toy.run("revert", "toy", "--into", str(toy.clone))
        assert result.code == 0, (SEED + number, trial.log, result)
        trial.check("revert")
        shutil.rmtree(toy.root)
