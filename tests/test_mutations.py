"""The list of faults does not rot, and the command that puts them in tells a killed one from a survivor."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutations.__main__ import run
from mutations.listed import EQUIVALENTS, FAULTS, MUTATIONS, NO_SURVIVOR, TESTS, Mutation
from test_walls import IN_A_TRAINER

import pcpo_overlay

PACKAGE = Path(pcpo_overlay.__file__).resolve().parent
HERE = Path(__file__).resolve().parent
#: What carries calls, files and words only: their faults show in the tests against upstream's code.
NOT_MUTATED = {"hooks", "files", "messages", "record", "record.provenance"}


@pytest.mark.parametrize("file", sorted(FAULTS))
def test_every_fault_still_applies(file: str) -> None:
    source = (PACKAGE / file).read_text(encoding="utf-8")
    seen = {source}
    for mutation in (*MUTATIONS, *EQUIVALENTS):
        if mutation.file == file:
            faulty = mutation.applied(source)  # raises where the text is not there exactly once
            ast.parse(faulty)
            assert faulty not in seen, f"{mutation.why}: the same fault twice, or none"
            seen.add(faulty)


def test_everything_in_a_trainer_has_faults_and_tests() -> None:
    modules = {file.removesuffix(".py").replace("/", ".") for file in FAULTS}
    assert modules == {name for name in IN_A_TRAINER if name.split(".")[0] != "compat"} - NOT_MUTATED
    assert TESTS.keys() == FAULTS.keys() >= set(NO_SURVIVOR)
    assert len(MUTATIONS) >= 120
    for names in TESTS.values():
        for name in names:
            file, _, test = name.partition("::")
            assert not test or f"def {test}(" in (HERE / file).read_text(encoding="utf-8")
            assert (HERE / file).is_file()


def test_a_text_that_is_gone_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 times, not once"):
        Mutation("tape.py", "what is not there", "", "").applied("a = 1")
    with pytest.raises(ValueError, match="2 times, not once"):
        Mutation("tape.py", "a", "b", "").applied("a = a")


def test_a_fault_is_killed_and_a_change_of_nothing_survives() -> None:
    fault = next(m for m in MUTATIONS if m.file == "schedules.py")
    nothing = Mutation("schedules.py", '"""Timestep and noise', '"""Noise and timestep', "a docstring")
    before = (PACKAGE / "schedules.py").read_bytes()
    (_, killer), (_, none) = run([fault, nothing], processes=1, near_only=True)
    assert killer is not None and killer.startswith("tests/test_schedules.py::")
    assert none is None
    assert (PACKAGE / "schedules.py").read_bytes() == before
