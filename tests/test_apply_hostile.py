"""Clones, mirrors and records of somebody else's: nothing of theirs is executed, nothing is written outside."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
from apply_toy import STEP, TRAIN, Toy, build, git, tree_of

from pcpo_overlay.vendoring.errors import ExitCode


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return build(tmp_path_factory.mktemp("toy") / "master")


@pytest.fixture
def toy(master: Toy, tmp_path: Path) -> Toy:
    return master.copy(tmp_path / "toy")


@pytest.fixture
def mine(toy: Toy) -> Path:
    path = toy.root / "mine"
    git(toy.root, "clone", "--quiet", str(toy.upstream), str(path))
    git(path, "checkout", "--quiet", "-b", "work", "pin")
    return path


COMMANDS = (["status"], ["check"], ["diff"], ["apply"], ["status"], ["revert"])


@pytest.mark.parametrize(
    "name", ["../outside.py", "/tmp/outside.py", ".git/hooks/post-checkout", "a/../../x", "a\0b"]
)
@pytest.mark.parametrize("form", ["record", "stamp", "notes"])
def test_a_name_in_a_record_that_leads_outside_is_refused(toy: Toy, mine: Path, name: str, form: str) -> None:
    pack = lambda data: base64.b64encode(zlib.compress(data)).decode()  # noqa: E731
    plain = lambda data: base64.b64encode(data).decode()  # noqa: E731
    names = {key: toy.locked(key) for key in ("commit", "tree", "patched_tree")}
    stamp = {"name": "toy", "base_tree": names.pop("tree"), **names, "files": {name: "0" * 64}}
    file = {"before": pack(b"evil"), "after": pack(b"x"), "older": []}
    written: dict[str, Any]
    if form == "record":
        written = {"pcpo-overlay.record.json": {**stamp, "moving_from": None, "files": {name: file}}}
    elif form == "notes":
        notes = {"files": {name: {"before": plain(b"evil"), "after": plain(b"x")}}}
        written = {"pcpo-overlay.json": {**stamp, "files": {}}, "pcpo-overlay.undo.json": notes}
    else:
        written = {"pcpo-overlay.json": stamp}
    for file_name, data in written.items():
        (mine / ".git" / file_name).write_text(json.dumps(data))
    before = {str(p): p.read_bytes() for p in toy.root.rglob("*") if p.is_file()}
    for command in (["toy"], ["revert", "toy"], ["status", "toy"]):
        result = toy.run(*command, "--into", str(mine))
        assert result.code == ExitCode.UNSAFE_PATH, (command, result)
        assert len(result.err.strip().splitlines()) == 1
    (mine / ".git/pcpo-overlay.lock").unlink()
    assert {str(p): p.read_bytes() for p in toy.root.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("key", ["commit", "base_tree", "moving_from"])
def test_an_object_name_in_a_record_that_is_an_option_is_refused(toy: Toy, mine: Path, key: str) -> None:
    names = {
        "commit": toy.locked("commit"),
        "base_tree": toy.locked("tree"),
        "patched_tree": toy.locked("tree"),
    }
    record: dict[str, Any] = {
        "name": "toy",
        **names,
        "moving_from": None,
        "files": {},
        key: f"--output={toy.root}/written",
    }
    (mine / ".git/pcpo-overlay.record.json").write_text(json.dumps(record))
    for command in (["toy"], ["revert", "toy"], ["status", "toy"]):
        assert toy.run(*command, "--into", str(mine)).code == ExitCode.FAILED
    assert not (toy.root / "written").exists()


@pytest.mark.parametrize("command", ["apply", "revert"])
def test_a_folder_that_became_a_link_is_not_followed(toy: Toy, mine: Path, command: str) -> None:
    if command == "revert":
        toy.ok("toy", "--into", str(mine))
    shutil.move(mine / "scripts", toy.root / "outside")
    (mine / "scripts").symlink_to(toy.root / "outside")
    before = tree_of(toy.root)
    result = toy.run(command, "toy", "--into", str(mine))
    assert result.code == ExitCode.EDITED and "scripts/train.py" in result.err
    assert tree_of(toy.root) == before


@pytest.mark.parametrize(
    "to", ["--upload-pack=touch {}", "-x", "a..b", "ext::sh -c touch% {}", "a b", "", "a:b", "@{{-1}}"]
)
def test_update_to_what_is_no_name_runs_nothing(toy: Toy, to: str) -> None:
    marker = toy.root / "ran"
    result = toy.run("update", "toy", f"--to={to.format(marker)}")
    assert result.code == ExitCode.USAGE and not marker.exists()


def arm(toy: Toy, clone: Path) -> Path:
    """Have a clone's own configuration run a program wherever git can be made to; returns what it would leave."""
    marker, program = toy.root / "ran", toy.root / "program"
    program.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    program.chmod(0o755)
    (clone / ".git/info").mkdir(exist_ok=True)
    (clone / ".git/info/attributes").write_text("* filter=evil diff=evil merge=evil\n")
    (clone / ".git/hooks").mkdir(exist_ok=True)
    for hook in ("post-checkout", "post-index-change", "reference-transaction", "pre-auto-gc"):
        shutil.copy(program, clone / ".git/hooks" / hook)
    settings = {
        "filter.evil.clean": program, "filter.evil.smudge": program, "filter.evil.process": program,
        "diff.evil.textconv": program, "diff.evil.command": program, "merge.evil.driver": program,
        "core.fsmonitor": program, "core.sshCommand": program, "core.pager": program, "core.editor": program,
        "core.alternateRefsCommand": program, "diff.external": program, "credential.helper": program,
        "core.hooksPath": clone / ".git/hooks", "remote.origin.url": f"ext::{program}", "protocol.ext.allow": "always",
        "remote.origin.promisor": "true", "remote.origin.uploadpack": program, "extensions.partialClone": "origin",
        "uploadpack.packObjectsHook": program, "gpg.program": program, "core.repositoryformatversion": "1",
    }  # fmt: skip
    for key, value in settings.items():
        git(clone, "config", "--replace-all", key, str(value))
    blob = git(clone, "rev-parse", "pin:data/big.txt")
    (clone / ".git/objects" / blob[:2] / blob[2:]).unlink(
        missing_ok=True
    )  # a lazy fetch would ask the promisor
    for path in clone.rglob("*"):
        if ".git" not in path.parts and path.is_file():
            os.utime(path)  # so that git has to look at the content
    return marker


def spring(clone: Path, marker: Path) -> None:
    """The trap is one: git itself, asked for the same, runs the program."""
    env = {**os.environ, "GIT_DIR": str(clone / ".git"), "GIT_WORK_TREE": str(clone)}
    subprocess.run(["git", "status"], cwd=clone, env=env, capture_output=True, check=False, timeout=30)
    assert marker.exists()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_nothing_of_a_foreign_clones_configuration_runs(toy: Toy, mine: Path, command: list[str]) -> None:
    if command[0] == "revert":
        toy.ok("toy", "--into", str(mine))
    marker = arm(toy, mine)
    result = toy.run(command[0], "toy", "--into", str(mine))
    assert result.code in (0, 14), result
    assert not marker.exists()
    spring(mine, marker)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_nothing_of_a_vendored_clones_configuration_runs(toy: Toy, command: list[str]) -> None:
    toy.ok("toy")
    marker = arm(toy, toy.clone)
    toy.ok(command[0], "toy")
    toy.ok("update", "toy", "--to", "clean", "--write")
    toy.ok("toy")
    assert (toy.clone / "new.py").exists() and not marker.exists()


def test_gits_own_check_of_the_owner_is_respected_with_its_advice(toy: Toy, mine: Path) -> None:
    if os.geteuid() == 0:
        os.chown(mine, 12345, 12345)
        os.chown(mine / ".git", 12345, 12345)
        env: dict[str, str] = {}
    else:  # git's own switch for its tests: take every repository for someone else's
        env = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    before = tree_of(mine)
    for command in ("apply", "status", "revert"):
        result = toy.script(command, "toy", "--into", str(mine), env=env)
        assert result.code == ExitCode.FAILED, result
        assert "dubious ownership" in result.err and "safe.directory" in result.err
    assert tree_of(mine) == before


@pytest.mark.parametrize("path", ["step.py", "other.py"])
def test_a_mirror_whose_objects_were_tampered_with_is_found(toy: Toy, path: str) -> None:
    oid = git(toy.upstream, "rev-parse", f"pin:{path}")
    file = toy.upstream / ".git/objects" / oid[:2] / oid[2:]
    file.chmod(0o644)
    data = b"import evil\n"
    file.write_bytes(zlib.compress(b"blob %d\0" % len(data) + data))
    result = toy.run("toy")
    assert result.code == ExitCode.WRONG_TREE and oid in result.err
    assert not toy.clone.exists()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_clone_that_leads_elsewhere_is_refused_but_with_into(toy: Toy, mine: Path, kind: str) -> None:
    toy.dest.mkdir()
    if kind == "link":
        toy.clone.symlink_to(mine)
        elsewhere = mine
    else:
        git(mine, "worktree", "add", "--quiet", "--detach", str(toy.clone), "pin")
        elsewhere = toy.clone
    for command in (["toy"], ["revert", "toy"], ["check", "toy"], ["refresh", "toy"]):
        result = toy.run(*command)
        assert result.code == ExitCode.WRONG_COMMIT and "--into" in result.err
    assert (elsewhere / "step.py").read_text() == STEP
    toy.ok("toy", "--into", str(toy.clone))
    assert (elsewhere / "step.py").read_bytes() == toy.patched("step.py")
    assert (elsewhere / "scripts/train.py").read_bytes() != TRAIN.encode()


@pytest.mark.parametrize("name", ["../outside.py", "vendor.lock", "/tmp/outside.py", "patches/../../x"])
def test_what_waits_beside_the_lock_leads_nowhere_but_to_patches(toy: Toy, name: str) -> None:
    waiting = {"lock": toy.lock.read_text(), "patches": {"patches/toy/step.patch": None, name: "evil\n"}}
    (toy.overlay / ".vendor.lock.new").write_text(json.dumps(waiting))
    before = tree_of(toy.root)
    assert toy.run("toy").code == ExitCode.UNSAFE_PATH
    assert {name: data for name, data in tree_of(toy.root).items() if ".lock.lock" not in name} == before
