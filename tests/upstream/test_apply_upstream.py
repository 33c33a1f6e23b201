"""apply.py on the real upstreams at their pins, cloned from a mirror or the network."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pcpo_overlay.vendoring.lockfile import load

ROOT = Path(__file__).resolve().parents[2]
LOCK = load(ROOT / "vendor.lock")
NAMES = [upstream.name for upstream in LOCK.upstreams]
ALL = pytest.mark.upstream(*NAMES)


def git(where: Path, *command: str) -> str:
    return subprocess.run(
        ["git", "-C", str(where), *command], capture_output=True, text=True, check=True
    ).stdout.strip()


def apply(*args: str, code: int = 0, dest: Path | None = None, lock: Path | None = None) -> str:
    """``python apply.py ARGS``; returns stdout after checking the exit code."""
    command = [sys.executable, str(ROOT / "apply.py"), *args]
    command += ["--dest", str(dest)] if dest else []
    command += ["--lock", str(lock)] if lock else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """A copy of this repository's lock and patches, to write to."""
    shutil.copy(ROOT / "vendor.lock", tmp_path)
    shutil.copytree(ROOT / "patches", tmp_path / "patches")
    return tmp_path / "vendor.lock"


@ALL
@pytest.mark.parametrize("name", NAMES)
def test_clone_at_the_pin(name: str, upstream_clone: Callable[[str, bool], Path]) -> None:
    upstream = LOCK.get(name)
    clone = upstream_clone(name, False)
    assert git(clone, "rev-parse", "HEAD", "HEAD^{tree}").split() == [upstream.commit, upstream.tree]
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "config", "--get", "remote.origin.url") == upstream.url
    [status] = json.loads(apply("status", name, "--json", dest=clone.parent))
    assert status["state"] == "pristine"
    tracked = git(clone, "ls-files").split("\n")
    assert [path for path in tracked if not (clone / path).exists()] == sorted(status["missing_files"])


@ALL
@pytest.mark.parametrize("name", NAMES)
def test_patched_clone(name: str, upstream_clone: Callable[[str, bool], Path]) -> None:
    upstream = LOCK.get(name)
    clone = upstream_clone(name, True)
    assert git(clone, "rev-parse", "HEAD") == upstream.commit
    assert git(clone, "diff", "--cached", "--name-only") == ""
    changed = git(clone, "diff", "--numstat").splitlines()
    assert len(changed) == len(upstream.patches)
    assert all(line.split("\t")[1] == "0" for line in changed), "only insertions"
    apply("check", name, dest=clone.parent)
    stamp = clone / ".git" / "pcpo-overlay.json"
    assert stamp.exists() == bool(upstream.patches)
    if upstream.patches:
        written = json.loads(stamp.read_text())
        assert written["patched_tree"] == upstream.patched_tree
        for path, digest in written["files"].items():
            assert hashlib.sha256((clone / path).read_bytes()).hexdigest() == digest
            compile((clone / path).read_text(), path, "exec")


@ALL
def test_what_the_mirror_lacks_is_named_with_who_needs_it(
    upstream_clone: Callable[[str, bool], Path],
) -> None:
    """Only where a mirror has those holes; a full clone has nothing to name, and that is asserted instead."""
    sd_script = "fastvideo/train_grpo_sd.py (launched by scripts/finetune/finetune_sd_grpo.sh)"
    ocr_config = "config/grpo.py (launched by scripts/single_node/grpo.sh)"
    known = {
        "DanceGRPO": {"assets/prompts.txt": sd_script},
        "flow_grpo": {"dataset/ocr/train.txt": ocr_config},
    }
    for name, files in known.items():
        clone = upstream_clone(name, False)
        [status] = json.loads(apply("status", name, "--json", dest=clone.parent))
        for path, user in files.items():
            if (clone / path).exists():
                assert path not in status["missing_files"]
            else:
                assert user in status["missing_files"][path]


@pytest.mark.upstream
def test_revert_and_apply_again(ddpo_patched: Path, tmp_path: Path) -> None:
    shutil.copytree(ddpo_patched, tmp_path / "ddpo-pytorch", symlinks=True)
    clone = tmp_path / "ddpo-pytorch"
    upstream = LOCK.get("ddpo-pytorch")
    apply("revert", "ddpo-pytorch", dest=tmp_path)
    assert git(clone, "status", "--porcelain") == ""
    assert not (clone / ".git" / "pcpo-overlay.json").exists()
    apply("ddpo-pytorch", dest=tmp_path)
    assert "as locked: " + upstream.patched_tree in apply("check", "ddpo-pytorch", dest=tmp_path)


@pytest.mark.upstream
def test_refresh_gives_the_same_patches_back(ddpo_patched: Path, overlay: Path) -> None:
    """The export that CI compares: patched files to patch files, byte for byte, and the lock with them."""
    dest = overlay.parent / "vendor"
    shutil.copytree(ddpo_patched, dest / "ddpo-pytorch", symlinks=True)
    apply("refresh", "ddpo-pytorch", dest=dest, lock=overlay)
    assert overlay.read_bytes() == (ROOT / "vendor.lock").read_bytes()
    for entry in LOCK.get("ddpo-pytorch").patches:
        assert (overlay.parent / entry.file).read_bytes() == (ROOT / entry.file).read_bytes()


@pytest.mark.upstream
def test_refresh_takes_one_more_hook(ddpo_patched: Path, overlay: Path) -> None:
    dest = overlay.parent / "vendor"
    shutil.copytree(ddpo_patched, dest / "ddpo-pytorch", symlinks=True)
    with (dest / "ddpo-pytorch" / "ddpo_pytorch" / "rewards.py").open("a") as file:
        file.write("\npcpo_extra = __import__('pcpo_overlay')  # see the rewards\n")
    why = "a trial of one more hook, made by the tests of apply.py and thrown away with them"
    apply("refresh", "ddpo-pytorch", "--why", why, dest=dest, lock=overlay)
    patch = (overlay.parent / "patches" / "ddpo-pytorch" / "rewards.patch").read_text()
    assert "@@ see the rewards\n" in patch
    apply("check", "ddpo-pytorch", dest=dest, lock=overlay)
    apply("revert", "ddpo-pytorch", dest=dest, lock=overlay)
    assert git(dest / "ddpo-pytorch", "status", "--porcelain") == ""


@pytest.mark.upstream
def test_update_to_the_commit_before(ddpo_patched: Path, overlay: Path) -> None:
    """Upstream's last commit reformatted its code, so going back over it is a hard merge: one hook is in conflict."""
    before = git(ddpo_patched, "rev-parse", "HEAD^")
    out = apply("update", "ddpo-pytorch", "--to", before, code=13, dest=ddpo_patched.parent, lock=overlay)
    assert "ddim_with_logprob.py: clean" in out and "scripts/train.py: conflict" in out
    assert overlay.read_bytes() == (ROOT / "vendor.lock").read_bytes()
    apply("check", "ddpo-pytorch", dest=ddpo_patched.parent)


@pytest.mark.upstream
def test_into_a_clone_at_another_commit_with_edits(ddpo_pristine: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    git(tmp_path, "clone", "--quiet", str(ddpo_pristine), str(mine))
    git(mine, "checkout", "--quiet", "--detach", LOCK.get("ddpo-pytorch").commit)
    train = mine / "scripts" / "train.py"
    train.write_text(train.read_text() + "# mine\n")
    apply("ddpo-pytorch", "--into", str(mine))
    text = train.read_text()
    assert text.endswith("# mine\n") and "from pcpo_overlay import hooks as pcpo" in text
    assert git(mine, "diff", "--cached", "--name-only") == ""
    apply("check", "ddpo-pytorch", "--into", str(mine))
    apply("revert", "ddpo-pytorch", "--into", str(mine))
    assert git(mine, "diff", "--numstat") == "1\t0\tscripts/train.py"


#: What flow_grpo was pinned at before; users have clones there.
BEFORE = "ac4c86e8cae021841f1fde853d340e0db67690dd"


@pytest.fixture
def at_the_pin_before(
    upstream_clone: Callable[[str, bool], Path], overlay: Path, tmp_path: Path
) -> tuple[Path, Path]:
    """A clone at the pin before, and a lock of then, with those of today's hooks that have a place there."""
    clone = tmp_path / "vendor" / "flow_grpo"
    shutil.copytree(upstream_clone("flow_grpo", False), clone, symlinks=True)
    settings = ("flow_grpo", "--to", BEFORE, "--write", "--leave-out")
    apply("update", *settings, dest=clone.parent, lock=overlay)
    assert load(overlay).get("flow_grpo").commit == BEFORE
    apply("flow_grpo", dest=clone.parent, lock=overlay)
    assert git(clone, "rev-parse", "HEAD") == BEFORE
    assert "pcpo" in (clone / "scripts" / "train_sd3.py").read_text()
    return clone, overlay


@pytest.mark.upstream("flow_grpo")
def test_a_clone_at_the_pin_before_moves_and_keeps_edits(at_the_pin_before: tuple[Path, Path]) -> None:
    clone, _ = at_the_pin_before
    (clone / "LICENSE").write_text("mine\n")
    (clone / "mine.txt").write_text("mine\n")
    config = clone / "config" / "grpo.py"  # this one has changed since
    theirs = config.read_bytes()
    config.write_bytes(theirs + b"# mine\n")
    before = git(clone, "diff")
    apply("flow_grpo", dest=clone.parent, code=10)
    assert git(clone, "diff") == before and git(clone, "rev-parse", "HEAD") == BEFORE
    config.write_bytes(theirs)
    assert f"moved from {BEFORE[:12]} to the pin, patched" in apply("flow_grpo", dest=clone.parent)
    apply("check", "flow_grpo", dest=clone.parent)
    assert git(clone, "rev-parse", "HEAD") == LOCK.get("flow_grpo").commit
    assert (clone / "LICENSE").read_text() == (clone / "mine.txt").read_text() == "mine\n"
    patched = {
        line.removeprefix("+++ b/")
        for entry in LOCK.get("flow_grpo").patches
        for line in (ROOT / entry.file).read_text().splitlines()
        if line.startswith("+++ b/")
    }
    assert set(git(clone, "diff", "--name-only").splitlines()) == patched | {"LICENSE"}


@pytest.mark.upstream("flow_grpo")
def test_update_from_the_pin_before_to_this_one(at_the_pin_before: tuple[Path, Path]) -> None:
    clone, lock = at_the_pin_before
    to = ("--to", LOCK.get("flow_grpo").commit)
    assert "scripts/train_sd3.py: clean" in apply("update", "flow_grpo", *to, dest=clone.parent, lock=lock)
    apply("update", "flow_grpo", *to, "--write", dest=clone.parent, lock=lock)
    moved = load(lock).get("flow_grpo")
    assert (moved.commit, moved.tree) == (LOCK.get("flow_grpo").commit, LOCK.get("flow_grpo").tree)
    apply("flow_grpo", dest=clone.parent, lock=lock)
    apply("check", "flow_grpo", dest=clone.parent, lock=lock)


@pytest.mark.upstream("flow_grpo")
def test_into_a_clone_at_either_commit(upstream_clone: Callable[[str, bool], Path], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(upstream_clone("flow_grpo", False), mine, symlinks=True)
    apply("flow_grpo", "--into", str(mine))
    apply("check", "flow_grpo", "--into", str(mine))
    apply("revert", "flow_grpo", "--into", str(mine))
    git(mine, "checkout", "--quiet", "--detach", BEFORE)
    refused = subprocess.run(
        [sys.executable, str(ROOT / "apply.py"), "flow_grpo", "--into", str(mine)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert refused.returncode == 13
    why, *files = refused.stderr.splitlines()  # a line that says why, then the hooks that have no place there
    pin = LOCK.get("flow_grpo").commit
    assert f"is at commit {BEFORE[:12]} and the hooks are for {pin[:12]}" in why and f"--detach {pin}" in why
    assert any("scripts/train_flux.py is not in" in line for line in files)
    assert git(mine, "status", "--porcelain") == ""


@pytest.mark.upstream("DanceGRPO")
@pytest.mark.parametrize("command", ["apply", "revert"])
def test_full_disk(command: str, upstream_clone: Callable[[str, bool], Path], tmp_path: Path) -> None:
    """DanceGRPO on a disk with next to nothing left: exit code 12, and with space the next run goes on."""
    dest = tmp_path / "disk"
    dest.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(dest)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        clone = dest / "DanceGRPO"
        shutil.copytree(upstream_clone("DanceGRPO", command == "revert"), clone, symlinks=True)
        for free in (8, 16, 24, 32, 48):
            if mounted:
                space = os.statvfs(dest)
                (dest / "filler").write_bytes(b"\0" * (space.f_bavail * space.f_frsize - free * 1024))
            else:  # no disk to fill: files of more than so many KiB cannot be written
                soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (free * 1024, hard))
            try:
                apply(command, "DanceGRPO", dest=dest, code=12)
            finally:
                if mounted:
                    (dest / "filler").unlink()
                else:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        apply(command, "DanceGRPO", dest=dest)
        [status] = json.loads(apply("status", "DanceGRPO", "--json", dest=dest))
        assert status["state"] == ("patched" if command == "apply" else "pristine")
        assert not list(dest.rglob(".*.pcpo-*"))
    finally:
        if mounted:
            subprocess.run(["umount", str(dest)], check=True)
