"""Wrong states and what leads out of them: full disks, refused moves, lost heads, children of killed runs, names."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from apply_toy import ROOT, STEP, TRAIN, Toy, build, git, tree_of

from pcpo_overlay.vendoring.errors import ExitCode


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return build(tmp_path_factory.mktemp("toy") / "master")


@pytest.fixture
def toy(master: Toy, tmp_path: Path) -> Toy:
    return master.copy(tmp_path / "toy")


class Disk:
    """A small file system for the clones; where none can be mounted, a limit on what a process may write."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        toy.dest.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(toy.dest)]
        self.mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0

    def run(self, free: int, *command: str) -> int:
        """A command with ``free`` KiB of disk left; without a mount, with files of at most ``free`` / 8 KiB."""
        if self.mounted:
            filler = self.toy.dest / ".filler"
            space = os.statvfs(self.toy.dest)
            filler.write_bytes(b"\0" * max(0, space.f_bavail * space.f_frsize - free * 1024))
            try:
                return self.toy.run(*command).code
            finally:
                filler.unlink()
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (free * 128, limit[1]))
        try:
            return self.toy.run(*command).code
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.toy.dest)], check=True)


@pytest.fixture
def disk(toy: Toy) -> Iterator[Disk]:
    disk = Disk(toy)
    yield disk
    disk.close()


@pytest.mark.parametrize("command", ["clone", "apply", "revert", "into", "move"])
def test_a_full_disk_at_any_moment_is_said_and_the_next_run_goes_on(
    toy: Toy, disk: Disk, command: str
) -> None:
    if command != "clone":
        toy.ok("toy", *(["--no-patch"] if command in ("apply", "into") else []))
        (toy.clone / "other.py").write_text("mine = 1\n")
    if command == "move":
        toy.ok("update", "toy", "--to", "clean", "--write")
    args = {"revert": ["revert", "toy"], "into": ["toy", "--into", str(toy.clone)]}.get(command, ["toy"])
    codes = []
    for free in (0, 4, 8, 12, 16, 20, 24, 32, 48):
        codes.append(disk.run(free, *args))
        if codes[-1] == 0:
            break
    assert codes[0] != 0 and set(codes) <= {0, ExitCode.UNWRITABLE}, codes
    toy.ok(*args)
    if command == "revert":
        assert (toy.clone / "step.py").read_text() == STEP
        assert (toy.clone / "scripts/train.py").read_text() == TRAIN
    else:
        assert (toy.clone / "step.py").read_bytes() == toy.patched("step.py")
        assert toy.status()["state"] == "patched"
    assert command == "clone" or (toy.clone / "other.py").read_text() == "mine = 1\n"
    toy.assert_tidy()


# --- moves that are refused, and why


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_move_looks_at_the_bytes_whatever_flags_the_index_has(toy: Toy, flag: str) -> None:
    toy.ok("toy", "--no-patch")
    toy.ok("update", "toy", "--to", "clean", "--write")
    git(toy.clone, "update-index", flag, "scripts/train.py")
    mine = TRAIN.replace("line_20 = 20", "line_20 = 'mine'")
    (toy.clone / "scripts/train.py").write_text(mine)
    result = toy.run("toy", "--no-patch")
    assert result.code == ExitCode.EDITED and "scripts/train.py" in result.err, result
    assert "interrupted run" not in result.err
    assert (toy.clone / "scripts/train.py").read_text() == mine
    (toy.clone / "scripts/train.py").write_text(TRAIN)
    toy.ok("toy")
    assert toy.status()["state"] == "patched"


def test_staged_changes_in_the_way_of_a_move_are_refused(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    toy.ok("update", "toy", "--to", "clean", "--write")
    train = toy.clone / "scripts/train.py"
    train.write_text(TRAIN + "mine = 1\n")
    git(toy.clone, "add", "scripts/train.py")
    train.write_text(TRAIN)
    result = toy.run("toy")
    assert result.code == ExitCode.EDITED and "scripts/train.py" in result.err
    assert "+mine = 1" in git(toy.clone, "diff", "--cached")
    git(toy.clone, "reset", "--quiet")
    toy.ok("toy")


def test_into_a_clone_without_a_commit_changes_nothing(toy: Toy) -> None:
    mine = toy.root / "mine"
    git(toy.root, "init", "--quiet", str(mine))
    for name, text in (("step.py", STEP), ("scripts/train.py", TRAIN)):
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / name).write_text(text)
    before = tree_of(mine)
    for command in ("apply", "revert", "status"):
        result = toy.run(command, "toy", "--into", str(mine))
        assert command == "status" or (result.code == ExitCode.WRONG_COMMIT and "no commit yet" in result.err)
    assert tree_of(mine) == before


# --- children of a run that was killed


SLOW = "sh -c 'touch {0}/begun; sleep 3; touch {0}/acted; exit 1' #"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_git_of_a_run_that_ends_is_waited_for_or_ended(toy: Toy, how: int) -> None:
    env = {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "core.sshCommand",
        "GIT_CONFIG_VALUE_0": SLOW.format(toy.root),
        "GIT_CONFIG_KEY_1": "url.ssh://nowhere.invalid/.insteadOf",
        "GIT_CONFIG_VALUE_1": "https://upstream.invalid/",
    }
    command = [sys.executable, str(ROOT / "apply.py"), *toy.command("toy", mirror=None)]
    run = subprocess.Popen(command, env=toy.environment(env), stderr=subprocess.DEVNULL)
    while not (toy.root / "begun").exists():
        time.sleep(0.02)
    run.send_signal(how)
    assert run.wait() == (ExitCode.INTERRUPTED if how != signal.SIGKILL else -signal.SIGKILL)
    toy.ok("toy")
    toy.assert_patched()
    acted = (toy.root / "acted").exists()
    time.sleep(0.2 if acted else 3.2)
    toy.assert_patched()
    if how == signal.SIGKILL:
        assert acted, "the lock was freed while a process of the killed run was still there"


# --- names and words that no command could read afterwards


@pytest.mark.parametrize(
    "why", ["--- a/b\n+++ b/b is what we write", "x\n@@ -1,0 +2 @@ y", "diff --git a/x b/x\nmore words"]
)
def test_reasons_that_look_like_a_diff_do_no_harm(toy: Toy, why: str) -> None:
    toy.ok("toy")
    with (toy.clone / "other.py").open("a") as file:
        file.write("pcpo.other(other)\n")
    before = tree_of(toy.overlay)
    until = f"the day comes\n{why}"
    result = toy.run("refresh", "toy", "--why", f"as the tests say\n{why}", "--until", until)
    assert result.code == ExitCode.USAGE or toy.run("check", "toy").code == 0, result
    if result.code == ExitCode.USAGE:
        assert tree_of(toy.overlay) == before


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\tb", "a\nb", "a b", b"a\xffb"])
def test_names_of_patch_files_that_a_lock_cannot_hold_are_refused(toy: Toy, name: str | bytes) -> None:
    toy.ok("toy")
    data = (toy.overlay / "patches/toy/step.patch").read_bytes()
    odd = os.fsencode(toy.overlay / "patches/toy") + b"/" + os.fsencode(name) + b".patch"
    with open(odd, "wb") as file:  # noqa: PTH123
        file.write(data)
    before = toy.lock.read_bytes()
    result = toy.run("refresh", "toy", "--from-patches")
    assert result.code == ExitCode.UNSAFE_PATH, result
    assert toy.lock.read_bytes() == before
    os.unlink(odd)  # noqa: PTH108
    toy.ok("check", "toy")


@pytest.mark.parametrize("name", ['we"ird.py', "sp ace.py", b"by\xffte.py"])
def test_upstream_files_whose_patch_would_have_such_a_name_are_refused(toy: Toy, name: str | bytes) -> None:
    path = os.fsencode(toy.upstream) + b"/" + os.fsencode(name)
    with open(path, "w") as file:  # noqa: PTH123
        file.write("odd = 1\n")
    git(toy.upstream, "add", "--all")
    git(toy.upstream, "commit", "--quiet", "-m", "odd")
    toy.ok("update", "toy", "--to", "main", "--write", "--leave-out")
    toy.ok("toy")
    with open(os.fsencode(toy.clone) + b"/" + os.fsencode(name), "a") as file:  # noqa: PTH123
        file.write("pcpo.odd(odd)\n")
    before = tree_of(toy.overlay)
    result = toy.run("refresh", "toy", "--why", "one two three four")
    assert result.code == ExitCode.UNSAFE_PATH, result
    assert tree_of(toy.overlay) == before
