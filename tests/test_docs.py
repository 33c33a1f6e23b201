"""What the documents promise: every link leads somewhere, and every command and option is what the parsers take."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from documents import DOCUMENTS, ROOT, Command, anchors, code, commands, headings, links, name

from pcpo_overlay import __main__ as pcpo
from pcpo_overlay import config
from pcpo_overlay.tools.ab.arms import arms_of
from pcpo_overlay.tools.ab.slurm import resources_of
from pcpo_overlay.tools.ab.upstreams import CHOICES
from pcpo_overlay.trainers import TRAINERS
from pcpo_overlay.vendoring import cli as apply
from pcpo_overlay.vendoring.patchfile import parse

README = ROOT / "README.md"
#: Documents whose commands are of today. What a study says of itself, and the changelog, is of the day it was written.
OF_TODAY = [p for p in DOCUMENTS if p.name != "CHANGELOG.md" and ROOT / "benchmarks" not in p.parents]
#: What stands in a document for a value of the reader's.
PLACEHOLDERS = {
    "NAME": "ddpo-pytorch",
    "STUDY": "ddpo-digit",
    "SHA": "a" * 40,
    "N": "7",
    "P": "0.5",
    "W": "5",
    "S,...": "0,1",
    "A,B,...": "0.5,0.6",
    "MODE": "full",
}
#: Options of programs that are not ours, and those of upstream's training scripts.
FOREIGN = {
    "--master_addr", "--master_port", "--nnodes", "--node_rank", "--wheel", "--wheel-dir",
    "--machine_rank", "--num_machines", "--gradient_checkpointing",
    "--checkpointing_steps", "--config", "--cpu", "--init_same_noise", "--learning_rate", "--no-deps",
    "--nproc_per_node", "--num_processes", "--pcpo", "--train_batch_size",
}  # fmt: skip


# -------------------------------------------------------------------- links


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_link_leads_somewhere(path: Path) -> None:
    broken = []
    for link in links(path):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        there = target.is_relative_to(ROOT) and target.exists()
        if not there or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            broken.append(link)
    assert broken == []


def test_every_document_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [README]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        local = [
            (path.parent / link.partition("#")[0]).resolve() for link in links(path) if "://" not in link
        ]
        waiting += [p for p in local if p.suffix == ".md" and p not in reached]
    assert [name(p) for p in DOCUMENTS if p not in reached] == []


# ------------------------------------------------------------ command lines


def _plain(word: str) -> str:
    """A word with the reader's values in the place of placeholders."""
    if word in PLACEHOLDERS:
        return PLACEHOLDERS[word]
    return re.sub(r"=([A-Z])$", lambda m: "=" + PLACEHOLDERS.get(m[1], m[1]), word)


def _parse_quietly(parse: Any, words: list[str]) -> str | None:
    """None where a parser takes the words, else what it says."""
    try:
        parse(words)
    except SystemExit as left:
        return None if left.code == 0 else f"exit code {left.code}"
    except (ValueError, KeyError) as error:
        return str(error)
    return None


def _parse_pcpo(words: list[str]) -> None:
    args = pcpo.build_parser().parse_args(words)
    if args.command == "ab":
        trainer = args.upstream if args.upstream != "dancegrpo" else f"dancegrpo_{args.trainer}"
        arms_of(args.modes, args.mode, trainer)
        if args.slurm is not None:
            resources_of(args.slurm)
        file = (args.config or "").partition(":")[0]
        if file.startswith("pcpo_overlay") and not (ROOT / file).is_file():
            raise ValueError(f"no {file}")
    if args.command == "weights":
        config.parse(args.mode)


def _parse_benchmark(words: list[str]) -> None:
    module = importlib.import_module(f"benchmarks.{words[0]}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"benchmarks.{words[0]}.__main__")
    if hasattr(module, "_parse"):
        module._parse(words[1:])
    elif words[1:]:
        raise ValueError(f"benchmarks.{words[0]} takes no arguments")


def _problem(command: Command) -> str | None:
    """What is wrong with a command of ours; None for nothing, or a command that is not ours."""
    words = [_plain(word) for word in command.words if word not in ("...", "RUN...")]
    modes = [value for variable, value in command.variables.items() if variable == config.VARIABLE]
    modes += [word.removeprefix("--pcpo=") for word in words if word.startswith("--pcpo=")]
    for mode in modes:
        if said := _parse_mode(mode):
            return said
    if words[:2] in (["python", "apply.py"], ["pcpo", "apply"]):
        return _parse_quietly(lambda w: apply._parser().parse_args(apply._with_command(w)), words[2:])
    if words[:1] == ["pcpo"]:
        return _parse_quietly(_parse_pcpo, words[1:])
    if words[:2] == ["python", "-m"] and len(words) > 2:
        return _problem_of_module(words[2], words[3:])
    if words[:2] == ["pip", "install"]:
        wanted = [extra for w in words for m in re.findall(r"\[([\w,-]+)\]", w) for extra in m.split(",")]
        missing = [extra for extra in wanted if not re.search(rf"^{extra} = \[", _PYPROJECT, re.MULTILINE)]
        return f"no extra {missing[0]}" if missing else None
    return None


def _problem_of_module(module: str, words: list[str]) -> str | None:
    if module == "pcpo_overlay":
        return _parse_quietly(_parse_pcpo, words)
    if module.startswith("benchmarks."):
        return _parse_quietly(_parse_benchmark, [module.removeprefix("benchmarks."), *words])
    if module == "pytest":
        missing = [w for w in words if w.endswith(".py") and not (ROOT / w).is_file()]
        return f"no {missing[0]}" if missing else None
    if module == "tests.mutations":
        missing = [w for w in words if not w.startswith("-") and w != "FILE"]
        return f"no {missing[0]}" if missing else None
    return None if module in ("venv", "pcpo_overlay.compat") else f"unknown module {module}"


_PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _parse_mode(text: str) -> str | None:
    try:
        config.parse("full" if text.startswith("MODE") else text.strip("\"'"))
    except config.PCPOError as error:
        return str(error)
    return None


def _written(path: Path) -> list[Command]:
    """Every command of a document: of its shell blocks, and of code spans that are one."""
    found = []
    for piece in code(path):
        if piece.language in ("bash", "sh"):
            found += commands(piece.text)
        elif piece.language is None and re.match(
            r"(PCPO=\S+ |pcpo |python (apply\.py|-m) ?|pip install )", piece.text
        ):
            text = re.sub(r"\[(-?[^\[\]=]*)\]", r"\1", piece.text) if "apply.py" in piece.text else piece.text
            found += [c for c in commands(text) if not _only_named(c.words)]
    return found


def _only_named(words: list[str]) -> bool:
    """Whether a code span names a command and does not say how it is typed: ``pcpo evaluate``."""
    return words[:1] == ["pcpo"] and len(words) == 2 and words[1] in pcpo.COMMANDS


@pytest.mark.parametrize("path", OF_TODAY, ids=name)
def test_every_command_is_what_the_parsers_take(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {shlex.join(c.words): problem for c in _written(path) if (problem := _problem(c))}
    assert wrong == {}, capsys.readouterr().err


@pytest.mark.upstream("ddpo-pytorch", "DanceGRPO", "flow_grpo")
def test_every_comparison_is_one_that_ab_would_run(
    upstream_clone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beyond its parser: configs, overrides, launch lines and shares of GPUs, by a dry run of each."""
    (vendor,) = {upstream_clone(name, True).parent for name in ("ddpo-pytorch", "DanceGRPO", "flow_grpo")}
    monkeypatch.chdir(ROOT)
    wrong, tried = {}, 0
    for words in (c.words for path in OF_TODAY for c in _written(path) if c.words[:2] == ["pcpo", "ab"]):
        if len(words) < 3 or words[2] not in CHOICES:
            continue  # a piece of one, in running text
        asked = ["--dry-run", "--vendor", str(vendor), "--out", str(tmp_path / str(tried))]
        tried += 1
        code, said = pcpo.main([*words[1:3], *asked, *map(_plain, words[3:])]), capsys.readouterr().err
        if code and not said.endswith("download the model to there\n"):  # which is the reader's to have
            wrong[shlex.join(words)] = f"exit code {code}: {said}"
    assert wrong == {}, "\n".join(wrong.values())
    assert tried > 10


def test_the_reader_is_shown_every_command() -> None:
    shown = {
        c.words[1] for p in OF_TODAY for c in _written(p) if c.words[:1] == ["pcpo"] and len(c.words) > 1
    }
    assert set(pcpo.COMMANDS) <= shown


# ----------------------------------------------------------------- options


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """Every option of a parser and of its subcommands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                found |= _options(sub)
    return found


def _known_options() -> set[str]:
    known = _options(pcpo.build_parser()) | _options(apply._parser()) | FOREIGN
    for file in (ROOT / "benchmarks").rglob("*.py"):
        known |= set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', file.read_text(encoding="utf-8")))
    return known


@pytest.mark.parametrize("path", OF_TODAY, ids=name)
def test_every_option_named_is_one(path: Path) -> None:
    known = _known_options()
    spans = [piece.text for piece in code(path) if piece.language is None]
    named = {re.split(r"[ =]", span)[0] for span in spans if re.match(r"--[a-z]", span)}
    assert {option for option in named if option not in known and not option.startswith("--config.")} == set()


#: What an option cannot stand without.
_GOES_WITH = {"power": ",weights=power"}


@pytest.mark.parametrize("path", OF_TODAY, ids=name)
def test_every_mode_and_option_of_pcpo_is_one(path: Path) -> None:
    wrong = {}
    for piece in code(path):
        if piece.language is not None:
            continue
        if re.fullmatch(rf"({'|'.join(config.MODES)})(,\w+=\w+)*", piece.text) and (
            said := _parse_mode(piece.text)
        ):
            wrong[piece.text] = said
        option, equals, values = piece.text.partition("=")
        if not equals or option not in config._ACTS_IN:
            continue
        for value in map(_plain, values.split("|")):
            refusals = [
                _parse_mode(f"{mode},{option}={value}{_GOES_WITH.get(option, '')}")
                for mode in config._ACTS_IN[option]
            ]
            if all(refusals):
                wrong[piece.text] = str(refusals[-1])
    assert wrong == {}


@pytest.mark.parametrize("path", OF_TODAY, ids=name)
def test_every_path_and_variable_of_ours_is_there(path: Path) -> None:
    sources = "\n".join(
        file.read_text(encoding="utf-8")
        for folder in ("pcpo_overlay", "tests", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
        if file.name != "test_docs.py"
    )
    missing = []
    for text in (piece.text for piece in code(path) if piece.language is None):
        if re.fullmatch(r"(pcpo_overlay|benchmarks|tests|docs|patches|\.ci|\.github)/[\w./*-]*", text):
            missing += [] if list(ROOT.glob(text.rstrip("/"))) else [text]
        missing += [v for v in re.findall(r"\bPCPO_[A-Z_]+\b", text) if v not in sources]
    assert missing == []


# --------------------------------------------------------------- the README


def test_the_readme_is_short_and_has_its_parts_in_order() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200
    assert headings(README) == [
        "PCPO overlay",
        "What is inserted into your script",
        "Which command for which trainer",
        "I have GPUs",
        "I have a laptop",
        "Modes and options",
        "Findings",
        "Known limits",
        "What is where, and what to audit",
        "Revert, update, develop",
    ]


def test_what_the_readme_says_is_inserted_is_inserted() -> None:
    (shown,) = (piece.text.splitlines() for piece in code(README) if piece.language == "diff")
    inserted = {
        line.strip()
        for file in (ROOT / "patches" / "ddpo-pytorch").glob("*.patch")
        for hunk in parse(file.read_bytes(), file.name).insertions
        for line in hunk.lines
    }
    lines = [line for line in shown if line]
    assert len(lines) == 10
    assert all(line.startswith("+") and line[1:].strip() in inserted for line in lines)


def _rows(path: Path, columns: int) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if len(row) == columns]


def test_the_readme_has_a_command_for_every_trainer() -> None:
    rows = [row for row in _rows(README, 3) if row[0].strip("`") in TRAINERS]
    assert {row[0].strip("`"): row[1].strip("`") for row in rows} == {
        trainer.name: trainer.script for trainer in TRAINERS.values()
    }


@pytest.mark.upstream("ddpo-pytorch", "DanceGRPO", "flow_grpo")
def test_the_launch_scripts_of_the_readme_start_those_trainers(upstream_clone: Any) -> None:
    for row in _rows(README, 3):
        trainer = TRAINERS.get(row[0].strip("`"))
        if trainer is None:
            continue
        clone = upstream_clone(trainer.upstream, False)
        (command,) = commands(row[2].strip("`"))
        # a script that is a remedy of its own is a baseline of another name
        assert config.parse(command.variables["PCPO"]).mode == ("observe" if trainer.remedy else "full")
        named = next(word for word in command.words if word.startswith(("scripts/", "fastvideo/")))
        assert (clone / named).is_file(), named
        assert named == trainer.script or trainer.script in (clone / named).read_text(encoding="utf-8"), named


def test_the_code_of_the_readme_computes_a_loss_and_a_gradient() -> None:
    (text,) = (piece.text for piece in code(README) if piece.language == "python")
    pred = torch.randn(2, 4, 8, 8, requires_grad=True)
    values: dict[str, Any] = {"pred": pred, "pred_old": pred.detach(), "z": torch.randn(2, 4, 8, 8)}
    values |= {"w": torch.ones(2), "advantage": torch.ones(2)}
    exec(text, values)
    assert values["log_rho"].tolist() == [0, 0]
    values["loss"].backward()
    assert pred.grad is not None and pred.grad.abs().sum() > 0


def test_the_readme_names_every_mode_and_every_option() -> None:
    text = README.read_text(encoding="utf-8")
    assert [m for m in config.MODES if f"| `{m}`" not in text] == []
    for option in config._ACTS_IN:
        assert f"`{option}=" in text, option


# ------------------------------------------------------- what is not Markdown


def test_the_paper_is_cited_alike() -> None:
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    readme = " ".join(README.read_text(encoding="utf-8").replace("{", "").replace("}", "").split())
    (title,) = re.findall(r'^  title: "(.*)"$', cited, re.MULTILINE)
    assert title in readme
    for said in ("2509.25774", "Lee", "Jeongjae", "Jong Chul", "Fourteenth International Conference"):
        assert said in cited and said in readme, said


def test_the_workflow_runs_what_every_change_has_to_pass() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "run: .ci/run" in workflow and "secrets" not in workflow
    (versions,) = re.findall(r"python: \[(.*)\]", workflow)
    assert re.findall(r"[\d.]+", versions) == re.findall(r"Python :: (3\.\d+)", _PYPROJECT)
