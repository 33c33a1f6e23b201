"""What apply.py's commands do when all is well: refresh, update, --into, diff, check, status, and the stamp."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from apply_toy import HEADER, HOOKS, ROOT, STEP, TRAIN, URL, Toy, build, git, tree_of

from pcpo_overlay.vendoring.errors import ExitCode
from pcpo_overlay.vendoring.lockfile import load


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return build(tmp_path_factory.mktemp("toy") / "master")


@pytest.fixture
def toy(master: Toy, tmp_path: Path) -> Toy:
    return master.copy(tmp_path / "toy")


@pytest.fixture
def patched(toy: Toy) -> Toy:
    toy.ok("toy")
    return toy


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


# --- apply


def test_the_script_itself(toy: Toy) -> None:
    """``python apply.py``, not only its main: progress and notes on stderr, the result on stdout."""
    result = toy.script("toy")
    assert result.code == 0
    assert result.out == f"toy: cloned, patched ({toy.clone})\n"
    assert result.err.strip() == f"cloning toy from {toy.upstream}"
    toy.assert_patched()


def test_head_stays_at_the_pin_and_git_status_shows_the_hooks_alone(patched: Toy) -> None:
    assert git(patched.clone, "rev-parse", "HEAD") == patched.commits["pin"]
    assert subprocess.run(
        ["git", "-C", str(patched.clone), "symbolic-ref", "-q", "HEAD"], check=False
    ).returncode
    assert git(patched.clone, "status", "--porcelain").split() == ["M", "scripts/train.py", "M", "step.py"]
    assert git(patched.clone, "diff", "--cached") == "", "nothing is staged"
    added = git(patched.clone, "diff", "--numstat").splitlines()
    assert added == ["5\t0\tscripts/train.py", "1\t0\tstep.py"]


def test_stamp(patched: Toy) -> None:
    stamp = json.loads((patched.clone / ".git/pcpo-overlay.json").read_text())
    digests = {path: hashlib.sha256(patched.patched(path)).hexdigest() for path in HOOKS}
    assert stamp == {
        "name": "toy",
        "commit": patched.locked("commit"),
        "base_tree": patched.locked("tree"),
        "patched_tree": patched.locked("patched_tree"),
        "files": digests,
    }
    patched.ok("revert", "toy")
    assert not (patched.clone / ".git/pcpo-overlay.json").exists()


def test_lost_stamp_is_written_again(patched: Toy) -> None:
    stamp = patched.clone / ".git/pcpo-overlay.json"
    before = stamp.read_bytes()
    stamp.unlink()
    patched.ok("toy")
    assert stamp.read_bytes() == before


def test_no_patch(toy: Toy) -> None:
    toy.ok("toy", "--no-patch")
    toy.assert_pristine()
    assert toy.status()["state"] == "pristine"
    toy.ok("toy", "--no-patch")
    toy.ok("toy")
    result = toy.run("toy", "--no-patch")
    assert result.code == ExitCode.EDITED and "revert" in result.err
    toy.assert_patched()
    toy.ok("update", "toy", "--to", "clean", "--write")
    assert toy.run("toy", "--no-patch").code == ExitCode.EDITED, "also where the pin moved"
    assert (toy.clone / "step.py").read_bytes() == toy.patched("step.py")


def test_upstream_without_patches_says_so(toy: Toy) -> None:
    for patch in (toy.overlay / "patches/toy").iterdir():
        patch.unlink()
    toy.write_lock()
    assert "no patch for it yet" in toy.ok("toy").out
    toy.assert_pristine()
    assert "no patch for it yet" in toy.ok("status", "toy").out
    assert "no patch for it yet" in toy.ok("check", "toy").out
    assert "no patch for it yet" in toy.ok("diff", "toy").out


def test_a_fault_in_one_upstream_does_not_keep_the_others(toy: Toy) -> None:
    second = toy.lock.read_text().split("[[upstream]]")[1].replace('"toy"', '"absent"').split("patches")[0]
    toy.lock.write_text(
        toy.lock.read_text().replace("[[upstream]]", f"[[upstream]]{second}patches = []\n[[upstream]]")
    )
    tree = toy.locked("tree")
    toy.lock.write_text(toy.lock.read_text().replace(toy.locked("patched_tree"), tree, 1))
    result = toy.run()
    assert result.code == ExitCode.UNREACHABLE
    assert "the mirror has no absent" in result.err and "toy: cloned, patched" in result.out


# --- status, check, diff


def test_status_json(toy: Toy) -> None:
    fields = {"name", "url", "commit", "tree", "patched_tree", "path", "state", "detail", "head", "patches"}
    absent = toy.status()
    assert set(absent) == fields | {"modified_files", "missing_files", "stamp"}
    assert (absent["name"], absent["url"], absent["state"]) == ("toy", URL, "absent")
    assert not toy.dest.exists(), "status changes nothing"
    toy.ok("toy")
    status = toy.status()
    assert (status["state"], status["head"]) == ("patched", toy.commits["pin"])
    assert status["patches"] == ["patches/toy/step.patch", "patches/toy/train.patch"]
    assert status["stamp"]["patched_tree"] == status["patched_tree"]


def test_status_and_check_change_nothing(patched: Toy) -> None:
    def state() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in patched.root.rglob("*") if p.is_file()}

    before = state()
    for command in (["status"], ["check"], ["diff", "toy"], ["update", "toy", "--to", "clean"]):
        patched.ok(*command)
    assert state() == before


def test_check_of_an_absent_and_of_an_unpatched_clone(toy: Toy) -> None:
    assert toy.run("check").code == ExitCode.NOT_IN_ORDER
    assert not toy.dest.exists()
    toy.ok("toy", "--no-patch")
    assert toy.run("check").code == ExitCode.NOT_IN_ORDER


def test_check_finds_an_orphan_patch(patched: Toy) -> None:
    patch = (patched.overlay / "patches/toy/step.patch").read_bytes()
    (patched.overlay / "patches/toy/orphan.patch").write_bytes(patch)
    result = patched.run("check", "toy")
    assert result.code == ExitCode.PATCH_CHANGED
    assert "patches/toy/orphan.patch: not listed" in result.err


def test_check_finds_an_upstream_line_in_a_patch(patched: Toy) -> None:
    path = patched.overlay / "patches/toy/step.patch"
    path.write_text(path.read_text().replace("@@ the step", "@@ y = x + 1"))
    patched.write_lock()
    result = patched.run("check", "toy")
    assert result.code == ExitCode.PATCH_CHANGED
    assert "its words are upstream's: 'y = x + 1'" in result.err


def test_diff_shows_reasons_and_context(patched: Toy) -> None:
    out = patched.ok("diff", "toy").out
    assert "# Why: the tests of apply.py need a patch" in out
    assert "+++ b/scripts/train.py" in out and "+pcpo.begin(" in out
    assert " line_10 = 10\n+pcpo.begin(" in out, "upstream's lines stand around the hooks"
    work = patched.root / "independent"
    git(patched.root, "clone", "--quiet", str(patched.upstream), str(work))
    git(work, "checkout", "--quiet", "pin")
    (patched.root / "d.diff").write_text(
        "\n".join(line for line in out.split("\n") if not line.startswith("#"))
    )
    git(work, "apply", "--index", str(patched.root / "d.diff"))
    assert git(work, "write-tree") == patched.locked("patched_tree")


def test_diff_into_a_closed_pipe(patched: Toy) -> None:
    import sys

    command = " ".join([sys.executable, str(ROOT / "apply.py"), *patched.command("diff", "toy"), "| head -1"])
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, env=patched.environment(), check=False
    )
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr


# --- refresh


def test_refresh_folds_edits_and_keeps_header_and_labels(patched: Toy) -> None:
    train = patched.clone / "scripts/train.py"
    train.write_text(train.read_text().replace("line_20 = 20\n", "line_20 = 20\npcpo.log_it(line_20)\n"))
    result = patched.ok("refresh", "toy")
    assert "wrote patches/toy/train.patch: 4 hunks" in result.out and "step.patch" not in result.out
    patch = (patched.overlay / "patches/toy/train.patch").read_text()
    assert patch.startswith(HEADER + "\n\n--- a/scripts/train.py\n")
    labels = [line.split("@@ ")[-1] for line in patch.splitlines() if line.startswith("@@")]
    assert labels == ["the overlay", "name the step", "pcpo hook: log it", "close"]
    assert not any(line.startswith((" ", "-")) for line in patch.split("+++ b/")[1].splitlines()[1:])
    assert load(patched.lock).get("toy").patches[1].sha256 == hashlib.sha256(patch.encode()).hexdigest()
    assert patched.status()["state"] == "patched"
    patched.ok("check", "toy")
    tree = patched.work_tree_name()
    assert tree == patched.locked("patched_tree")
    patched.ok("revert", "toy")
    patched.assert_pristine()
    patched.ok("toy")
    assert patched.work_tree_name() == tree


def test_refresh_of_an_unchanged_clone_changes_nothing(patched: Toy) -> None:
    # the lock of the tests is not in apply.py's own spelling, so once brings it there
    patched.ok("refresh", "toy")
    before = tree_of(patched.overlay)
    patched.ok("refresh", "toy")
    assert tree_of(patched.overlay) == before


def test_refresh_moves_a_hook(patched: Toy) -> None:
    train = patched.clone / "scripts/train.py"
    hook = "pcpo.begin(\n    10,\n)\n"
    train.write_text(train.read_text().replace(hook, "").replace("line_5 = 5\n", f"line_5 = 5\n{hook}"))
    patched.ok("refresh", "toy")
    patch = (patched.overlay / "patches/toy/train.patch").read_text()
    assert "@@ -5,0 +7,3 @@ name the step\n" in patch


def test_refresh_needs_a_reason_for_a_new_patch(patched: Toy) -> None:
    append(patched.clone / "other.py", "pcpo.other(other)  # count the others\n")
    before = tree_of(patched.overlay)
    result = patched.run("refresh", "toy")
    assert result.code == ExitCode.USAGE and "--why" in result.err and "other.py" in result.err
    assert tree_of(patched.overlay) == before
    why = "other.py=the others have to be counted where they are made, and nowhere else is that known"
    patched.ok("refresh", "toy", "--why", why, "--until", "upstream counts them itself")
    patch = (patched.overlay / "patches/toy/other.patch").read_text()
    assert "Why: the others have to be counted where they are made" in patch
    assert "When it may go: upstream counts them itself" in patch
    assert "@@ -1,0 +2 @@ count the others\n" in patch
    assert [Path(p.file).name for p in load(patched.lock).get("toy").patches] == [
        "step.patch",
        "train.patch",
        "other.patch",
    ]
    patched.ok("check", "toy")


@pytest.mark.parametrize(
    ("path", "old", "new", "words"),
    [
        ("scripts/train.py", "line_7 = 7\n", "", "scripts/train.py:7: line_7 = 7"),
        ("scripts/train.py", "line_7 = 7\n", "line_7 = pcpo.seven(7)\n", "scripts/train.py:7: line_7 = 7"),
        ("scripts/train.py", "line_7 = 7\nline_8 = 8\n", "line_8 = 8\nline_7 = 7\n", "changed or removed"),
        ("scripts/train.py", "line_7 = 7\n", "line_7 = 7\nx = 1\n", "does not call or import pcpo: 'x = 1'"),
        ("scripts/run.sh", "#!/bin/sh\n", "#!/bin/sh\nexport PCPO=full # pcpo\n", "never patched"),
        ("data/big.txt", "one", "pcpo one", "never patched"),
    ],
)
def test_refresh_refuses_all_but_insertions(patched: Toy, path: str, old: str, new: str, words: str) -> None:
    file = patched.clone / path
    file.write_text(file.read_text().replace(old, new))
    before = tree_of(patched.root)
    result = patched.run("refresh", "toy", "--why", "why not, as the tests of apply.py say at length")
    assert result.code == ExitCode.NOT_INSERTIONS == 16, result
    assert words in result.err
    assert tree_of(patched.root) == before


def test_refresh_refuses_a_line_joined_to_an_unterminated_one(toy: Toy) -> None:
    (toy.upstream / "step.py").write_text(STEP.rstrip("\n"))
    git(toy.upstream, "commit", "--quiet", "-am", "no newline at the end")
    git(toy.upstream, "tag", "--force", "pin")
    (toy.overlay / "patches/toy/step.patch").unlink()
    toy.write_lock()
    toy.ok("toy")
    append(toy.clone / "step.py", "\npcpo.more()\n")
    assert toy.run("refresh", "toy", "--why", "one two three").code == ExitCode.NOT_INSERTIONS


def test_refresh_when_hooks_are_missing_or_nothing_was_edited(toy: Toy) -> None:
    assert toy.run("refresh", "toy").code == ExitCode.NOT_IN_ORDER, "not cloned"
    toy.ok("toy", "--no-patch")
    result = toy.run("refresh", "toy")
    assert result.code == ExitCode.NOT_IN_ORDER and "no hooks in the clone" in result.err


def test_refresh_when_patch_and_clone_were_both_edited(patched: Toy) -> None:
    path = patched.overlay / "patches/toy/step.patch"
    path.write_text(path.read_text().replace("pcpo.step(y)", "pcpo.mine(y)"))
    append(patched.clone / "step.py", "pcpo.more()\n")
    before = tree_of(patched.root)
    result = patched.run("refresh", "toy")
    assert result.code == ExitCode.PATCH_CHANGED and "--from-patches" in result.err
    assert tree_of(patched.root) == before


def test_refresh_from_patches(patched: Toy) -> None:
    path = patched.overlay / "patches/toy/step.patch"
    path.write_text(path.read_text().replace("pcpo.step(y)", "pcpo.mine(y)"))
    assert patched.run("toy").code == ExitCode.PATCH_CHANGED
    clone = tree_of(patched.clone)
    patched.ok("refresh", "toy", "--from-patches")
    assert tree_of(patched.clone) == clone
    assert "the lock says so already" in patched.ok("refresh", "toy", "--from-patches").out
    patched.ok("toy")
    assert "pcpo.mine(y)" in (patched.clone / "step.py").read_text()
    path.write_text(path.read_text().replace("Why:", "Because:"))
    assert patched.run("refresh", "toy", "--from-patches").code == ExitCode.PATCH_CHANGED


# --- update


def test_update_tries_without_touching_anything(patched: Toy) -> None:
    before = tree_of(patched.root)
    result = patched.ok("update", "toy", "--to", "clean")
    assert "scripts/train.py: clean" in result.out and "step.py: unchanged by upstream" in result.out
    assert f'commit = "{patched.commits["clean"]}"' in result.out
    assert "upstream changed 2 file(s)" in result.out
    assert tree_of(patched.root) == before


def test_update_without_a_clone_works_in_a_scratch_place(toy: Toy) -> None:
    assert "clean" in toy.ok("update", "toy", "--to", toy.commits["clean"]).out
    assert not toy.dest.exists()


def test_update_write_then_apply(patched: Toy) -> None:
    patched.ok("update", "toy", "--to", "clean", "--write")
    assert (patched.clone / "scripts/train.py").read_bytes() == patched.patched("scripts/train.py")
    assert patched.locked("commit") == patched.commits["clean"]
    assert patched.status()["state"] == "outdated"
    patched.ok("toy")
    patched.ok("check", "toy")
    assert "line_20 = 2000\n" in (patched.clone / "scripts/train.py").read_text()
    patch = (patched.overlay / "patches/toy/train.patch").read_text()
    assert [line.split("@@ ")[-1] for line in patch.splitlines() if line.startswith("@@")] == [
        "the overlay",
        "name the step",
        "close",
    ]
    assert patch.startswith(HEADER)


def test_update_shifts_line_numbers(patched: Toy) -> None:
    patched.ok("update", "toy", "--to", "old", "--write")
    patch = (patched.overlay / "patches/toy/train.patch").read_text()
    assert "@@ -11,0 +13,3 @@ name the step\n" in patch
    patched.ok("toy")
    assert (patched.clone / "gone.py").exists()


def test_update_reports_a_conflict_and_writes_nothing(patched: Toy) -> None:
    before = tree_of(patched.root)
    result = patched.run("update", "toy", "--to", "conflict", "--write")
    assert result.code == ExitCode.CONFLICT == 13
    assert "scripts/train.py: conflict" in result.out and "name the step" in result.out
    assert tree_of(patched.root) == before


def test_update_leaves_out_what_conflicts_only_when_told(patched: Toy) -> None:
    assert patched.run("update", "toy", "--to", "conflict", "--leave-out").code == ExitCode.USAGE
    result = patched.ok("update", "toy", "--to", "conflict", "--write", "--leave-out")
    assert "LEFT OUT, to be put in by hand: name the step" in result.out
    patched.ok("toy")
    train = patched.clone / "scripts/train.py"
    assert "pcpo.begin" not in train.read_text() and "pcpo.finish" in train.read_text()
    train.write_text(
        train.read_text().replace("line_10 = 1000\n", "line_10 = 1000\npcpo.begin(\n    10,\n)\n")
    )
    patched.ok("refresh", "toy")
    patched.ok("check", "toy")


def test_update_to_a_commit_without_the_file(patched: Toy) -> None:
    git(patched.upstream, "rm", "--quiet", "step.py")
    git(patched.upstream, "commit", "--quiet", "-m", "drop the step")
    result = patched.run("update", "toy", "--to", git(patched.upstream, "rev-parse", "HEAD"))
    assert result.code == ExitCode.CONFLICT
    assert "step.py: conflict" in result.out and "drop the step" in result.out
    patched.ok("update", "toy", "--to", "main", "--write", "--leave-out", mirror=patched.root / "mirror")
    assert [p.name for p in (patched.overlay / "patches/toy").iterdir()] == ["train.patch"]


def test_update_to_no_commit(patched: Toy) -> None:
    result = patched.run("update", "toy", "--to", "no-such-thing")
    assert result.code == ExitCode.WRONG_TREE and "no-such-thing" in result.err


# --- --into


@pytest.fixture
def mine(toy: Toy) -> Path:
    path = toy.root / "mine"
    git(toy.root, "clone", "--quiet", str(toy.upstream), str(path))
    git(path, "checkout", "--quiet", "-b", "work", "pin")
    return path


def test_into_a_clone_at_the_pin(toy: Toy, mine: Path) -> None:
    (mine / "other.py").write_text("mine = 1\n")
    git(mine, "add", "other.py")
    index = git(mine, "ls-files", "-s")
    toy.ok("toy", "--into", str(mine))
    for path in HOOKS:
        assert (mine / path).read_bytes() == toy.patched(path)
    assert git(mine, "ls-files", "-s") == index, "the index is the user's"
    assert git(mine, "symbolic-ref", "HEAD") == "refs/heads/work"
    stamp = json.loads((mine / ".git/pcpo-overlay.json").read_text())
    assert stamp["commit"] == toy.commits["pin"] and stamp["patched_tree"] == toy.locked("patched_tree")
    assert "nothing to do" in toy.ok("toy", "--into", str(mine)).out
    status = toy.status("--into", str(mine))
    assert (status["state"], status["modified_files"]) == ("patched", ["other.py"])
    toy.ok("check", "toy", "--into", str(mine))
    assert "+pcpo.finish()" in toy.ok("diff", "toy", "--into", str(mine)).out
    toy.ok("revert", "toy", "--into", str(mine))
    assert (mine / "scripts/train.py").read_text() == TRAIN and (mine / "step.py").read_text() == STEP
    assert (mine / "other.py").read_text() == "mine = 1\n"
    assert toy.status("--into", str(mine))["state"] == "pristine"
    assert "nothing to revert" in toy.ok("revert", "toy", "--into", str(mine)).out
    assert not toy.dest.exists()


def test_into_another_commit_with_edits_merges_three_way(toy: Toy, mine: Path) -> None:
    git(mine, "checkout", "--quiet", "--detach", "clean")
    text = (mine / "scripts/train.py").read_text().replace("line_15 = 15", "line_15 = 'mine'")
    (mine / "scripts/train.py").write_text(text)
    result = toy.ok("toy", "--into", str(mine))
    assert "three-way merge in scripts/train.py" in result.out
    assert (mine / "scripts/train.py").read_bytes() == toy.patched("scripts/train.py", text)
    # edits made after patching survive the revert too
    append(mine / "scripts/train.py", "later = 1\n")
    (mine / "scripts/train.py").write_text(
        (mine / "scripts/train.py").read_text().replace("line_3 = 3", "line_3 = 33")
    )
    assert toy.status("--into", str(mine))["state"] == "modified"
    assert toy.run("check", "toy", "--into", str(mine)).code == ExitCode.EDITED


def test_revert_into_keeps_edits_made_since(toy: Toy, mine: Path) -> None:
    toy.ok("toy", "--into", str(mine))
    train = mine / "scripts/train.py"
    train.write_text(train.read_text().replace("line_20 = 20", "line_20 = 'mine'"))
    toy.ok("revert", "toy", "--into", str(mine))
    assert train.read_text() == TRAIN.replace("line_20 = 20", "line_20 = 'mine'")


def test_into_where_hooks_conflict_writes_nothing(toy: Toy, mine: Path) -> None:
    git(mine, "checkout", "--quiet", "--detach", "conflict")
    before = tree_of(mine)
    result = toy.run("toy", "--into", str(mine))
    assert result.code == ExitCode.CONFLICT
    assert "scripts/train.py" in result.err
    assert tree_of(mine) == before, "not even the file that would have been clean"


def test_every_file_in_conflict_is_named_at_once(toy: Toy, mine: Path) -> None:
    """A fork is mended in one go, not file by file."""
    git(mine, "checkout", "--quiet", "--detach", "conflict")
    (mine / "step.py").unlink()
    before = tree_of(mine)
    result = toy.run("toy", "--into", str(mine))
    assert result.code == ExitCode.CONFLICT
    assert "scripts/train.py differs from the pin" in result.err and "step.py is not in" in result.err
    assert tree_of(mine) == before


def test_into_without_the_pin_in_its_history(toy: Toy, mine: Path) -> None:
    """A tarball turned into a repository: the pin comes from the mirror, to a scratch place."""
    import shutil

    shutil.rmtree(mine / ".git")
    git(mine, "init", "--quiet")
    git(mine, "add", "--all")
    git(mine, "commit", "--quiet", "-m", "imported")
    toy.ok("toy", "--into", str(mine))
    assert (mine / "step.py").read_bytes() == toy.patched("step.py")
    toy.ok("revert", "toy", "--into", str(mine))
    assert git(mine, "status", "--porcelain") == ""


def test_into_a_clone_with_windows_line_endings(toy: Toy, mine: Path) -> None:
    (mine / "step.py").write_bytes(STEP.replace("\n", "\r\n").encode())
    toy.ok("toy", "--into", str(mine))
    assert (mine / "step.py").read_bytes() == toy.patched("step.py").replace(b"\n", b"\r\n")
    toy.ok("revert", "toy", "--into", str(mine))
    assert (mine / "step.py").read_bytes() == STEP.replace("\n", "\r\n").encode()


def test_into_a_linked_work_tree(toy: Toy, mine: Path) -> None:
    git(mine, "worktree", "add", "--quiet", "--detach", str(toy.root / "linked"), "pin")
    toy.ok("toy", "--into", str(toy.root / "linked"))
    assert (toy.root / "linked/step.py").read_bytes() == toy.patched("step.py")
    assert (mine / "step.py").read_text() == STEP
    assert (mine / ".git/worktrees/linked/pcpo-overlay.json").exists()
    toy.ok("revert", "toy", "--into", str(toy.root / "linked"))
    assert (toy.root / "linked/step.py").read_text() == STEP


def test_into_follows_changed_patches(toy: Toy, mine: Path) -> None:
    text = TRAIN.replace("line_20 = 20", "line_20 = 'mine'")
    (mine / "scripts/train.py").write_text(text)
    toy.ok("toy", "--into", str(mine))
    path = toy.overlay / "patches/toy/step.patch"
    path.write_text(path.read_text().replace("pcpo.step(y)", "pcpo.newer(y)"))
    toy.write_lock()
    assert toy.status("--into", str(mine))["state"] == "outdated"
    toy.ok("toy", "--into", str(mine))
    assert (
        "pcpo.newer(y)" in (mine / "step.py").read_text()
        and "pcpo.step(y)" not in (mine / "step.py").read_text()
    )
    path.unlink()
    toy.write_lock()
    toy.ok("toy", "--into", str(mine))
    assert (mine / "step.py").read_text() == STEP
    assert (mine / "scripts/train.py").read_bytes() == toy.patched("scripts/train.py", text)
    toy.ok("revert", "toy", "--into", str(mine))
    assert (mine / "scripts/train.py").read_text() == text


def test_into_wrong_places(toy: Toy, mine: Path) -> None:
    assert toy.run("toy", "--into", str(toy.root)).code == ExitCode.WRONG_COMMIT
    assert toy.run("toy", "--into", str(mine), "--no-patch").code == ExitCode.USAGE
    toy.ok("toy")
    assert "nothing to do" in toy.ok("toy", "--into", str(toy.clone)).out, "one engine, one record"
    toy.assert_patched()
    (mine / "step.py").unlink()
    before = tree_of(mine)
    assert toy.run("toy", "--into", str(mine)).code == ExitCode.CONFLICT
    assert tree_of(mine) == before
