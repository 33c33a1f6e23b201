"""A clone that version 0.1.0 patched is taken over: its stamp, its notes of --into, its staged hooks, its journal.

That version's files are written out here as it wrote them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import pytest
from apply_toy import HOOKS, STEP, TRAIN, Toy, build, git

from pcpo_overlay.vendoring.errors import ExitCode

EDIT = "other = 'an edit of the user'\n"
BASE = {"scripts/train.py": TRAIN, "step.py": STEP}


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return build(tmp_path_factory.mktemp("toy") / "master")


def stage(clone: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (clone / ".blob").write_bytes(data)
        oid = git(clone, "hash-object", "-w", ".blob")
        (clone / ".blob").unlink()
        git(clone, "update-index", "--cacheinfo", f"100644,{oid},{path}")


def stamp(toy: Toy) -> dict[str, object]:
    digests = {path: hashlib.sha256(toy.patched(path)).hexdigest() for path in HOOKS}
    names = {
        "commit": toy.commits["pin"],
        "base_tree": toy.locked("tree"),
        "patched_tree": toy.locked("patched_tree"),
    }
    return {"name": "toy", **names, "files": digests}


@pytest.fixture
def old(master: Toy, tmp_path: Path) -> Toy:
    """Patched by 0.1.0: hooks in the work tree and staged, a stamp, a pin, no record of today's."""
    toy = master.copy(tmp_path / "toy")
    toy.dest.mkdir()
    git(toy.root, "clone", "--quiet", str(toy.upstream), str(toy.clone))
    git(toy.clone, "checkout", "--quiet", "--detach", "pin")
    for path in HOOKS:
        (toy.clone / path).write_bytes(toy.patched(path))
    stage(toy.clone, {path: toy.patched(path) for path in HOOKS})
    (toy.clone / ".git/pcpo-overlay.json").write_text(json.dumps(stamp(toy), indent=2) + "\n")
    (toy.clone / ".git/pcpo-overlay.pin").write_text(toy.commits["pin"] + "\n")
    (toy.clone / "other.py").write_text(EDIT)
    return toy


def test_a_patched_clone_is_patched(old: Toy) -> None:
    assert old.status()["state"] == "patched"
    old.ok("check", "toy")
    assert "nothing to do" in old.ok("toy").out
    old.assert_patched()
    old.ok("revert", "toy")
    old.assert_pristine()
    assert git(old.clone, "status", "--porcelain").split() == ["M", "other.py"]


@pytest.mark.parametrize("command", [["revert", "toy"], ["refresh", "toy"], ["toy", "--no-patch"]])
def test_each_command_takes_it_over(old: Toy, command: list[str]) -> None:
    if command[0] == "refresh":
        (old.clone / "other.py").write_text("other = 1\n")
    result = old.run(*command)
    assert result.code == (ExitCode.EDITED if "--no-patch" in command else 0), result
    old.ok("toy")
    old.assert_patched()


def test_it_is_moved_to_another_pin(old: Toy) -> None:
    old.ok("update", "toy", "--to", "clean", "--write")
    old.ok("toy")
    assert old.status()["state"] == "patched"
    assert git(old.clone, "diff", "--cached", "--name-only") == ""
    assert (old.clone / "other.py").read_text() == EDIT and (old.clone / "new.py").exists()


def test_an_edited_file_of_it_is_refused_and_merged_with_into(old: Toy) -> None:
    train = old.clone / "scripts/train.py"
    train.write_text(train.read_text().replace("line_20 = 20", "line_20 = 'mine'"))
    assert old.run("revert", "toy").code == ExitCode.EDITED
    old.ok("revert", "toy", "--into", str(old.clone))
    assert train.read_text() == TRAIN.replace("line_20 = 20", "line_20 = 'mine'")
    assert (old.clone / "step.py").read_text() == STEP


@pytest.mark.parametrize("stamped", [True, False])
def test_notes_of_into_are_taken_over(old: Toy, stamped: bool) -> None:
    """``stamped`` is false where 0.1.0 died between its notes and its stamp."""
    mine = TRAIN.replace("line_20 = 20", "line_20 = 'mine'")
    pack = lambda data: base64.b64encode(data).decode()  # noqa: E731
    files = {"scripts/train.py": mine, "step.py": STEP}
    notes = {p: {"before": pack(t.encode()), "after": pack(old.patched(p, t))} for p, t in files.items()}
    (old.clone / ".git/pcpo-overlay.undo.json").write_text(json.dumps({"files": notes}))
    (old.clone / "scripts/train.py").write_bytes(old.patched("scripts/train.py", mine))
    git(old.clone, "reset", "--quiet")
    if not stamped:
        (old.clone / ".git/pcpo-overlay.json").unlink()
        (old.clone / "step.py").write_text(STEP)
    old.ok("revert", "toy", "--into", str(old.clone))
    assert (old.clone / "scripts/train.py").read_text() == mine and (
        old.clone / "step.py"
    ).read_text() == STEP
    assert {p.name for p in (old.clone / ".git").glob("pcpo*")} == {"pcpo-overlay.lock", "pcpo-overlay.pin"}


# --- 0.1.0 died while its git moved files from upstream's tree to the patched one


@pytest.fixture
def torn(old: Toy) -> Toy:
    patched = git(old.clone, "write-tree")
    git(old.clone, "reset", "--quiet")
    for path, text in BASE.items():
        (old.clone / path).write_text(text)
    (old.clone / ".git/pcpo-overlay.json").unlink()
    journal = {
        "from_tree": old.locked("tree"), "to_tree": patched, "head": old.commits["pin"], "stamp": stamp(old),
        "skip": [], "pid": 4242, "host": "there", "started": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    (old.clone / ".git/pcpo-overlay.journal").write_text(json.dumps(journal))
    return old


def half_state(toy: Toy, kind: str) -> None:
    train, step = toy.clone / "scripts/train.py", toy.clone / "step.py"
    if kind in ("one of two", "index lock left", "unlinked"):
        train.write_bytes(toy.patched("scripts/train.py"))
    if kind == "unlinked":
        step.unlink()
    if kind == "cut short":
        train.write_bytes(toy.patched("scripts/train.py")[:100])
    if kind == "empty":
        train.write_bytes(b"")
    if kind == "index not written":
        for path in HOOKS:
            (toy.clone / path).write_bytes(toy.patched(path))
    if kind == "index lock left":
        (toy.clone / ".git" / "index.lock").write_bytes(b"DIRC")


KINDS = ("one of two", "unlinked", "cut short", "empty", "index not written", "index lock left")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["apply", "revert"])
def test_what_it_left_half_done_is_finished_or_undone(torn: Toy, kind: str, command: str) -> None:
    half_state(torn, kind)
    assert torn.status()["state"] == "partial"
    assert torn.run("check", "toy").code == ExitCode.NOT_IN_ORDER
    if kind == "unlinked":
        result = torn.run(command, "toy")
        assert result.code == ExitCode.EDITED and "step.py (deleted)" in result.err
        git(torn.clone, "checkout", "HEAD", "--", "step.py")
    torn.ok(command, "toy")
    torn.assert_patched() if command == "apply" else torn.assert_pristine()
    assert (torn.clone / "other.py").read_text() == EDIT


def test_a_file_edited_since_is_refused(torn: Toy) -> None:
    half_state(torn, "one of two")
    mine = torn.patched("scripts/train.py") + b"mine = 1\n"
    (torn.clone / "scripts/train.py").write_bytes(mine)
    result = torn.run("toy")
    assert result.code == ExitCode.EDITED and "scripts/train.py" in result.err
    assert (torn.clone / "scripts/train.py").read_bytes() == mine
    torn.ok("toy", "--into", str(torn.clone))  # what the message says to do works
    assert (torn.clone / "scripts/train.py").read_bytes() == mine
    assert os.path.lexists(torn.clone / ".git/pcpo-overlay.record.json")
