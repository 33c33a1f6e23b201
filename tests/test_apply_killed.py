"""apply.py dying by SIGKILL: at every stage of every command that writes, and inside git's own writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from apply_toy import ROOT, STEP, TRAIN, Toy, build, git

from pcpo_overlay.vendoring.stages import STAGES

EDIT = "other = 'an edit of the user'\n"


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return build(tmp_path_factory.mktemp("toy") / "master")


@pytest.fixture
def toy(master: Toy, tmp_path: Path) -> Toy:
    return master.copy(tmp_path / "toy")


def user_edits(toy: Toy) -> None:
    (toy.clone / "other.py").write_text(EDIT)
    (toy.clone / "untracked.txt").write_text("untracked\n")


def assert_user_edits(toy: Toy) -> None:
    assert (toy.clone / "other.py").read_text() == EDIT
    assert (toy.clone / "untracked.txt").read_text() == "untracked\n"


# Each scenario: make the state, the command that dies, and what must hold after running it again.


def nothing(toy: Toy) -> None:
    pass


def cloned(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    user_edits(toy)


def patched(toy: Toy) -> None:
    toy.ok("toy")
    user_edits(toy)


def pin_moved(toy: Toy) -> None:
    """Patched at one pin; the lock then goes on to another where more than the touched files differs."""
    patched(toy)
    toy.ok("update", "toy", "--to", "clean", "--write")


def own_clone(toy: Toy) -> None:
    git(toy.root, "clone", "--quiet", str(toy.upstream), str(toy.root / "mine"))
    train = toy.root / "mine" / "scripts" / "train.py"
    git(toy.root / "mine", "checkout", "--quiet", "pin")
    train.write_text(TRAIN.replace("line_20 = 20", "line_20 = 'mine'"))


def own_clone_patched(toy: Toy) -> None:
    own_clone(toy)
    toy.ok("toy", "--into", str(toy.root / "mine"))


def hooks_edited(toy: Toy) -> None:
    toy.ok("toy")
    (toy.clone / "untracked.txt").write_text("untracked\n")
    with (toy.clone / "step.py").open("a") as file:
        file.write("pcpo.more()\n")
    with (toy.clone / "scripts" / "train.py").open("a") as file:
        file.write("pcpo.more()\n")


def patch_edited(toy: Toy) -> None:
    patched(toy)
    path = toy.overlay / "patches" / "toy" / "train.patch"
    path.write_text(path.read_text().replace("Why: ", "Why: as said, "))


def end_patched(toy: Toy) -> None:
    toy.assert_patched()


def end_patched_edits(toy: Toy) -> None:
    end_patched(toy)
    assert_user_edits(toy)


def end_reverted(toy: Toy) -> None:
    toy.assert_pristine()
    assert_user_edits(toy)


def end_moved(toy: Toy) -> None:
    assert git(toy.clone, "rev-parse", "HEAD") == toy.commits["clean"] == toy.locked("commit")
    assert git(toy.clone, "write-tree") == toy.locked("tree"), "the index followed"
    assert (toy.clone / "new.py").read_text() == "new = 1\n"
    base = TRAIN.replace("line_20 = 20", "line_20 = 2000")
    assert (toy.clone / "scripts/train.py").read_bytes() == toy.patched("scripts/train.py", base)
    assert git(toy.clone, "diff", "--name-only").split() == ["other.py", "scripts/train.py", "step.py"]
    toy.assert_tidy()
    assert_user_edits(toy)


def end_own_patched(toy: Toy) -> None:
    mine = TRAIN.replace("line_20 = 20", "line_20 = 'mine'")
    assert (toy.root / "mine/scripts/train.py").read_bytes() == toy.patched("scripts/train.py", mine)
    assert (toy.root / "mine/step.py").read_bytes() == toy.patched("step.py")
    assert toy.status("--into", str(toy.root / "mine"))["state"] == "patched"
    assert toy.unfinished() == []


def end_own_reverted(toy: Toy) -> None:
    mine = TRAIN.replace("line_20 = 20", "line_20 = 'mine'")
    assert (toy.root / "mine/scripts/train.py").read_text() == mine
    assert (toy.root / "mine/step.py").read_text() == STEP
    left = {p.name for p in (toy.root / "mine" / ".git").glob("pcpo-overlay*")}
    assert left == {"pcpo-overlay.lock"}
    assert toy.unfinished() == []


def end_refreshed(toy: Toy) -> None:
    toy.ok("check", "toy")
    patch = (toy.overlay / "patches/toy/train.patch").read_text()
    assert patch.endswith("+pcpo.finish()\n+pcpo.more()\n")
    assert (toy.clone / "step.py").read_text().endswith("pcpo.more()\n")
    assert (toy.clone / "untracked.txt").read_text() == "untracked\n"


def end_relocked(toy: Toy) -> None:
    assert "Why: as said, " in (toy.overlay / "patches/toy/train.patch").read_text()
    end_patched_edits(toy)
    toy.ok("check", "toy")


def end_updated(toy: Toy) -> None:
    assert toy.locked("commit") == toy.commits["old"]
    toy.ok("toy")
    toy.ok("check", "toy")
    assert_user_edits(toy)


@dataclass(frozen=True)
class Scenario:
    start: Callable[[Toy], None]
    command: tuple[str, ...]
    end: Callable[[Toy], None]
    vendored: bool = True


SCENARIOS = {
    "fresh": Scenario(nothing, ("toy",), end_patched),
    "patch": Scenario(cloned, ("toy",), end_patched_edits),
    "revert": Scenario(patched, ("revert", "toy"), end_reverted),
    "move": Scenario(pin_moved, ("toy",), end_moved, vendored=False),
    "into": Scenario(own_clone, ("toy", "--into", "mine"), end_own_patched, vendored=False),
    "revert-into": Scenario(
        own_clone_patched, ("revert", "toy", "--into", "mine"), end_own_reverted, vendored=False
    ),
    "refresh": Scenario(hooks_edited, ("refresh", "toy"), end_refreshed, vendored=False),
    "from-patches": Scenario(patch_edited, ("refresh", "toy", "--from-patches"), end_relocked),
    "update": Scenario(patched, ("update", "toy", "--to", "old", "--write"), end_updated),
}


def deaths(name: str, stages: list[str]) -> list[tuple[int, str]]:
    """The stages, by number, at which a scenario's command is killed: all that no other scenario covers."""
    numbered = list(enumerate(stages, start=1))
    if name == "fresh":  # from here on it goes as in "patch"
        return [(n, stage) for n, stage in numbered if not n > stages.index("plan-made")]
    return [(n, stage) for n, stage in numbered if stage != "locked"]


def command_of(toy: Toy, scenario: Scenario) -> list[str]:
    return [str(toy.root / "mine") if word == "mine" else word for word in scenario.command]


@pytest.fixture(scope="module")
def starts(
    master: Toy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[Toy, list[str]]]]:
    """The state each scenario starts from, made once, and the stages its command passes."""
    made: dict[str, tuple[Toy, list[str]]] = {}

    def get(name: str) -> tuple[Toy, list[str]]:
        if name not in made:
            root = tmp_path_factory.mktemp(f"start-{name}")
            toy = master.copy(root / "toy")
            SCENARIOS[name].start(toy)
            trial = toy.copy(root / "trial")
            stages = trial.stages(*command_of(trial, SCENARIOS[name]))
            SCENARIOS[name].end(trial)
            made[name] = (toy, stages)
        return made[name]

    yield get


@pytest.mark.parametrize("name", SCENARIOS)
def test_sigkill_at_every_stage(
    name: str, starts: Callable[[str], tuple[Toy, list[str]]], tmp_path: Path
) -> None:
    start, stages = starts(name)
    assert stages, "the command passes no stage"
    scenario = SCENARIOS[name]
    for number, stage in deaths(name, stages):
        toy = start.copy(tmp_path / f"{number}-{stage}")
        command = command_of(toy, scenario)
        toy.killed(number, *command)
        if scenario.vendored:
            toy.assert_not_half_patched()
        toy.ok(*command)
        scenario.end(toy)


def test_every_stage_is_one_to_die_at(starts: Callable[[str], tuple[Toy, list[str]]]) -> None:
    assert {stage for name in SCENARIOS for _, stage in deaths(name, starts(name)[1])} == set(STAGES)


def _wait_for_the_group(group: int) -> None:
    """A killed git ends its system call first, and is not ours to wait for; on a busy machine that takes a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)


def test_process_group_killed_at_any_moment(master: Toy, tmp_path: Path) -> None:
    """Not only between steps: the run and its git die together at moments spread over a whole run."""
    begun = time.monotonic()
    master.copy(tmp_path / "timed").ok("toy")
    whole = time.monotonic() - begun
    for n in range(6):
        toy = master.copy(tmp_path / str(n))
        command = [sys.executable, str(ROOT / "apply.py"), *toy.command("toy")]
        run = subprocess.Popen(
            command,
            env=toy.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(whole * (0.4 + 0.1 * n))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        _wait_for_the_group(run.pid)
        toy.ok("toy")
        toy.assert_patched()
