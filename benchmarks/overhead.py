"""What PCPO costs: baseline and PCPO side by side in one run, alternating, as medians of ratios.

    python -m benchmarks.overhead [loss] [training] [memory] [startup] [options]

Needs patched clones (`python apply.py`) and the trainers' libraries. docs/results says how to read the tables.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ROOT
from benchmarks.measuring import loss_step, machine, startup, training
from benchmarks.measuring.arguments import one_of, some_of
from benchmarks.measuring.clones import MissingClone
from benchmarks.measuring.miniature_run import RunFailed
from benchmarks.measuring.tables import Section
from pcpo_overlay.tools.ab.runner import stoppable
from pcpo_overlay.tools.ab.upstreams import UPSTREAMS
from pcpo_overlay.tools.cli.arguments import at_least

SECTIONS = ("loss", "training", "memory", "startup")
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
_EPILOG = """\
Tables go to stdout, progress to stderr. training and memory are read off the
same runs. Exit codes: 0 done, and every goal is met or missed within noise;
1 a goal was missed; 2 a wrong argument; 3 a clone is missing or a run failed
(a message says why); 130 stopped by Ctrl-C or a signal.
"""


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    described = machine.describe(args.seed, args.clock)
    print("## What PCPO costs\n")
    print(machine.header(described), flush=True)
    sections: list[Section] = []
    try:
        with stoppable():
            for section in measure(args):
                sections.append(section)
                print("\n" + section.markdown(), flush=True)
    except (MissingClone, RunFailed) as error:
        print(f"overhead: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("overhead: stopped, and with it the runs under way", file=sys.stderr)
        return 130
    if args.json:
        found = {"machine": described, "sections": [section.as_dict() for section in sections]}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    missed = [line for section in sections for line in section.missed]
    print(f"\n{len(missed)} goal{'s' if len(missed) > 1 else ''} missed." if missed else "\nNo goal missed.")
    return 1 if missed else 0


def measure(args: argparse.Namespace) -> Iterator[Section]:
    """The sections asked for, each as soon as it is measured."""
    rng = random.Random(args.seed)
    on = machine.device()
    if "loss" in args.sections:
        yield from loss_step.measure(
            args.vendor, on, args.repeats, args.seconds, rng, clock=CLOCKS[args.clock]
        )
    if "training" in args.sections or "memory" in args.sections:
        upstreams = [UPSTREAMS[name] for name in args.upstreams]
        measured, memory = training.run(args.vendor, rng, args.epochs, upstreams)
        if "training" in args.sections:
            yield training.training_section(measured, args.clock)
        if "memory" in args.sections:
            yield training.memory_section(memory, on.type)
    if "startup" in args.sections:
        yield startup.imports(ROOT, args.repeats, rng)
        yield startup.apply(ROOT, args.mirror)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="overhead",
        description=(__doc__ or "").partition("\n")[0],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sections",
        nargs="*",
        type=one_of(SECTIONS, "section"),
        metavar="SECTION",
        help=f"of {', '.join(SECTIONS)} (default: all)",
    )
    parser.add_argument(
        "--upstreams",
        type=some_of(list(UPSTREAMS), "upstream"),
        default=list(UPSTREAMS),
        metavar="A,B,...",
        help=f"whose training is timed, of {', '.join(UPSTREAMS)} (default: all)",
    )
    parser.add_argument(
        "--repeats", type=at_least(1), default=15, metavar="N", help="rounds of loss and startup (15)"
    )
    parser.add_argument("--seconds", type=float, default=0.1, metavar="S", help="of one timing of loss (0.1)")
    parser.add_argument(
        "--epochs",
        type=at_least(2),
        default=9,
        metavar="N",
        help="of each training run, the first to warm up (9)",
    )
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="what tells seconds on a CPU: the wall's clock, or the process's own time, which a busy machine does not "
        "distort but which adds up threads (default: wall)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order in which arms take turns (0)")
    parser.add_argument(
        "--vendor", type=Path, default=ROOT / "vendor", metavar="DIR", help="folder of patched clones"
    )
    parser.add_argument(
        "--mirror", type=Path, metavar="DIR", help="for apply.py: a folder of clones to clone from"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single timing there too")
    args = parser.parse_args(argv)
    args.sections = args.sections or list(SECTIONS)
    return args


if __name__ == "__main__":
    raise SystemExit(main())
