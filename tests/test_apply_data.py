"""Nothing of the user's is lost: one record per clone, saves in between, ignored files, owners, two refreshes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from apply_toy import HOOKS, ROOT, STEP, TRAIN, Toy, build, git, tree_of

from pcpo_overlay.vendoring.errors import ExitCode
from pcpo_overlay.vendoring.lockfile import load

MINE = TRAIN.replace("line_20 = 20", "line_20 = 'mine'")


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return build(tmp_path_factory.mktemp("toy") / "master")


@pytest.fixture
def toy(master: Toy, tmp_path: Path) -> Toy:
    return master.copy(tmp_path / "toy")


# --- one record per clone, whichever way it was reached


def test_into_a_clone_under_dest_then_plain_apply_and_revert_keep_the_edit(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    train = toy.clone / "scripts/train.py"
    train.write_text(MINE)
    toy.ok("toy", "--into", str(toy.clone))
    patched = toy.patched("scripts/train.py", MINE)
    assert train.read_bytes() == patched
    status = toy.status()
    assert (status["state"], status["modified_files"]) == ("patched", ["scripts/train.py"])
    assert "nothing to do" in toy.ok("toy").out
    assert train.read_bytes() == patched
    assert toy.run("check", "toy").code == ExitCode.EDITED, "not as the lock says"
    toy.ok("check", "toy", "--into", str(toy.clone))
    toy.ok("revert", "toy")
    assert train.read_text() == MINE and (toy.clone / "step.py").read_text() == STEP


def test_changed_patches_do_not_overwrite_what_into_merged(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    (toy.clone / "scripts/train.py").write_text(MINE)
    toy.ok("toy", "--into", str(toy.clone))
    path = toy.overlay / "patches/toy/train.patch"
    path.write_text(path.read_text().replace("pcpo.finish()", "pcpo.finish_it()"))
    toy.write_lock()
    before = tree_of(toy.clone)
    result = toy.run("toy")
    assert result.code == ExitCode.EDITED and "scripts/train.py" in result.err and "--into" in result.err
    assert tree_of(toy.clone) == before
    toy.ok("toy", "--into", str(toy.clone))
    assert "pcpo.finish_it()" in (toy.clone / "scripts/train.py").read_text()
    toy.ok("revert", "toy", "--into", str(toy.clone))
    assert (toy.clone / "scripts/train.py").read_text() == MINE


@pytest.mark.parametrize("first", ["plain", "into"])
def test_plain_and_into_on_one_clone_wait_for_each_other(toy: Toy, tmp_path: Path, first: str) -> None:
    toy.ok("toy", "--no-patch")
    ways = {"plain": ["toy"], "into": ["toy", "--into", str(toy.clone)]}
    release = tmp_path / "release"
    child = toy.held("record-written", release, *ways.pop(first))
    (second,) = ways.values()
    try:
        assert toy.run(*second, "--wait", "0.2").code == ExitCode.BUSY
    finally:
        release.touch()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    toy.assert_patched()


# --- a file that the user saves while a run is at work


@pytest.mark.parametrize("command", ["apply", "into", "revert", "move"])
def test_a_file_saved_while_a_run_is_at_work_is_left(toy: Toy, tmp_path: Path, command: str) -> None:
    toy.ok("toy", *(["--no-patch"] if command in ("apply", "into") else []))
    if command == "move":
        toy.ok("update", "toy", "--to", "old", "--write")
    args = {"into": ["toy", "--into", str(toy.clone)], "revert": ["revert", "toy"]}.get(command, ["toy"])
    release = tmp_path / "release"
    child = toy.held("record-written", release, *args)
    saved = b"saved = 'by the user, just now'\n"
    (toy.clone / "step.py").write_bytes(saved)
    release.touch()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == ExitCode.EDITED
    assert (toy.clone / "step.py").read_bytes() == saved
    assert toy.unfinished() == []
    result = toy.run(*args)
    assert (toy.clone / "step.py").read_bytes() == saved, result


# --- files in the way of a move


@pytest.mark.parametrize("kind", ["untracked", "ignored", "folder", "link", "file where a folder goes"])
def test_what_is_in_the_way_of_a_move_is_refused_by_name(toy: Toy, kind: str) -> None:
    (toy.upstream / "deep").mkdir()
    (toy.upstream / "deep/new.py").write_text("new = 1\n")
    git(toy.upstream, "add", "--all")
    git(toy.upstream, "commit", "--quiet", "-m", "deep")
    toy.ok("toy")
    toy.ok("update", "toy", "--to", "main", "--write", "--leave-out")
    if kind == "ignored":
        (toy.clone / ".git/info/exclude").write_text("*\n")
    name = "deep/new.py"
    if kind == "folder":
        (toy.clone / name).mkdir(parents=True)
        (toy.clone / name / "kept.txt").write_text("mine\n")
        name = "deep/new.py/kept.txt"
    elif kind == "link":
        (toy.root / "outside").mkdir()
        (toy.clone / "deep").symlink_to(toy.root / "outside")
        name = "deep"
    elif kind == "file where a folder goes":
        name = "deep"
        (toy.clone / name).write_text("mine\n")
    else:
        (toy.clone / "deep").mkdir()
        (toy.clone / name).write_text("mine\n")
    before = tree_of(toy.clone)
    result = toy.run("toy")
    assert result.code == ExitCode.EDITED and name in result.err, result
    assert "interrupted run" not in result.err
    assert tree_of(toy.clone) == before, "the hooks stay in, too"
    assert not (toy.root / "outside").exists() or list((toy.root / "outside").iterdir()) == []


def test_files_of_one_name_come_into_new_folders(toy: Toy) -> None:
    """They are written aside where a folder is, so one must not be taken for what a killed write of the other left."""
    names = ("data/one/test.txt", "data/two/test.txt", "data/two/deep/test.txt", "data/test.txt")
    for name in names:
        (toy.upstream / name).parent.mkdir(parents=True, exist_ok=True)
        (toy.upstream / name).write_text(f"{name}\n")
    git(toy.upstream, "add", "--all")
    git(toy.upstream, "commit", "--quiet", "-m", "folders")
    toy.ok("toy")
    toy.ok("update", "toy", "--to", "main", "--write", "--leave-out")
    toy.ok("toy")
    assert all((toy.clone / name).read_text() == f"{name}\n" for name in names)
    toy.assert_tidy()


# --- owners, modes, links


def test_owner_and_mode_of_touched_files_are_kept(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    step, train = toy.clone / "step.py", toy.clone / "scripts/train.py"
    step.chmod(0o664)
    train.chmod(0o750)
    owner = (12345, 23456) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(step, *owner)
    for command in ("apply", "revert"):
        toy.ok(command, "toy")
        assert (step.stat().st_uid, step.stat().st_gid) == owner
        assert (step.stat().st_mode & 0o7777, train.stat().st_mode & 0o7777) == (0o664, 0o750)


def test_a_lock_that_is_a_link_stays_one(toy: Toy) -> None:
    real = toy.root / "real.lock"
    toy.lock.rename(real)
    toy.lock.symlink_to(real)
    toy.ok("update", "toy", "--to", "clean", "--write")
    assert toy.lock.is_symlink()
    assert toy.locked("commit") == toy.commits["clean"] and real.is_file()


def test_a_hard_link_is_said(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    os.link(toy.clone / "step.py", toy.root / "other-name.py")
    result = toy.ok("toy")
    assert "step.py is a hard link" in result.err
    assert (toy.root / "other-name.py").read_text() == STEP
    toy.assert_patched()


# --- two refreshes at once


def test_two_refreshes_at_once_keep_both_entries(toy: Toy, tmp_path: Path) -> None:
    """Two upstreams in one lock: one run stops between reading the lock and writing it, the other comes in between."""
    second = toy.overlay / "patches" / "again"
    second.mkdir()
    for patch in (toy.overlay / "patches/toy").iterdir():
        (second / patch.name).write_bytes(patch.read_bytes())
    entry = toy.lock.read_text().split("[[upstream]]")[1]
    entry = entry.replace('"toy"', '"again"').replace("patches/toy/", "patches/again/")
    toy.lock.write_text(toy.lock.read_text() + "[[upstream]]" + entry)
    (toy.root / "mirror/again").symlink_to(toy.upstream)
    toy.ok()
    for name in ("toy", "again"):
        with (toy.dest / name / "step.py").open("a") as file:
            file.write("pcpo.more()\n")
    release = tmp_path / "release"
    child = toy.held("lock-written", release, "refresh", "toy")
    command = [sys.executable, str(ROOT / "apply.py"), *toy.command("refresh", "again")]
    other = subprocess.Popen(command, env=toy.environment(), stderr=subprocess.PIPE, text=True)
    assert other.stderr is not None
    assert "is held by" in other.stderr.readline()
    release.touch()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    other.communicate()
    assert other.returncode == 0
    for name in ("toy", "again"):
        upstream = load(toy.lock).get(name)
        assert upstream.patched_tree != upstream.tree
        assert "pcpo.more()" in (toy.overlay / upstream.patches[0].file).read_text()
    toy.ok("check")


# --- both sides insert at one place


def test_an_import_of_the_users_where_the_hooks_import_goes_is_kept(toy: Toy) -> None:
    mine = toy.root / "mine"
    git(toy.root, "clone", "--quiet", str(toy.upstream), str(mine))
    git(mine, "checkout", "--quiet", "pin")
    (mine / "scripts/train.py").write_text("import mine\n" + TRAIN)
    step = STEP.replace("    y = x + 1\n", "    y = x + 1\n    y = y * 2\n")
    (mine / "step.py").write_text(step)
    toy.ok("toy", "--into", str(mine))
    text = (mine / "scripts/train.py").read_text()
    assert text.startswith("import mine\nfrom pcpo_overlay import hooks as pcpo\nline_1 = 1\n")
    assert "    y = y * 2\n    y = pcpo.step(y)\n    return y\n" in (mine / "step.py").read_text()
    assert "nothing to do" in toy.ok("toy", "--into", str(mine)).out
    toy.ok("revert", "toy", "--into", str(mine))
    assert (mine / "scripts/train.py").read_text() == "import mine\n" + TRAIN
    assert (mine / "step.py").read_text() == step


def test_a_lost_record_beside_edits_is_recognised_by_the_hooks(toy: Toy) -> None:
    toy.ok("toy")
    for name in ("pcpo-overlay.json", "pcpo-overlay.record.json"):
        (toy.clone / ".git" / name).unlink()
    train = toy.clone / "scripts/train.py"
    train.write_text(train.read_text().replace("line_20 = 20", "line_20 = 'mine'"))
    for command in (["toy"], ["revert", "toy"]):
        result = toy.run(*command)
        assert result.code == ExitCode.EDITED
        assert "--into" in result.err and "checkout" not in result.err, "no advice that destroys the edit"
    assert train.read_bytes() == toy.patched("scripts/train.py", MINE)
    toy.ok("toy", "--into", str(toy.clone))
    assert train.read_bytes() == toy.patched("scripts/train.py", MINE), "no hook twice"
    toy.ok("revert", "toy", "--into", str(toy.clone))
    assert train.read_text() == MINE
    assert set(HOOKS) == {"scripts/train.py", "step.py"} and (toy.clone / "step.py").read_text() == STEP


def test_a_clone_is_not_waited_for_longer_than_asked(toy: Toy, tmp_path: Path) -> None:
    toy.ok("toy", "--no-patch")
    release = tmp_path / "release"
    child = toy.held("record-written", release, "toy")
    begun = time.monotonic()
    assert toy.run("revert", "toy", "--wait", "0").code == ExitCode.BUSY
    assert time.monotonic() - begun < 10
    release.touch()
    os.waitpid(child, 0)
