"""What only a GPU can tell: a fault that was seen, exact ratios, cost and memory at real sizes, and the host's waits.

    python -m benchmarks.gpu_check [PART ...] [options]

One command for a quarter of an hour on one NVIDIA GPU, on a machine without a network: it needs patched clones
(`python apply.py`, which a checkout can bring along), the trainers' libraries, and torch as it is found. Each part
runs in a process of its own and writes what it found at once, so that neither a fault nor the end of the time costs
what came before.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.gpu.page import page
from benchmarks.gpu.part import Part
from benchmarks.measuring import machine
from benchmarks.measuring.arguments import one_of
from pcpo_overlay.tools.ab.runner import stop_group, stoppable

#: By name: what it asks, and its share of the time, in the order in which they are run.
PARTS: Mapping[str, tuple[str, float]] = {
    "faults": ("do DanceGRPO's FLUX trainers end in a fault, in which modes, and where", 0.3),
    "ratios": ("is every ratio exactly 1 before the first update", 0.25),
    "sizes": ("seconds, memory and waits at real sizes", 0.35),
    "guidance": ("what experts cost while sampling", 0.1),
}
_EPILOG = """\
Parts: {}.
What a part does not use of its time the next ones have. Exit codes: 0 done,
and nothing is wrong; 1 something is (the page's first lines say what); 2 a
wrong argument; 3 no GPU, and --tiny was not asked for; 130 stopped by Ctrl-C
or a signal.
"""


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    if args.run:
        _run(args)
        return 0
    described = machine.describe(seed=0)
    if described["device"] != "cuda" and not args.tiny:
        print(
            "gpu_check: torch finds no GPU here; --tiny tries every part on the CPU, at small sizes",
            file=sys.stderr,
        )
        return 3
    if args.out.exists() and any(args.out.iterdir()):
        print(f"gpu_check: {args.out} is not empty; give another folder with --out", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "machine.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    try:
        with stoppable():
            _all(args)
    except KeyboardInterrupt:
        print("gpu_check: stopped; what was found is in the folder", file=sys.stderr)
        return 130
    text, wrong = page(args.out, list(args.parts))
    (args.out / "page.md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if wrong else 0


def _all(args: argparse.Namespace) -> None:
    """Every part in a process of its own, which is stopped when its time and what was left over are up."""
    ends = time.monotonic() + 60 * args.minutes
    shares = {name: PARTS[name][1] for name in args.parts}
    for n, name in enumerate(args.parts):
        later = sum(list(shares.values())[n:])
        seconds = (ends - time.monotonic()) * shares[name] / later
        print(f"gpu_check: {name}, {seconds:.0f} s", file=sys.stderr, flush=True)
        file = args.out / f"{name}.jsonl"
        begun = time.monotonic()
        process = subprocess.Popen(
            [
                sys.executable, "-m", "benchmarks.gpu_check", name, "--run", str(seconds), "--out", str(args.out),
                "--vendor", str(args.vendor), *(["--tiny"] if args.tiny else []),
            ],
            cwd=ROOT, stdout=(args.out / f"{name}.log").open("wb"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(timeout=max(1.0, seconds) + 5)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                stop_group(process)
        took = {"part": name, "seconds": round(time.monotonic() - begun, 1), "exit_code": code}
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(took) + "\n")


def _run(args: argparse.Namespace) -> None:
    """One part, in this process."""
    (name,) = args.parts
    part = Part(
        file=args.out / f"{name}.jsonl",
        vendor=args.vendor,
        deadline=time.monotonic() + args.run,
        tiny=args.tiny,
    )
    importlib.import_module(f"benchmarks.gpu.{name}").run(part)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    told = "; ".join(f"{name}: {asks}" for name, (asks, _) in PARTS.items())
    parser: Any = argparse.ArgumentParser(
        prog="gpu_check",
        description=(__doc__ or "").partition("\n")[0],
        epilog=_EPILOG.format(told),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts",
        nargs="*",
        type=one_of(list(PARTS), "part"),
        metavar="PART",
        help=f"of {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument("--minutes", type=float, default=14.0, metavar="M", help="for all of it (14)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("pcpo_gpu"),
        metavar="DIR",
        help="new folder for what is found (pcpo_gpu)",
    )
    parser.add_argument(
        "--vendor", type=Path, default=ROOT / "vendor", metavar="DIR", help="folder of patched clones"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="small sizes, also on a CPU: to try the check itself"
    )
    parser.add_argument("--run", type=float, metavar="SECONDS", help=argparse.SUPPRESS)
    args: argparse.Namespace = parser.parse_args(argv)
    args.parts = args.parts or list(PARTS)
    args.out, args.vendor = args.out.absolute(), args.vendor.absolute()
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes:g}: a positive number of minutes is needed")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
