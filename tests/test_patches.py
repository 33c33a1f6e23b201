"""The lint of this repository's own patches: reasons given, only insertions, only hooks, listed once, nothing of
upstream's in them. The last part needs upstream's files and is marked so."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from pcpo_overlay.vendoring import lint
from pcpo_overlay.vendoring.lockfile import load, render, sha256
from pcpo_overlay.vendoring.patchfile import parse
from pcpo_overlay.vendoring.patchfile import render as render_patch

ROOT = Path(__file__).resolve().parents[1]
LOCK = load(ROOT / "vendor.lock")
PATCHES = sorted((ROOT / "patches").rglob("*.patch"))
NAMES = [upstream.name for upstream in LOCK.upstreams]


def test_there_are_patches_to_lint() -> None:
    assert PATCHES
    assert {path.parent.name for path in PATCHES} <= set(NAMES)


def test_every_file_under_patches_is_a_patch() -> None:
    strays = [p for p in (ROOT / "patches").rglob("*") if p.is_file() and p.suffix != ".patch"]
    assert [p.name for p in strays] in ([], [".gitattributes"])


@pytest.mark.parametrize("path", PATCHES, ids=lambda p: p.relative_to(ROOT / "patches").as_posix())
def test_patch(path: Path) -> None:
    data = path.read_bytes()
    patch = parse(data, path.name)  # refuses context, removed lines, renames, new files, paths that escape
    assert lint.problems(patch) == []
    assert render_patch(patch) == data, "not in the canonical spelling; run apply.py refresh"
    # once more without the parser: below '+++', every line is a hunk header that removes nothing, or an insertion
    body = data.decode().split("\n+++ b/", 1)[1].split("\n")[1:]
    assert body.pop() == ""
    for line in body:
        assert line.startswith("+") or re.fullmatch(r"@@ -\d+,0 \+\d+(,\d+)? @@ \S.*", line), line


@pytest.mark.parametrize("path", PATCHES, ids=lambda p: p.relative_to(ROOT / "patches").as_posix())
def test_patch_is_in_the_lock_once_with_its_sha256(path: Path) -> None:
    file = path.relative_to(ROOT).as_posix()
    entries = [(u.name, e) for u in LOCK.upstreams for e in u.patches if e.file == file]
    assert len(entries) == 1
    name, entry = entries[0]
    assert path.parent.name == name
    assert entry.sha256 == sha256(path.read_bytes())


def test_the_lock_lists_nothing_else() -> None:
    listed = Counter(entry.file for upstream in LOCK.upstreams for entry in upstream.patches)
    assert listed == Counter(path.relative_to(ROOT).as_posix() for path in PATCHES)
    assert lint.orphans(LOCK) == [] and lint.misplaced(LOCK) == []


def test_one_patch_per_upstream_file() -> None:
    touched = Counter((path.parent.name, parse(path.read_bytes(), path.name).path) for path in PATCHES)
    assert set(touched.values()) == {1}


def test_the_lock_pins_the_three_upstreams() -> None:
    assert {u.name: (u.url, u.commit) for u in LOCK.upstreams} == {
        "ddpo-pytorch": (
            "https://github.com/kvablack/ddpo-pytorch",
            "1958463f020112c9a7bc85768d296daacc2e1b4b",
        ),
        "DanceGRPO": ("https://github.com/XueZeyue/DanceGRPO", "15cc71d53cc2e6e18a68ee607d5fb6ba9a99e344"),
        "flow_grpo": ("https://github.com/yifan123/flow_grpo", "879042cf5707f8b90daa98d147d7deac2317c5da"),
    }
    assert LOCK.path.read_text() == render(LOCK)
    for upstream in LOCK.upstreams:
        assert (upstream.tree == upstream.patched_tree) == (not upstream.patches)


@pytest.mark.upstream("ddpo-pytorch", "DanceGRPO", "flow_grpo")
@pytest.mark.parametrize("name", NAMES)
def test_no_line_of_upstream_in_a_patch(name: str, upstream_clone: object) -> None:
    assert callable(upstream_clone)
    clone: Path = upstream_clone(name, False)
    for entry in LOCK.get(name).patches:
        patch = parse((ROOT / entry.file).read_bytes(), entry.file)
        base = (clone / patch.path).read_bytes()
        assert lint.upstream_lines(patch, base) == []
        # and not of any other file of that upstream either
        listing = subprocess.run(
            ["git", "-C", str(clone), "ls-files", "*.py"], capture_output=True, text=True, check=True
        )
        known = {
            line.strip()
            for file in listing.stdout.split()
            for line in (clone / file).read_text(encoding="utf-8", errors="replace").split("\n")
        }
        inserted = {line.strip() for hook in patch.insertions for line in hook.lines} - {""}
        labels = {hook.label.strip() for hook in patch.insertions}
        assert not (inserted | labels) & known
        # every upstream line survives, in order
        patched: Path = upstream_clone(name, True)
        left = iter((patched / patch.path).read_bytes().split(b"\n"))
        assert all(line in left for line in base.split(b"\n"))
