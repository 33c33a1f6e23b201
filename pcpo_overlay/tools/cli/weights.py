"""``weights``: the timestep weights and standard deviations of a sampler, as a table, JSON or the paper's Figure 2."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.cli.arguments import at_least, number, whole_number
from pcpo_overlay.tools.cli.parser import OneLineParser
from pcpo_overlay.tools.faults import Fault, told
from pcpo_overlay.tools.weights.table import (
    WeightTable,
    bagel_table,
    dancegrpo_table,
    ddim_table,
    flow_grpo_table,
    wan_table,
)


def add_parser(subparsers: Any) -> None:
    """Add ``weights`` with one subcommand per sampler, so that an option without meaning there is an error."""
    parser = subparsers.add_parser(
        "weights",
        help="timestep weights and standard deviations of a sampler",
        description="Timestep weights and standard deviations of a sampler as a mode resolves them, in rollout "
        'order: the values that run.json keeps under "resolved".',
        epilog="Exit codes: 0 done; 1 the plot could not be written; 2 a wrong argument.",
    )
    samplers = parser.add_subparsers(
        dest="sampler",
        required=True,
        metavar="{ddim,dancegrpo,flow-grpo,flow-grpo-wan,flow-grpo-bagel}",
        parser_class=OneLineParser,
    )

    ddim = _add_sampler(samplers, "ddim", ddim_table, 50, "DDIM on the schedule of Stable Diffusion 1.x")
    ddim.add_argument("--eta", type=number, default=1.0, help="noise of the sampler, in (0, 1] (default: 1)")
    _add_scheduler(ddim)

    dancegrpo = _add_sampler(samplers, "dancegrpo", dancegrpo_table, 12, "DanceGRPO's flow SDE")
    dancegrpo.add_argument("--shift", type=number, default=3.0, help="resolution shift (default: 3)")
    dancegrpo.add_argument("--eta", type=number, default=0.3, help="SDE noise scale (default: 0.3)")

    flow_grpo = _add_sampler(samplers, "flow-grpo", flow_grpo_table, 10, "Flow-GRPO's SDE on SD3's scheduler")
    flow_grpo.add_argument("--shift", type=number, help="resolution shift (default: 3)")
    flow_grpo.add_argument(
        "--noise-level", type=number, default=0.7, metavar="A", help="SDE noise level (default: 0.7)"
    )
    flow_grpo.add_argument(
        "--sde-type",
        choices=("sde", "cps"),
        default="sde",
        help="the trainer's sample.sde_type; cps is for coefficients-preserving steps (default: sde)",
    )
    _add_scheduler(flow_grpo)
    flow_grpo.add_argument(
        "--mu", type=number, help="what a scheduler with dynamic shifting takes for the picture's size"
    )

    wan = _add_sampler(samplers, "flow-grpo-wan", wan_table, 20, "Flow-GRPO's SDE on Wan 2.1's scheduler")
    wan.add_argument("--shift", type=number, help="resolution shift (default: 3)")
    _add_scheduler(wan)

    bagel = _add_sampler(samplers, "flow-grpo-bagel", bagel_table, 14, "Flow-GRPO's SDE on BAGEL's schedule")
    bagel.add_argument("--shift", type=number, default=3.0, help="resolution shift (default: 3)")
    bagel.add_argument(
        "--noise-level", type=number, default=1.3, metavar="A", help="SDE noise level (default: 1.3)"
    )


def _add_scheduler(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scheduler", type=Path, metavar="FILE", help="a model's own scheduler_config.json (needs diffusers)"
    )


def _add_sampler(
    samplers: Any, name: str, table: Callable[..., WeightTable], steps: int, text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = samplers.add_parser(
        name, help=text, description=f"{text}: weights and standard deviations per step.", allow_abbrev=False
    )
    parser.add_argument(
        "--steps", type=whole_number, default=steps, metavar="N", help=f"1 to 1000 (default: {steps})"
    )
    parser.add_argument(
        "--mode",
        default="full",
        metavar="MODE",
        help="mode and options as after PCPO=, e.g. full,variance=native (default: full)",
    )
    parser.add_argument(
        "--trained",
        type=at_least(1),
        metavar="N",
        help="number of steps, the first ones, that the trainer trains (default: "
        f"{'all' if name == 'ddim' else 'all but the last'}); for zeta=trained",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument(
        "--plot", type=_png, metavar="FILE.png", help="draw the paper's Figure 2 into FILE.png"
    )
    parser.set_defaults(func=run, table=table, report_error=parser.error)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print one table; 0 done, 1 the plot could not be written, 2 a wrong value (by exit)."""
    names = ("steps", "shift", "eta", "noise_level", "mode", "trained", "scheduler", "mu", "sde_type")
    try:
        table: WeightTable = args.table(
            **{name: value for name, value in vars(args).items() if name in names}
        )
    except ValueError as error:
        args.report_error(str(error))
        raise
    if table.note:
        print(f"note: {table.note}", file=sys.stderr)
    if args.plot is not None:
        from pcpo_overlay.tools.weights.plot import save_weights_plot

        try:
            save_weights_plot(table, args.plot)
        except OSError as error:
            raise Fault(f"cannot write {args.plot}: {told(error)}") from None
        print(f"wrote {args.plot}", file=sys.stderr)
    print(json.dumps(table.as_dict(), allow_nan=False) if args.json else format_table(table))
    return 0


def format_table(table: WeightTable) -> str:
    """The table as aligned text: a line with the parameters and scalars, the column names, one line per step."""
    values = {**table.parameters, **{name: f"{value:#.6g}" for name, value in table.scalars.items()}}
    headline = "  ".join([table.sampler, table.mode, *(f"{n}={v}" for n, v in values.items())])
    columns = [("step", [str(i) for i in range(table.steps.dt.numel())])]
    for name, column in table.columns():
        pattern = "#.6g" if column.is_floating_point() else "d"
        columns.append((name, [format(value, pattern) for value in column.tolist()]))
    widths = [max(len(name), *map(len, cells)) for name, cells in columns]
    rows = [[name for name, _ in columns], *zip(*(cells for _, cells in columns), strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([headline, *lines])


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"expected a file name ending in .png, got {text!r}")
    return path
