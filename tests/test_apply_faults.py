"""Each fault apply.py has to survive: its message, its exit code, no edit lost, no half-patched tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from apply_toy import HOOKS, ROOT, STEP, TRAIN, URL, Toy, build, git, tree_of

from pcpo_overlay.vendoring.errors import ExitCode


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return build(tmp_path_factory.mktemp("toy") / "master")


@pytest.fixture
def toy(master: Toy, tmp_path: Path) -> Toy:
    return master.copy(tmp_path / "toy")


# --- running it twice, and two at once


def test_twice_is_harmless(toy: Toy) -> None:
    toy.ok("toy")
    stamp = (toy.clone / ".git/pcpo-overlay.json").stat().st_mtime_ns
    before = tree_of(toy.clone)
    result = toy.ok("toy")
    assert "nothing to do" in result.out
    assert tree_of(toy.clone) == before
    assert (toy.clone / ".git/pcpo-overlay.json").stat().st_mtime_ns == stamp
    toy.assert_patched()


def test_second_run_says_who_holds_the_clone_and_gives_up(toy: Toy, tmp_path: Path) -> None:
    release = tmp_path / "release"
    child = toy.held("cloned", release, "toy")
    try:
        pid = release.with_suffix(".reached").read_text()
        result = toy.run("toy", "--wait", "0.2")
        assert result.code == ExitCode.BUSY == 11
        assert f"pid {pid}" in result.err and "since 20" in result.err and "waiting up to 0.2 s" in result.err
    finally:
        release.touch()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    toy.assert_patched()


def test_second_run_waits_for_the_first(toy: Toy, tmp_path: Path) -> None:
    release = tmp_path / "release"
    child = toy.held("record-written", release, "toy")
    second = subprocess.Popen(
        [sys.executable, str(ROOT / "apply.py"), *toy.command("toy")],
        env=toy.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert second.stderr is not None
    assert "waiting up to 120 s" in second.stderr.readline()
    release.touch()
    out, _ = second.communicate()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert second.returncode == 0 and "nothing to do" in out
    toy.assert_patched()


def test_another_git_holds_the_index(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    lock = toy.clone / ".git/index.lock"
    lock.write_bytes(b"someone's")
    result = toy.run("toy")
    assert result.code == ExitCode.BUSY
    assert "index.lock" in result.err
    assert lock.read_bytes() == b"someone's"
    lock.unlink()
    toy.assert_pristine()
    toy.ok("toy")


# --- where the clone comes from


def test_no_network(toy: Toy) -> None:
    result = toy.run("toy", mirror=None)
    assert result.code == ExitCode.UNREACHABLE == 7
    assert URL in result.err and "--mirror" in result.err and "PCPO_MIRROR" in result.err
    assert not toy.clone.exists()
    assert [p.name for p in toy.dest.iterdir()] == [".toy.lock"]


def test_no_network_is_no_matter_once_cloned(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    toy.ok("toy", mirror=None)
    toy.assert_patched()
    toy.ok("toy", mirror=toy.root / "gone")


def test_mirror_without_the_upstream(toy: Toy) -> None:
    (toy.root / "empty").mkdir()
    result = toy.run("toy", mirror=toy.root / "empty")
    assert result.code == ExitCode.UNREACHABLE
    assert str(toy.root / "empty" / "toy.git") in result.err


def test_mirror_by_variable_and_bare(toy: Toy) -> None:
    (toy.root / "bare").mkdir()
    git(toy.root, "clone", "--quiet", "--bare", str(toy.upstream), str(toy.root / "bare" / "toy.git"))
    toy.ok("toy", mirror=None, env={"PCPO_MIRROR": str(toy.root / "bare")})
    toy.assert_patched()
    assert git(toy.clone, "remote", "get-url", "origin") == URL
    assert str(toy.root) not in (toy.clone / ".git/config").read_text()


def test_insteadof_of_the_user_keeps_working(toy: Toy) -> None:
    env = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{toy.root / 'mirror'}/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://upstream.invalid/someone/",
    }
    toy.ok("toy", mirror=None, env=env)
    toy.assert_patched()


HOSTILE = """\
[url "{mirror}/"]
    insteadOf = https://upstream.invalid/someone/
[core]
    autocrlf = true
    safecrlf = true
    fsmonitor = false-and-missing
    hooksPath = {hooks}
    attributesFile = {hooks}/attributes
[commit]
    gpgSign = true
[diff]
    noprefix = true
    external = false-and-missing
[apply]
    whitespace = error-all
[protocol "file"]
    allow = never
[clone]
    defaultRemoteName = elsewhere
[color]
    ui = always
"""


def test_settings_of_the_user_that_would_break_it(toy: Toy, tmp_path: Path) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/hook-ran\nexit 1\n")
        (hooks / name).chmod(0o755)
    (hooks / "attributes").write_text("*.py text eol=crlf filter=missing\n")
    settings = tmp_path / "gitconfig"
    settings.write_text(HOSTILE.format(mirror=toy.root / "mirror", hooks=hooks))
    env = {
        "GIT_CONFIG_GLOBAL": str(settings),
        "GIT_DIR": str(tmp_path / "elsewhere"),
        "GIT_INDEX_FILE": "/nowhere",
    }
    toy.ok("toy", mirror=None, env=env)
    toy.assert_patched()
    toy.ok("check", "toy", env=env)
    assert "+pcpo.finish()" in toy.ok("diff", "toy", env=env).out
    toy.ok("revert", "toy", env=env)
    toy.assert_pristine()
    assert not (tmp_path / "hook-ran").exists()


def drop_blob(toy: Toy, path: str) -> None:
    """Make the mirror one that lacks the content of a file."""
    oid = git(toy.upstream, "rev-parse", f"pin:{path}")
    (toy.upstream / ".git/objects" / oid[:2] / oid[2:]).unlink()


def test_mirror_without_some_blobs(toy: Toy) -> None:
    drop_blob(toy, "data/big.txt")
    result = toy.ok("toy")
    assert "data/big.txt: read by scripts/run.sh" in result.err
    assert not (toy.clone / "data/big.txt").exists()
    toy.assert_patched()
    assert git(toy.clone, "status", "--porcelain").split() == ["M", "scripts/train.py", "M", "step.py"]
    assert toy.status()["missing_files"] == {"data/big.txt": ["scripts/run.sh"]}
    toy.ok("check", "toy")
    toy.ok("revert", "toy")
    toy.assert_pristine()
    assert "data/big.txt" in toy.ok("toy").err, "each run says so again"


def test_mirror_without_some_blobs_still_moves_to_a_new_pin(toy: Toy) -> None:
    drop_blob(toy, "data/big.txt")
    toy.ok("toy")
    toy.ok("update", "toy", "--to", "clean", "--write")
    toy.ok("toy")
    assert (toy.clone / "new.py").exists() and not (toy.clone / "data/big.txt").exists()
    assert toy.status()["state"] == "patched"


def test_mirror_without_a_file_that_is_patched(toy: Toy) -> None:
    drop_blob(toy, "scripts/train.py")
    result = toy.run("toy")
    assert result.code == ExitCode.INCOMPLETE == 15
    assert "scripts/train.py" in result.err
    assert not toy.clone.exists()


def test_commit_that_upstream_does_not_have(toy: Toy) -> None:
    toy.write_lock(commit="0" * 39 + "1")
    result = toy.run("toy")
    assert result.code == ExitCode.WRONG_TREE == 8
    assert "0" * 39 + "1" in result.err
    assert not toy.clone.exists()


def test_commit_without_the_locked_tree(toy: Toy) -> None:
    toy.write_lock(tree="1" * 40)
    result = toy.run("toy")
    assert result.code == ExitCode.WRONG_TREE
    assert "1" * 40 in result.err
    assert not toy.clone.exists()


# --- what is in the clone already


def test_wrong_commit_in_the_clone(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    git(toy.clone, "checkout", "--quiet", "--detach", "clean")
    (toy.clone / "other.py").write_text("mine = 1\n")
    before = tree_of(toy.clone)
    for command in (["toy"], ["revert", "toy"], ["refresh", "toy"], ["check", "toy"]):
        result = toy.run(*command)
        assert result.code == ExitCode.WRONG_COMMIT == 9, command
        assert toy.commits["clean"] in result.err
    assert "--into" in toy.run("toy").err
    assert toy.status()["state"] == "foreign"
    assert tree_of(toy.clone) == before


def test_commits_of_the_user_on_top(toy: Toy) -> None:
    toy.ok("toy")
    git(toy.clone, "commit", "--quiet", "--all", "-m", "hooks and mine")
    result = toy.run("toy")
    assert result.code == ExitCode.WRONG_COMMIT
    assert (toy.clone / "step.py").read_bytes() == toy.patched("step.py")


def test_something_else_in_its_place(toy: Toy) -> None:
    toy.clone.mkdir(parents=True)
    (toy.clone / "notes.txt").write_text("mine")
    result = toy.run("toy")
    assert result.code == ExitCode.WRONG_COMMIT
    assert str(toy.clone) in result.err
    assert tree_of(toy.clone) == {"notes.txt": b"mine"}
    assert toy.status()["state"] == "foreign"


def test_damaged_clone_does_not_lead_git_to_the_repository_above(toy: Toy) -> None:
    git(toy.root, "init", "--quiet")
    toy.ok("toy")
    (toy.clone / ".git/HEAD").unlink()
    for command in (["toy"], ["revert", "toy"], ["check", "toy"]):
        assert toy.run(*command).code == ExitCode.WRONG_COMMIT
    assert not (toy.root / ".git/index").exists()


@pytest.mark.parametrize("command", ["apply", "revert"])
def test_locally_edited_patched_file(toy: Toy, command: str) -> None:
    toy.ok("toy")
    mine = (toy.clone / "scripts/train.py").read_bytes() + b"mine = 1\n"
    (toy.clone / "scripts/train.py").write_bytes(mine)
    result = toy.run(command, "toy")
    assert result.code == ExitCode.EDITED == 10
    assert "scripts/train.py" in result.err and "step.py" not in result.err
    assert (toy.clone / "scripts/train.py").read_bytes() == mine
    assert (toy.clone / "step.py").read_bytes() == toy.patched("step.py")
    status = toy.status()
    assert (status["state"], status["modified_files"]) == ("modified", ["scripts/train.py"])
    assert toy.run("check", "toy").code == ExitCode.EDITED


def test_locally_edited_file_that_would_be_patched(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    (toy.clone / "step.py").write_text(STEP + "mine = 1\n")
    result = toy.run("toy")
    assert result.code == ExitCode.EDITED
    assert (toy.clone / "step.py").read_text() == STEP + "mine = 1\n"
    assert (toy.clone / "scripts/train.py").read_text() == TRAIN
    git(toy.clone, "add", "step.py")  # staged is no different
    assert toy.run("toy").code == ExitCode.EDITED
    (toy.clone / "step.py").write_text(STEP)  # staged only
    assert toy.run("toy").code == ExitCode.EDITED
    (toy.clone / "step.py").unlink()
    git(toy.clone, "reset", "--quiet")
    result = toy.run("toy")
    assert result.code == ExitCode.EDITED and "step.py (deleted)" in result.err
    assert (toy.clone / "scripts/train.py").read_text() == TRAIN


def test_locally_edited_unrelated_files(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    (toy.clone / "other.py").write_text("mine = 1\n")
    (toy.clone / "staged.py").write_text("staged = 1\n")
    git(toy.clone, "add", "staged.py")
    (toy.clone / "data/big.txt").unlink()
    (toy.clone / "untracked.txt").write_text("mine\n")
    for command in ("apply", "apply", "revert", "apply"):
        toy.ok(command, "toy")
        assert (toy.clone / "other.py").read_text() == "mine = 1\n"
        assert (toy.clone / "staged.py").read_text() == "staged = 1\n"
        assert not (toy.clone / "data/big.txt").exists()
        assert (toy.clone / "untracked.txt").read_text() == "mine\n"
        assert "A  staged.py" in git(toy.clone, "status", "--porcelain")
    for path in HOOKS:
        assert (toy.clone / path).read_bytes() == toy.patched(path)
    status = toy.status()
    assert (status["state"], status["modified_files"]) == (
        "patched",
        ["data/big.txt", "other.py", "staged.py"],
    )
    toy.ok("check", "toy")


def test_index_reset_by_the_user(toy: Toy) -> None:
    toy.ok("toy")
    git(toy.clone, "reset", "--quiet")
    assert toy.status()["state"] == "patched"
    toy.ok("revert", "toy")
    toy.assert_pristine()


def test_one_hooked_file_restored_by_the_user(toy: Toy) -> None:
    toy.ok("toy")
    git(toy.clone, "checkout", "--quiet", "HEAD", "--", "step.py")
    assert toy.status()["state"] == "partial"
    assert toy.run("check", "toy").code == ExitCode.NOT_IN_ORDER == 14
    toy.ok("toy")
    toy.assert_patched()


def test_untracked_file_where_a_new_pin_has_one(toy: Toy) -> None:
    toy.ok("toy")
    toy.ok("update", "toy", "--to", "clean", "--write")
    (toy.clone / "new.py").write_text("mine = 1\n")
    result = toy.run("toy")
    assert result.code == ExitCode.EDITED
    assert "new.py" in result.err
    assert (toy.clone / "new.py").read_text() == "mine = 1\n"
    assert git(toy.clone, "rev-parse", "HEAD") == toy.commits["pin"]
    toy.assert_not_half_patched()
    (toy.clone / "new.py").unlink()
    toy.ok("toy")
    assert toy.status()["state"] == "patched"


def test_patches_changed_since_the_clone_was_patched(toy: Toy) -> None:
    toy.ok("toy")
    old = toy.status()["patched_tree"]
    path = toy.overlay / "patches/toy/step.patch"
    path.write_text(path.read_text().replace("pcpo.step(y)", "pcpo.newer_step(y)"))
    toy.write_lock()
    assert toy.status()["state"] == "outdated" and toy.locked("patched_tree") != old
    toy.ok("toy")
    assert "pcpo.newer_step(y)" in (toy.clone / "step.py").read_text()
    assert toy.status()["state"] == "patched"
    path.unlink()  # and a hook that is dropped is taken out
    toy.write_lock()
    toy.ok("toy")
    assert (toy.clone / "step.py").read_text() == STEP
    assert (toy.clone / "scripts/train.py").read_bytes() == toy.patched("scripts/train.py")


# --- the lock and the patch files


def test_patch_file_changed_against_the_lock(toy: Toy) -> None:
    path = toy.overlay / "patches/toy/step.patch"
    path.write_text(path.read_text().replace("pcpo.step(y)", "pcpo.evil(y)"))
    result = toy.run("toy")
    assert result.code == ExitCode.PATCH_CHANGED == 6
    assert "patches/toy/step.patch" in result.err and "sha256" in result.err
    assert not toy.dest.exists()
    path.unlink()
    assert toy.run("toy").code == ExitCode.PATCH_CHANGED


def test_patch_file_changed_after_the_clone_was_patched(toy: Toy) -> None:
    toy.ok("toy")
    path = toy.overlay / "patches/toy/step.patch"
    path.write_text(path.read_text().replace("pcpo.step(y)", "pcpo.evil(y)"))
    assert toy.run("toy").code == ExitCode.PATCH_CHANGED
    assert toy.run("check", "toy").code == ExitCode.PATCH_CHANGED
    toy.assert_patched()
    result = toy.run("status", "toy", "--json")
    assert result.code == ExitCode.PATCH_CHANGED
    assert json.loads(result.out)[0]["state"] == "outdated", "what is known is still told"
    toy.ok("revert", "toy")  # the stamp knows what was put in
    toy.assert_pristine()


def test_patches_that_do_not_give_the_locked_tree(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    toy.write_lock(patched_tree="2" * 40)
    result = toy.run("toy")
    assert result.code == ExitCode.WRONG_TREE
    assert "2" * 40 in result.err
    toy.assert_pristine()


OUTSIDE_LOCKS = {
    "name with dots": ('name = "toy"', 'name = "../evil"'),
    "absolute name": ('name = "toy"', 'name = "/tmp/evil"'),
    "name of a folder above": ('name = "toy"', 'name = ".."'),
    "hidden name": ('name = "toy"', 'name = ".git"'),
    "patch above": ("patches/toy/step.patch", "patches/../../evil.patch"),
    "absolute patch": ("patches/toy/step.patch", "/etc/passwd"),
    "patch elsewhere": ("patches/toy/step.patch", "vendor.lock"),
    "windows patch": ("patches/toy/step.patch", "patches\\\\..\\\\evil"),
}


@pytest.mark.parametrize("kind", OUTSIDE_LOCKS)
def test_lock_that_points_outside(toy: Toy, kind: str) -> None:
    old, new = OUTSIDE_LOCKS[kind]
    toy.lock.write_text(toy.lock.read_text().replace(old, new, 1))
    before = tree_of(toy.root)
    for command in (["apply"], ["status"], ["revert"], ["check"]):
        result = toy.run(*command)
        assert result.code == ExitCode.UNSAFE_PATH == 5, (command, result)
        assert "outside" in result.err
    assert tree_of(toy.root) == before and not toy.dest.exists()


def test_patch_folder_that_is_a_link_to_outside(toy: Toy) -> None:
    shutil.move(toy.overlay / "patches/toy", toy.root / "elsewhere")
    (toy.overlay / "patches/toy").symlink_to(toy.root / "elsewhere")
    assert toy.run("toy").code == ExitCode.UNSAFE_PATH
    assert not toy.dest.exists()


@pytest.mark.parametrize(
    "target", ["../../evil.py", "/etc/evil.py", ".git/config", "a/../../evil.py", "a//b.py"]
)
def test_patch_that_points_outside(toy: Toy, target: str) -> None:
    path = toy.overlay / "patches/toy/step.patch"
    lock = toy.lock.read_text()
    path.write_text(path.read_text().replace("a/step.py", f"a/{target}").replace("b/step.py", f"b/{target}"))
    from pcpo_overlay.vendoring.lockfile import sha256

    old = lock.split("step.patch")[1].split('"')[2]
    toy.lock.write_text(lock.replace(old, sha256(path.read_bytes())))
    result = toy.run("toy")
    assert result.code == ExitCode.UNSAFE_PATH, result
    assert not toy.dest.exists()


def test_touched_file_that_became_a_link_to_outside(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    (toy.root / "outside.py").write_text(STEP)
    (toy.clone / "step.py").unlink()
    (toy.clone / "step.py").symlink_to(toy.root / "outside.py")
    result = toy.run("toy")
    assert result.code == ExitCode.EDITED
    assert (toy.root / "outside.py").read_text() == STEP
    assert (toy.clone / "scripts/train.py").read_text() == TRAIN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("format = 1", "format = 2"),
        ("format = 1", "format = "),
        ('tree = "', 'tree = "g'),
        ('url = "https://', 'url = "ext::sh -c '),
        ('url = "https://', 'url = "/srv/'),
        ("sha256 = ", "md5 = "),
        ("[[upstream]]", "[[other]]"),
    ],
)
def test_malformed_lock(toy: Toy, old: str, new: str) -> None:
    toy.lock.write_text(toy.lock.read_text().replace(old, new, 1))
    result = toy.run("toy")
    assert result.code == ExitCode.BAD_LOCK == 4
    assert str(toy.lock) in result.err
    assert not toy.dest.exists()


def test_missing_lock_and_unknown_names(toy: Toy) -> None:
    result = toy.run("dance")
    assert result.code == ExitCode.USAGE == 2
    assert "'dance'" in result.err and "toy" in result.err
    toy.lock.unlink()
    assert toy.run("toy").code == ExitCode.BAD_LOCK


# --- a destination that cannot be written


def test_destination_below_a_file(toy: Toy) -> None:
    toy.dest.write_text("a file")
    result = toy.run("toy")
    assert result.code == ExitCode.UNWRITABLE == 12
    assert str(toy.dest) in result.err
    assert toy.dest.read_text() == "a file"


def read_only(folder: Path, *command: str) -> list[str]:
    """A command line that runs ``command`` where ``folder`` cannot be written, for root too."""
    if os.geteuid() != 0:
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o555)
        return [*command]
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    if (
        subprocess.run(
            ["unshare", "-m", "sh", "-c", mount, str(folder), "true"], capture_output=True
        ).returncode
        != 0
    ):
        pytest.skip("root ignores permissions, and this machine lets it mount nothing read-only")
    return ["unshare", "-m", "sh", "-c", mount, str(folder), *command]


def test_read_only_destination(toy: Toy) -> None:
    toy.dest.mkdir()
    result = toy.script("toy", before=read_only(toy.dest))
    assert result.code == ExitCode.UNWRITABLE, result
    assert str(toy.dest) in result.err
    assert list(toy.dest.iterdir()) == []


@pytest.mark.parametrize("command", ["apply", "revert"])
def test_read_only_clone(toy: Toy, command: str) -> None:
    if command == "apply":
        toy.ok("toy", "--no-patch")
    else:
        toy.ok("toy")
    before = tree_of(toy.clone)
    result = toy.script(command, "toy", before=read_only(toy.clone))
    assert result.code == ExitCode.UNWRITABLE, result
    assert str(toy.clone) in result.err
    assert tree_of(toy.clone) == before
    for path in [toy.clone, *toy.clone.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    toy.ok(command, "toy")


def test_read_only_folder_of_one_touched_file(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    result = toy.script("toy", before=read_only(toy.clone / "scripts"))
    assert result.code == ExitCode.UNWRITABLE, result
    (toy.clone / "scripts").chmod(0o755)
    toy.assert_pristine()


# --- the program itself


def test_missing_packages_are_one_clear_line(toy: Toy) -> None:
    """``-S`` leaves the standard library alone: no site-packages, so no GitPython and no torch either."""
    result = toy.script("toy", python=(sys.executable, "-S", "-E"))
    assert result.code == ExitCode.MISSING_PACKAGE == 3
    assert len(result.err.splitlines()) == 1
    assert 'pip install -e ".[apply]"' in result.err and "GitPython, filelock, rich" in result.err
    assert not toy.dest.exists()


def test_git_itself_is_missing(toy: Toy, tmp_path: Path) -> None:
    result = toy.script("toy", env={"PATH": str(tmp_path)})
    assert result.code == ExitCode.MISSING_PACKAGE
    assert "git" in result.err


def test_help_needs_no_package_and_lists_every_exit_code() -> None:
    command = [sys.executable, "-S", "-E", str(ROOT / "apply.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for code in ExitCode:
        assert f"{int(code):>3}  {code.meaning}" in done.stdout
    assert len({int(code) for code in ExitCode}) == len(list(ExitCode))


def test_apply_does_not_load_torch(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    program = (
        "import sys; from pcpo_overlay.vendoring.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or ('torch' in sys.modules) * 77)"
    )
    command = [sys.executable, "-c", program, *toy.command("toy")]
    done = subprocess.run(
        command, cwd=ROOT, env=toy.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("args", [["diff"], ["update", "toy"], ["status", "--frobnicate"], ["toy", "--into"]])
def test_wrong_arguments(toy: Toy, args: list[str]) -> None:
    assert toy.run(*args).code == ExitCode.USAGE


def test_interrupt(toy: Toy) -> None:
    """Ctrl-C while cloning: its own exit code, nothing left but the lock file."""
    command = [sys.executable, str(ROOT / "apply.py"), *toy.command("toy", mirror=None)]
    env = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.sshCommand",
        "GIT_CONFIG_VALUE_0": "sleep 30 #",
    }
    env |= {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_1": "url.ssh://nowhere.invalid/.insteadOf"}
    env |= {"GIT_CONFIG_VALUE_1": "https://upstream.invalid/"}
    run = subprocess.Popen(
        command,
        env=toy.environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stderr is not None
    assert "cloning toy" in run.stderr.readline()
    while not list(toy.dest.glob(".toy.partial-*/.git")):
        time.sleep(0.02)
    os.killpg(run.pid, 2)
    _, err = run.communicate()
    assert run.returncode == ExitCode.INTERRUPTED == 130, err
    assert "interrupted" in err
    assert not toy.clone.exists()
    toy.ok("toy")
    toy.assert_patched()
