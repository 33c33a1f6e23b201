"""The policy ratio before the first update, where it should be 1: every trainer and precision, baseline and PCPO.

    python -m benchmarks.on_policy [UPSTREAM ...] [options]

Runs each trainer on its miniature up to its first optimizer step. Needs patched clones (`python apply.py`), the
trainers' libraries and matplotlib. docs/results says how to read the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import ROOT
from benchmarks.measuring import machine, ratio_figure, ratios
from benchmarks.measuring.arguments import one_of, some_of
from benchmarks.measuring.clones import MissingClone
from benchmarks.measuring.miniature_run import Miniatures, RunFailed
from pcpo_overlay.tools.ab.runner import stoppable
from pcpo_overlay.tools.cli.arguments import at_least
from pcpo_overlay.tools.report.build import save

FIGURE = ROOT / "benchmarks" / "figures" / "on-policy.png"
DATA = ROOT / "benchmarks" / "data" / "on-policy.json"
DTYPES = ("fp32", "bf16", "fp16")
_EPILOG = """\
Exit codes: 0 every ratio that should be exactly 1 is; 1 one is not (a line
below the first table says which); 2 a wrong argument; 3 a clone is missing or
a run failed (a message says why); 130 stopped by Ctrl-C or a signal.
"""


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    chosen = [
        setting
        for setting in ratios.SETTINGS
        if setting.upstream in args.upstreams and setting.dtype in args.dtypes
    ]
    described = machine.describe(seed=0)
    print("## The policy ratio before the first update\n")
    print(machine.header(described), flush=True)
    try:
        with stoppable(), tempfile.TemporaryDirectory(prefix="pcpo-on-policy-") as scratch:
            found = ratios.measure(Miniatures(args.vendor, Path(scratch)), chosen, args.jobs)
    except (MissingClone, RunFailed) as error:
        print(f"on_policy: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("on_policy: stopped, and with it the runs under way", file=sys.stderr)
        return 130
    overall = ratios.summary(found)
    print("\n" + overall.markdown())
    for setting, modes in found.items():
        print("\n" + ratios.by_timestep(setting, modes).markdown())
    if args.json:
        result = {"machine": described, **overall.as_dict()}
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        name = str(described["name"])
        kept = ratio_figure.of(
            found,
            name if described["device"] == "cuda" else "CPU",
            f"python -m benchmarks.on_policy, {described['date']}, seed 0, {name}, "
            f"torch {described['versions']['torch']}",
        )
        if args.data.exists():
            kept = kept.beside(ratio_figure.OnPolicy.read(args.data))
        save(kept.figure(), args.figure)
        kept.write(args.data)
        print(f"\nfigure: {args.figure}, from the numbers in {args.data}")
    return 1 if overall.missed else 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    known = list(dict.fromkeys(setting.upstream for setting in ratios.SETTINGS))
    parser = argparse.ArgumentParser(
        prog="on_policy",
        description=(__doc__ or "").partition("\n")[0],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "upstreams",
        nargs="*",
        type=one_of(known, "upstream"),
        metavar="UPSTREAM",
        help=f"of {', '.join(known)} (default: all)",
    )
    parser.add_argument(
        "--dtypes",
        type=some_of(DTYPES, "dtype"),
        default=list(DTYPES),
        metavar="A,B,...",
        help=f"of {', '.join(DTYPES)} (default: all)",
    )
    parser.add_argument(
        "--jobs", type=at_least(1), default=1, metavar="N", help="runs at a time (default: 1)"
    )
    parser.add_argument(
        "--vendor", type=Path, default=ROOT / "vendor", metavar="DIR", help="folder of patched clones"
    )
    parser.add_argument(
        "--figure",
        type=lambda text: Path(text) if text else None,
        default=FIGURE,
        metavar="FILE",
        help="where the figure goes; '' for none (default: benchmarks/figures/on-policy.png)",
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, metavar="FILE", help="(default: benchmarks/data/on-policy.json)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what the tables say there too")
    args = parser.parse_args(argv)
    args.upstreams = args.upstreams or known
    return args


if __name__ == "__main__":
    raise SystemExit(main())
