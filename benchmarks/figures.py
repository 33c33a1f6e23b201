"""Redraw every figure of the benchmarks from the data in the repository, in less than a minute.

    python -m benchmarks.figures [NAME ...] [--out DIR]

Data lies in benchmarks/data: a file a study, on-policy.json and guidance.json. The weights of a schedule are computed.
Pictures of samples are no figures of data: `pcpo miniature grid` draws miniature-*.png, and benchmarks.guidance
guidance-*.png.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from pcpo_overlay.tools.report.build import save

DATA = ROOT / "benchmarks" / "data"
FIGURES = ROOT / "benchmarks" / "figures"
ON_POLICY, GUIDANCE = DATA / "on-policy.json", DATA / "guidance.json"
_EPILOG = "Exit codes: 0 done; 2 a wrong argument."


def _study(path: Path, out: Path) -> list[Path]:
    from benchmarks.measuring.study_data import StudyData

    data = StudyData.read(path)
    return [_kept(figure, out / f"learning-{data.study}{end}.png") for end, figure in data.figures().items()]


def _on_policy(out: Path) -> list[Path]:
    from benchmarks.measuring.ratio_figure import OnPolicy

    return [_kept(OnPolicy.read(ON_POLICY).figure(), out / "on-policy.png")]


def _guidance(out: Path) -> list[Path]:
    from benchmarks.measuring.guidance_figure import FIGURE, Guided

    return [_kept(Guided.read(GUIDANCE).figure(), out / FIGURE)]


def _weights(out: Path) -> list[Path]:
    from pcpo_overlay.tools.weights.plot import save_weights_plot
    from pcpo_overlay.tools.weights.table import ddim_table, flow_grpo_table

    drawn = {
        "weights-ddim.png": ddim_table(50, mode="full"),
        "weights-flow-grpo.png": flow_grpo_table(10, mode="full"),
    }
    for name, table in drawn.items():
        save_weights_plot(table, out / name)
    return [out / name for name in drawn]


def _kept(figure: Any, path: Path) -> Path:
    save(figure, path)
    return path


def _jobs() -> dict[str, Callable[[Path], list[Path]]]:
    """What draws the figures, by name: that of a file in the data, or ``weights``."""
    jobs: dict[str, Callable[[Path], list[Path]]] = {"weights": _weights}
    others = {ON_POLICY: _on_policy, GUIDANCE: _guidance}
    for path in sorted(DATA.glob("*.json")):
        jobs[path.stem] = others.get(path) or functools.partial(_study, path)
    return jobs


def _parse(argv: list[str] | None) -> argparse.Namespace:
    jobs = _jobs()
    parser = argparse.ArgumentParser(
        prog="figures",
        description=(__doc__ or "").partition("\n")[0],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(jobs)} (default: all)")
    parser.add_argument(
        "--out", type=Path, default=FIGURES, metavar="DIR", help="(default: benchmarks/figures)"
    )
    args = parser.parse_args(argv)
    if unknown := [name for name in args.names if name not in jobs]:
        parser.error(f"no figure {', '.join(unknown)}; there are {', '.join(jobs)}")
    return args


def main(argv: list[str] | None = None) -> int:
    args, jobs = _parse(argv), _jobs()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or jobs:
        for path in jobs[name](args.out):
            print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
