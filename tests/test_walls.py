"""The walls of the house: what runs in a trainer is a written list, and knows nothing of the tools beside it."""

from __future__ import annotations

import ast
from pathlib import Path

import pcpo_overlay
from pcpo_overlay.trainers import TRAINERS

PACKAGE = Path(pcpo_overlay.__file__).resolve().parent
ROOT = PACKAGE.parent

#: What `import pcpo_overlay.hooks` reaches, imports inside functions included: what a reviewer audits.
IN_A_TRAINER = {
    "compat",
    "compat.dancegrpo",
    "compat.ddpo",
    "compat.flow_grpo",
    "compat.lora",
    "compat.python",
    "config",
    "files",
    "flow_grpo",
    "hooks",
    "losses",
    "messages",
    "objective",
    "ranks",
    "record",
    "record.alarms",
    "record.gradients",
    "record.metrics",
    "record.provenance",
    "record.recorder",
    "record.rewards",
    "record.run_folder",
    "record.tracker",
    "rollout",
    "schedules",
    "session",
    "steps",
    "tape",
    "trainers",
    "variance",
    "weights",
}


def file_of(module: str) -> Path | None:
    base = PACKAGE / Path(*module.split("."))
    return next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()), None)


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere in it, by their names below the package."""
    here = list(path.relative_to(PACKAGE).with_suffix("").parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(["pcpo_overlay", *here[: len(here) - node.level], *base.split(".")]).rstrip(
                    "."
                )
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            below = name.removeprefix("pcpo_overlay.")
            if name.startswith("pcpo_overlay.") and file_of(below):
                # a package's own __init__ runs too
                parts = below.split(".")
                found |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return found


def closure(module: str) -> set[str]:
    reached, open_ends = set(), {module}
    while open_ends:
        name = open_ends.pop()
        reached.add(name)
        path = file_of(name)
        assert path is not None
        open_ends |= imports_of(path) - reached
    return reached


def test_what_runs_in_a_trainer_is_a_written_list() -> None:
    reached = closure("hooks")
    assert reached == IN_A_TRAINER
    lines = sum(len((file_of(name) or PACKAGE).read_text().splitlines()) for name in reached)
    print(f"\n{len(reached)} modules, {lines} lines run in a trainer")


def test_the_top_of_the_package_holds_what_runs_in_a_trainer_and_nothing_else() -> None:
    top = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert top == {name for name in IN_A_TRAINER if "." not in name} - {"compat", "record"}


def test_nothing_but_the_tools_knows_the_tools() -> None:
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        if room in ("tools", "vendoring", "__main__.py"):
            continue
        strangers = {name for name in imports_of(path) if name.split(".")[0] in ("tools", "vendoring")}
        assert not strangers, f"{path.relative_to(ROOT)} imports {', '.join(sorted(strangers))}"


def test_every_room_is_on_the_map() -> None:
    told = (PACKAGE / "__init__.py").read_text()
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.name for path in PACKAGE.iterdir() if path.is_dir()
    }
    rooms |= {path.name for path in (PACKAGE / "tools").iterdir() if (path / "__init__.py").is_file()}
    for room in rooms - {"__init__", "__main__", "__pycache__"}:
        assert f"``{room}``" in told or f"``{room}/``" in told, f"{room} is not on the map in __init__.py"


NAMES = {name for t in TRAINERS.values() for name in (t.name, t.upstream)} | {"dancegrpo", "dancegrpo_"}


def named(node: ast.AST) -> set[str]:
    return {
        n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    } & NAMES


def test_only_trainers_and_compat_tell_one_upstream_from_another() -> None:
    """A comparison with an upstream's name is a fact of a trainer that its entry should have."""
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        if path.name == "trainers.py" or path.parent.name == "compat":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            tests: set[str] = set()
            if isinstance(node, ast.Compare):
                tests = named(node)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in ("startswith", "endswith", "removeprefix"):
                    tests = named(node)
            elif isinstance(node, ast.match_case):
                tests = named(node.pattern)
            assert not tests, f"{path.relative_to(ROOT)}:{node.lineno} tells {tests} apart"  # type: ignore[attr-defined]
