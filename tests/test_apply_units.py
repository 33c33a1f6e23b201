"""The small parts below apply.py: the patch dialect, the lint, merges, labels, the lock's spelling."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcpo_overlay.vendoring import lint, lockfile
from pcpo_overlay.vendoring.difference import insertions
from pcpo_overlay.vendoring.errors import ExitCode, Fault
from pcpo_overlay.vendoring.missing import needed_by
from pcpo_overlay.vendoring.patchfile import (
    Insertion,
    Patch,
    derive_label,
    file_name,
    insert,
    keep_labels,
    parse,
    render,
    strip,
)

HEADER = (
    "A file of upstream's.\n\nWhy: these words stand here so that the header is long enough for the lint to accept it."
    "\n\nWhen it may go: with the tests."
)


def patch_of(*hooks: Insertion, header: str = HEADER, path: str = "a/b.py") -> Patch:
    return Patch(header, path, hooks)


words = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=8)


@st.composite
def patches_and_bases(draw: st.DrawFn) -> tuple[Patch, bytes]:
    base = draw(st.lists(words, min_size=1, max_size=12))
    places = sorted(draw(st.sets(st.integers(0, len(base)), min_size=1, max_size=4)))
    hooks = [
        Insertion(place, tuple(f"pcpo.hook_{n}_{m}()" for m in range(draw(st.integers(1, 3)))), f"words {n}")
        for n, place in enumerate(places)
    ]
    return patch_of(*hooks), ("\n".join(base) + "\n").encode()


@settings(max_examples=200, deadline=None)
@given(patches_and_bases())
def test_a_patch_survives_its_file_and_inserts_and_strips_exactly(case: tuple[Patch, bytes]) -> None:
    patch, base = case
    assert parse(render(patch), "p") == patch
    patched = insert(patch, base)
    assert strip(patch, patched) == base
    left = iter(patched.split(b"\n"))
    assert all(line in left for line in base.split(b"\n"))
    assert len(patched.split(b"\n")) == len(base.split(b"\n")) + sum(len(h.lines) for h in patch.insertions)


@settings(max_examples=25, deadline=None)
@given(patches_and_bases())
def test_the_difference_of_two_texts_is_the_patch_again(case: tuple[Patch, bytes]) -> None:
    patch, base = case
    found = insertions(base, insert(patch, base), "file")
    assert keep_labels(patch.insertions, found) == patch.insertions


def test_a_text_with_many_repeated_lines_still_reads_as_insertions() -> None:
    """A longest match shows removed lines here; taking each line at its first chance does not."""
    random = Random(42)
    random.choice([300, 1000, 3000])
    names = [f"l{i}" for i in range(random.choice([2, 5, 30, 300]))]
    base = [random.choice(names) for _ in range(3000)]
    new: list[str] = []
    for line in base:
        while random.random() < random.choice([0.1, 0.5]):
            new.append(random.choice(names) if random.random() < 0.5 else f"pcpo{random.randrange(99)}")
        new.append(line)
    before, after = ("\n".join(lines).encode() + b"\n" for lines in (base, new))
    assert insert(patch_of(*insertions(before, after, "file")), before) == after


GOOD = "Why: x\n\n--- a/f.py\n+++ b/f.py\n@@ -1,0 +2 @@ words\n+pcpo.x()\n"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("-1,0 +2", "-1 +1,2", ExitCode.PATCH_CHANGED),
        ("+pcpo.x()\n", "+pcpo.x()\n line\n", ExitCode.PATCH_CHANGED),
        ("+pcpo.x()\n", "-line\n+pcpo.x()\n", ExitCode.PATCH_CHANGED),
        ("+pcpo.x()\n", "", ExitCode.PATCH_CHANGED),
        ("+2 @@", "+3 @@", ExitCode.PATCH_CHANGED),
        ("+2 @@", "+2,2 @@", ExitCode.PATCH_CHANGED),
        ("+2 @@", "+2,0 @@", ExitCode.PATCH_CHANGED),
        ("a/f.py", "/dev/null", ExitCode.PATCH_CHANGED),
        ("b/f.py", "b/g.py", ExitCode.PATCH_CHANGED),
        ("b/f.py", "b/../f.py", ExitCode.UNSAFE_PATH),
        ("Why: x", "diff --git a/f.py b/f.py", ExitCode.PATCH_CHANGED),
        ("Why: x", "rename to g.py", ExitCode.PATCH_CHANGED),
        ("+pcpo.x()\n", "+pcpo.x()\n\\ No newline at end of file\n", ExitCode.PATCH_CHANGED),
        (
            "+pcpo.x()\n",
            "+pcpo.x()\n--- a/g.py\n+++ b/g.py\n@@ -1,0 +2 @@ w\n+pcpo.y()\n",
            ExitCode.PATCH_CHANGED,
        ),
        ("@@ -1,0 +2 @@ words\n+pcpo.x()\n", "", ExitCode.PATCH_CHANGED),
    ],
)
def test_what_is_outside_the_dialect_is_refused(old: str, new: str, code: ExitCode) -> None:
    parse(GOOD.encode(), "good")
    with pytest.raises(Fault) as caught:
        parse(GOOD.replace(old, new).encode(), "bad.patch")
    assert caught.value.code == code
    assert "bad.patch" in caught.value.message


def test_insert_past_the_end_or_after_an_unterminated_line() -> None:
    patch = patch_of(Insertion(2, ("pcpo.x()",), "w"))
    assert insert(patch, b"1\n2\n") == b"1\n2\npcpo.x()\n"
    for base in (b"1\n2", b"1\n"):
        with pytest.raises(Fault):
            insert(patch, base)


def test_carriage_returns_and_odd_bytes_pass_through() -> None:
    base = b"one\r\n\xff\xfe\ntwo\r\n"
    patch = patch_of(Insertion(1, ("pcpo.x()\r",), "w"))
    assert insert(patch, base) == b"one\r\npcpo.x()\r\n\xff\xfe\ntwo\r\n"


@pytest.mark.parametrize(
    ("lines", "label"),
    [
        (["from pcpo_overlay import hooks as pcpo"], "pcpo hook: import of the overlay"),
        (["    x = pcpo.begin_step(x)"], "pcpo hook: begin step"),
        (["    x = pcpo.begin_step(x)  # pcpo: name the step"], "name the step"),
        (["# the flag", "pcpo.flag()"], "the flag"),
        (["pcpo_x"], "pcpo hook"),
    ],
)
def test_labels_come_from_the_inserted_lines(lines: list[str], label: str) -> None:
    assert derive_label(lines) == label


@pytest.mark.parametrize(
    ("lines", "good"),
    [
        (("pcpo.x()",), True),
        (("import pcpo_overlay",), True),
        (("pcpo.x(", "    a,", ")"), True),
        (("# a comment", "", "pcpo.x()"), True),
        (("x = 1",), False),
        (("pcpo.x()", "x = 1"), False),
        (("x = 1  # pcpo",), False),
        (("pcpo.x(')')", "x = 1"), False),
        (("pcpo.x('(')", "x = 1"), False),
        (('print("pcpo")',), False),
    ],
)
def test_only_calls_into_the_overlay_may_be_inserted(lines: tuple[str, ...], good: bool) -> None:
    assert (lint.inserted_code(Insertion(1, lines, "w")) == []) == good


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (
            patch_of(
                Insertion(1, ("pcpo.x()",), "w"), header="Why: short\n\nWhen it may go: soon enough now"
            ),
            "shorter",
        ),
        (patch_of(Insertion(1, ("pcpo.x()",), "w"), header=HEADER.replace("Why:", "")), "no 'Why:'"),
        (
            patch_of(Insertion(1, ("pcpo.x()",), "w"), header=HEADER.replace("When it", "It")),
            "no 'When it may go:'",
        ),
        (patch_of(Insertion(1, ("pcpo.x()",), "")), "no words of our own"),
        (patch_of(Insertion(1, ("pcpo.x()",), "def main(_):")), "look like code"),
        (patch_of(Insertion(1, ("pcpo.x()",), "class Trainer")), "look like code"),
        (patch_of(Insertion(1, ("pcpo.x()",), "w"), path="scripts/run.sh"), "not Python code"),
        (patch_of(Insertion(1, ("pcpo.x()",), "w"), path="config/base.py"), "config of upstream"),
        (patch_of(Insertion(1, ("y = x",), "w")), "does not call or import pcpo"),
    ],
)
def test_the_lint_finds(patch: Patch, words: str) -> None:
    assert any(words in problem for problem in lint.problems(patch))


def test_the_lint_accepts_a_good_patch() -> None:
    assert lint.problems(patch_of(Insertion(1, ("pcpo.x()",), "define the flag"))) == []


def test_the_lint_finds_upstream_lines() -> None:
    base = b"def f(x):\n    return x\n"
    same = patch_of(Insertion(1, ("        return x",), "w"))
    label = patch_of(Insertion(1, ("pcpo.x()",), "def f"))
    assert "a line that upstream has" in lint.upstream_lines(same, base)[0]
    assert "its words are upstream's" in lint.upstream_lines(label, base)[0]
    assert lint.upstream_lines(patch_of(Insertion(1, ("pcpo.x()", ""), "w")), base) == []


def test_patch_file_names_do_not_collide() -> None:
    assert file_name("a/b/the_step.py") == "the-step.patch"
    assert file_name("a/b/the_step.py", {"the-step.patch"}) == "b-the-step.patch"
    assert file_name("a/b/the_step.py", {"the-step.patch", "b-the-step.patch"}) == "a-b-the-step.patch"


def test_the_lock_survives_its_file(tmp_path: Path) -> None:
    entry = lockfile.PatchEntry("patches/x/a.patch", "a" * 64)
    one = lockfile.Upstream("x", "https://e.invalid/x", "1" * 40, "2" * 40, "3" * 40, (entry,))
    two = lockfile.Upstream("y", "https://e.invalid/y", "1" * 40, "2" * 40, "2" * 40, ())
    lock = lockfile.Lock(tmp_path / "vendor.lock", (one, two))
    lock.path.write_text(lockfile.render(lock))
    assert lockfile.load(lock.path) == lock


def test_who_needs_a_missing_file() -> None:
    """The three ways upstreams name data: in a shell script, in the script that one runs, in a named config."""
    texts = {
        "run_a.sh": "python prep.py --prompts ./data/ocr/train.txt\n",
        "run_b.sh": "python train.py --lr 1\n",
        "run_c.sh": "python other.py --config config/base.py:ocr_small\n",
        "run_d.sh": "python other.py --config config/base.py:ocr\n",
        "run_e.sh": "python mytrain.py; cat data/ocr/train.txt.bak\n",
        "train.py": 'def main():\n    open("data/ocr/train.txt")\n',
        "config/base.py": 'def ocr():\n    d = "data/geneval"\n\ndef ocr_small():\n    d = "data/ocr/train.txt"\n',
    }
    assert needed_by(texts, "data/ocr/train.txt") == [
        "config/base.py (launched by run_c.sh)",
        "run_a.sh",
        "train.py (launched by run_b.sh)",
    ]
    assert needed_by(texts, "data/geneval/all.jsonl") == ["config/base.py (launched by run_d.sh)"]
    assert needed_by(texts, "data/nothing.txt") == []
