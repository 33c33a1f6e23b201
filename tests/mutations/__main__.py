"""Put each fault into a copy of the package, run the fast tests that concern it, and tell which faults survive.

``python -m tests.mutations [FILE ...]``: exit code 0 if none survives where none may and at least 95% are killed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .listed import EQUIVALENTS, FAULTS, MUTATIONS, NO_SURVIVOR, PROCESSES, TESTS, Mutation

ROOT = Path(__file__).resolve().parents[2]
#: What the tests that are run here read of a checkout.
FOLDERS = ("pcpo_overlay", "tests", "patches", "benchmarks", "docs")
COPIED = (*FOLDERS, "apply.py", "pyproject.toml", "vendor.lock")
ENOUGH = 0.95
#: A fault that makes a test wait for ever is found.
TIMEOUT_S = 120
EVERY = tuple(dict.fromkeys(name for names in TESTS.values() for name in names if name not in PROCESSES))


class Bench:
    """A copy of the checkout with one process that has torch loaded and forks itself for each run of the tests."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "pcpo_overlay"
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
            else:
                shutil.copy(source, folder / name)
        self._written = 0
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith("PCPO") and k != "PYTHONDONTWRITEBYTECODE"
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutations.forks"],
            cwd=folder,
            env={**kept, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def failing(self, tests: tuple[str, ...], timeout: float = TIMEOUT_S) -> str | None:
        """The first test that fails, ``timeout``, or None."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([timeout, *(f"tests/{name}" for name in tests)]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that runs the tests is gone")
        answer: str | None = json.loads(line)
        return answer

    def write(self, file: str, source: str) -> None:
        """A file of the copy, with a time of its own: Python tells a stale .pyc by whole seconds and the size."""
        path = self.package / file
        path.write_text(source, encoding="utf-8")
        self._written += 1
        os.utime(path, (self._written, self._written))

    def killer(self, mutation: Mutation, near_only: bool) -> str | None:
        """The test that fails with this fault, or None: it survives."""
        source = (ROOT / "pcpo_overlay" / mutation.file).read_text(encoding="utf-8")
        self.write(mutation.file, mutation.applied(source))
        try:
            near = TESTS[mutation.file]
            wider = () if near_only else tuple(name for name in EVERY if name not in near)
            return self.failing(near) or (self.failing(wider) if wider else None)
        finally:
            self.write(mutation.file, source)

    def close(self) -> None:
        self._process.communicate()


def run(mutations: list[Mutation], processes: int, near_only: bool) -> list[tuple[Mutation, str | None]]:
    """Every fault with the test that kills it; in parallel, each process on a copy of its own.

    Raises:
        RuntimeError: the tests fail without any fault.
    """
    found: dict[Mutation, str | None] = {}
    failures: list[BaseException] = []
    todo: Iterator[Mutation] = iter(mutations)
    lock = threading.Lock()

    def work(folder: Path, is_first: bool) -> None:
        bench = None
        try:
            bench = Bench(folder)
            needed = tuple(dict.fromkeys(name for m in mutations for name in TESTS[m.file]))
            if is_first and (broken := bench.failing(needed, 10 * TIMEOUT_S)):
                raise RuntimeError(f"without any fault {broken} fails")
            while not failures:
                with lock:
                    mutation = next(todo, None)
                if mutation is None:
                    return
                found[mutation] = bench.killer(mutation, near_only)
                if found[mutation] is None:
                    print(f"survives: {mutation.file}: {mutation.why}", file=sys.stderr, flush=True)
        except BaseException as error:
            failures.append(error)
        finally:
            if bench is not None:
                bench.close()

    with tempfile.TemporaryDirectory(prefix="pcpo-mutations-") as scratch:
        threads = [
            threading.Thread(target=work, args=(Path(scratch) / str(n), n == 0)) for n in range(processes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return [(mutation, found[mutation]) for mutation in mutations]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(FAULTS)}; default: all")
    parser.add_argument("-n", "--processes", type=int, default=2)
    parser.add_argument("-v", "--verbose", action="store_true", help="name the test that kills each fault")
    parser.add_argument(
        "--near", action="store_true", help="run only the tests that concern a file: quick, and unfair"
    )
    args = parser.parse_args()
    if unknown := sorted(set(args.files) - set(FAULTS)):
        parser.error(f"no faults are listed for {', '.join(unknown)}; choose of {', '.join(FAULTS)}")
    files = args.files or list(FAULTS)
    began = time.monotonic()
    listed = [m for m in (*MUTATIONS, *EQUIVALENTS) if m.file in files]
    try:
        results = run(listed, args.processes, args.near)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    faults = [(m, killer) for m, killer in results if m not in EQUIVALENTS]
    survivors = [m for m, killer in faults if killer is None]
    told_apart = [(m, killer) for m, killer in results if m in EQUIVALENTS and killer is not None]

    if args.verbose:
        for mutation, killer in faults:
            print(f"{mutation.file}: {mutation.why}: {killer or 'SURVIVES'}")
        print()
    print(f"{'file':<22} faults  killed")
    for file in files:
        of_file = [killer for m, killer in faults if m.file == file]
        print(f"{file:<22} {len(of_file):6}  {sum(killer is not None for killer in of_file):6}")
    killed = len(faults) - len(survivors)
    print(
        f"\n{killed} of {len(faults)} killed ({100 * killed / len(faults):.1f}%), "
        f"{len(listed) - len(faults)} equivalent, in {time.monotonic() - began:.0f} s"
    )
    for mutation in survivors:
        print(f"survives in {mutation.file}: {mutation.why}\n  - {mutation.old!r}\n  + {mutation.new!r}")
    for mutation, killer in told_apart:
        print(f"called equivalent in {mutation.file}, but {killer} fails: {mutation.why}")
    bad = [m for m in survivors if m.file in NO_SURVIVOR]
    return 1 if bad or told_apart or killed < ENOUGH * len(faults) else 0


if __name__ == "__main__":
    sys.exit(main())
