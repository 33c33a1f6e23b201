"""A small upstream with patches and a lock of its own, so that every fault of apply.py is tested fast and offline."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcpo_overlay.vendoring import cli
from pcpo_overlay.vendoring.patchfile import Insertion, Patch, insert, render

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = Path(__file__).with_name("apply_toy.gitconfig")
URL = "https://upstream.invalid/someone/toy"

HEADER = (
    "The toy's training script.\n\n"
    "Why: the tests of apply.py need a patch with a header, and this one says so at some length for the lint.\n\n"
    "When it may go: when the toy upstream goes."
)
TRAIN = "".join(f"line_{n} = {n}\n" for n in range(1, 31))
STEP = "def step(x):\n    y = x + 1\n    return y\n"
BIG = "one prompt\nanother prompt\n"
RUN_SH = "#!/bin/sh\npython train.py --prompts data/big.txt\n"

HOOKS = {
    "scripts/train.py": (
        Insertion(0, ("from pcpo_overlay import hooks as pcpo",), "the overlay"),
        Insertion(10, ("pcpo.begin(", "    10,", ")"), "name the step"),
        Insertion(30, ("pcpo.finish()",), "close"),
    ),
    "step.py": (Insertion(2, ("    y = pcpo.step(y)",), "the step"),),
}


def git(where: Path, *command: str, env: Mapping[str, str] | None = None) -> str:
    """Run git as a user with no settings of their own."""
    env = {
        **os.environ,
        **(env or {}),
        "GIT_CONFIG_GLOBAL": str(SETTINGS),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "toy",
        "GIT_AUTHOR_EMAIL": "toy@example.invalid",
        "GIT_COMMITTER_NAME": "toy",
        "GIT_COMMITTER_EMAIL": "toy@example.invalid",
        "GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z",
        "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z",
    }
    done = subprocess.run(
        ["git", "-C", str(where), *command], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, f"git {' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


def tree_of(where: Path) -> dict[str, bytes]:
    """Every file below a folder except git's own, for before-and-after comparisons."""
    return {
        path.relative_to(where).as_posix(): path.read_bytes()
        for path in sorted(where.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(where).parts
    }


@dataclass(frozen=True)
class Result:
    """What a run of apply.py said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Toy:
    """``root`` holds ``mirror/toy`` (upstream), ``overlay`` (lock, patches) and ``vendor`` (clones)."""

    root: Path

    @property
    def upstream(self) -> Path:
        return self.root / "mirror" / "toy"

    @property
    def overlay(self) -> Path:
        return self.root / "overlay"

    @property
    def lock(self) -> Path:
        return self.overlay / "vendor.lock"

    @property
    def dest(self) -> Path:
        return self.root / "vendor"

    @property
    def clone(self) -> Path:
        return self.dest / "toy"

    @property
    def commits(self) -> dict[str, str]:
        return {name: git(self.upstream, "rev-parse", name) for name in ("old", "pin", "clean", "conflict")}

    def patched(self, path: str, base: str | None = None) -> bytes:
        text = {"scripts/train.py": TRAIN, "step.py": STEP}[path] if base is None else base
        return insert(Patch(HEADER, path, HOOKS[path]), text.encode())

    def command(self, *args: str, mirror: Path | str | None = "mirror") -> list[str]:
        where = ["--lock", str(self.lock), "--dest", str(self.dest)]
        if mirror == "mirror":
            where += ["--mirror", str(self.root / "mirror")]
        elif mirror is not None:
            where += ["--mirror", str(mirror)]
        return [*args, *where]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if k != "PCPO_MIRROR"}
        env["GIT_CONFIG_GLOBAL"] = str(SETTINGS)
        env.update(extra or {})
        return env

    def run(
        self, *args: str, mirror: Path | str | None = "mirror", env: Mapping[str, str] | None = None
    ) -> Result:
        """apply.py's ``main`` in a process of its own: forked, because starting Python takes longer than the run."""
        return self._forked(self.command(*args, mirror=mirror), self.environment(env), lambda name: None)

    def script(
        self,
        *args: str,
        mirror: Path | str | None = "mirror",
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        python: Sequence[str] = (sys.executable,),
    ) -> Result:
        """The real ``python apply.py ARGS``; ``before`` goes in front of the command line."""
        command = [*before, *python, str(ROOT / "apply.py"), *self.command(*args, mirror=mirror)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment(env), check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    def _forked(self, argv: Sequence[str], env: Mapping[str, str], on_stage: Callable[[str], None]) -> Result:
        import pcpo_overlay.vendoring.commands  # noqa: F401 - loaded once, before the forks
        from pcpo_overlay.vendoring import stages

        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                code = 99
                try:
                    os.dup2(out.fileno(), 1)
                    os.dup2(err.fileno(), 2)
                    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
                    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False))
                    os.environ.clear()
                    os.environ.update(env)
                    os.fsync = lambda fd: (
                        None
                    )  # SIGKILL loses nothing that was written; only a power cut does
                    known = stages.stage

                    def watched(name: str) -> None:
                        known(name)
                        on_stage(name)

                    for name, module in list(sys.modules.items()):
                        if name.startswith("pcpo_overlay.vendoring") and hasattr(module, "stage"):
                            vars(module)["stage"] = watched
                    code = cli.main(argv)
                except SystemExit as stop:
                    code = int(stop.code or 0)
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        assert "Traceback" not in texts[1], texts[1]
        return Result(os.waitstatus_to_exitcode(status), *texts)

    def ok(self, *args: str, **keywords: Any) -> Result:
        result = self.run(*args, **keywords)
        assert result.code == 0, (result.out, result.err)
        return result

    def stages(self, *args: str) -> list[str]:
        """The stages that a command passes, in order."""
        seen = self.root / "stages.txt"
        seen.unlink(missing_ok=True)

        def note(name: str) -> None:
            with seen.open("a") as file:
                file.write(name + "\n")

        result = self._forked(self.command(*args), self.environment(), note)
        assert result.code == 0, result
        return seen.read_text().split()

    def killed(self, number: int, *args: str) -> None:
        """Run a command that dies by SIGKILL at its ``number``-th stage."""
        passed = 0

        def die(name: str) -> None:
            nonlocal passed
            passed += 1
            if passed == number:
                os.kill(os.getpid(), signal.SIGKILL)

        result = self._forked(self.command(*args), self.environment(), die)
        assert result.code == -signal.SIGKILL, result

    def held(self, stage: str, release: Path, *args: str) -> int:
        """Start a command that stops at a stage until ``release`` exists; returns its pid once it is there."""
        reached = release.with_suffix(".reached")

        def wait(name: str) -> None:
            if name == stage:
                reached.write_text(str(os.getpid()))
                until = time.monotonic() + 30
                while not release.exists() and time.monotonic() < until:
                    time.sleep(0.01)

        child = os.fork()
        if child == 0:
            os._exit(self._forked(self.command(*args), self.environment(), wait).code)
        while not reached.exists() or not reached.read_text():
            ended, status = os.waitpid(child, os.WNOHANG)
            assert ended == 0, f"{args} ended before {stage}: {os.waitstatus_to_exitcode(status)}"
            time.sleep(0.01)
        return child

    def status(self, *args: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self.ok("status", "toy", "--json", *args).out)
        return found[0]

    def work_tree_name(self, where: Path | None = None) -> str:
        """git's name of the tracked files as they are on disk, in an index of its own."""
        where = self.clone if where is None else where
        with tempfile.TemporaryDirectory() as folder:
            env = {"GIT_INDEX_FILE": f"{folder}/index"}
            git(where, "read-tree", "HEAD", env=env)
            git(where, "add", "--update", env=env)
            return git(where, "write-tree", env=env)

    def assert_patched(self) -> None:
        """Work tree and stamp say: patched, the index is as it was, and nothing else was left about."""
        for path in HOOKS:
            assert (self.clone / path).read_bytes() == self.patched(path), path
        assert git(self.clone, "diff", "--cached", "--name-only", "--", *HOOKS) == ""
        stamp = json.loads((self.clone / ".git" / "pcpo-overlay.json").read_text())
        assert stamp["patched_tree"] == self.locked("patched_tree")
        self.assert_tidy()

    def assert_pristine(self) -> None:
        assert (self.clone / "scripts/train.py").read_text() == TRAIN
        assert (self.clone / "step.py").read_text() == STEP
        for name in ("pcpo-overlay.json", "pcpo-overlay.record.json"):
            assert not (self.clone / ".git" / name).exists()
        self.assert_tidy()

    def assert_tidy(self) -> None:
        left = [p.name for p in self.dest.iterdir() if p.name not in ("toy", ".toy.lock")]
        assert left == []
        assert self.unfinished() == []
        inside = {p.name for p in (self.clone / ".git").iterdir()}
        ours = {"pcpo-overlay.json", "pcpo-overlay.record.json", "pcpo-overlay.pin", "pcpo-overlay.lock"}
        assert "index.lock" not in inside and {n for n in inside if n.startswith("pcpo")} <= ours

    def unfinished(self) -> list[str]:
        """What killed writes left beside their files."""
        return [path.name for path in self.root.rglob(".*.pcpo-*.tmp")]

    def assert_not_half_patched(self) -> None:
        """Each touched file is whole: upstream's or the patched one; a mixture is called partial."""
        if not self.clone.exists():
            return
        kinds = set()
        for path, base in (("scripts/train.py", TRAIN), ("step.py", STEP)):
            now = (self.clone / path).read_bytes()
            assert now in (base.encode(), self.patched(path)), path
            kinds.add(now == base.encode())
        assert len(kinds) == 1 or self.status()["state"] == "partial"

    def locked(self, key: str) -> str:
        line = next(line for line in self.lock.read_text().splitlines() if line.startswith(f"{key} = "))
        return line.split('"')[1]

    def write_lock(self, **changes: str) -> None:
        """Write the lock for the patches as they are on disk; ``changes`` override fields."""
        patches = sorted((self.overlay / "patches" / "toy").glob("*.patch"))
        fields = {
            "name": "toy",
            "url": URL,
            "commit": git(self.upstream, "rev-parse", "pin"),
            "tree": git(self.upstream, "rev-parse", "pin^{tree}"),
            "patched_tree": self._patched_tree(),
            **changes,
        }
        lines = [
            "format = 1",
            "[[upstream]]",
            *(f'{key} = "{value}"' for key, value in fields.items()),
            "patches = [",
        ]
        for path in patches:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f'  {{ file = "patches/toy/{path.name}", sha256 = "{digest}" }},')
        self.lock.write_text("\n".join([*lines, "]", ""]))

    def _patched_tree(self) -> str:
        """The patched tree as git alone makes it, without this project's code."""
        work = self.root / "independent"
        git(self.root, "clone", "--quiet", str(self.upstream), str(work))
        git(work, "checkout", "--quiet", "pin")
        for patch in sorted((self.overlay / "patches" / "toy").glob("*.patch")):
            git(work, "apply", "--index", "--unidiff-zero", str(patch))
        tree = git(work, "write-tree")
        shutil.rmtree(work)
        return tree

    def copy(self, to: Path) -> Toy:
        shutil.copytree(self.root, to, symlinks=True)
        return Toy(to)


def build(root: Path) -> Toy:
    """Make the toy: four commits of upstream (tags old, pin, clean, conflict), two patches, a lock."""
    toy = Toy(root)
    toy.upstream.mkdir(parents=True)
    git(toy.upstream, "init", "--quiet")
    git(toy.upstream, "symbolic-ref", "HEAD", "refs/heads/main")
    git(toy.upstream, "config", "gc.auto", "0")

    def commit(tag: str, **files: str) -> None:
        for name, text in files.items():
            path = toy.upstream / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git(toy.upstream, "add", "--all")
        git(toy.upstream, "commit", "--quiet", "-m", tag)
        git(toy.upstream, "tag", tag)

    other = {"other_DOT_py": "other = 1\n", "data__big_DOT_txt": BIG, "scripts__run_DOT_sh": RUN_SH}
    commit(
        "old",
        scripts__train_DOT_py=TRAIN.replace("line_2 = 2\n", "line_2 = 2\n# older\n"),
        step_DOT_py=STEP,
        gone_DOT_py="gone = 1\n",
        **other,
    )
    (toy.upstream / "gone.py").unlink()
    commit("pin", scripts__train_DOT_py=TRAIN)
    commit(
        "clean", scripts__train_DOT_py=TRAIN.replace("line_20 = 20", "line_20 = 2000"), new_DOT_py="new = 1\n"
    )
    changed = TRAIN.replace("line_10 = 10\nline_11 = 11\n", "line_10 = 1000\nline_11 = 1100\n")
    commit("conflict", scripts__train_DOT_py=changed)
    patches = toy.overlay / "patches" / "toy"
    patches.mkdir(parents=True)
    for path, hooks in HOOKS.items():
        (patches / f"{Path(path).stem}.patch").write_bytes(render(Patch(HEADER, path, hooks)))
    toy.write_lock()
    return toy
