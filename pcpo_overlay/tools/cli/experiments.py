"""``experiments``: the paper's configurations as launch commands of the upstreams, baseline and PCPO."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pcpo_overlay.tools.cli.arguments import at_least, whole_number
from pcpo_overlay.tools.paper import script
from pcpo_overlay.tools.paper.experiments import CONFIGURATIONS, ExperimentError, plan

_DESCRIPTION = """\
Print the launch commands of the paper's ten configurations (Table 7), baseline
and PCPO, with upstream's own value of everything they set, the paper's hardware,
and what upstream as it is cannot do. Nothing is run. The output is a shell
script: all but the commands are comments.
"""
_EPILOG = """\
examples:
  pcpo experiments 6
  pcpo experiments 1 2 --gpus 4

Exit codes: 0 done; 2 a wrong argument, an unknown configuration or a number of
GPUs on which a batch does not divide (a message lists the choices).
"""


def add_parser(subparsers: Any) -> None:
    """Add the ``experiments`` subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "experiments",
        help="the paper's configurations as launch commands",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "numbers",
        nargs="*",
        type=whole_number,
        metavar="N",
        help=f"configurations, {min(CONFIGURATIONS)} to {max(CONFIGURATIONS)} (default: all)",
    )
    parser.add_argument(
        "--gpus",
        type=whole_number,
        metavar="G",
        help="train on this many GPUs of one machine in place of the paper's, with the same images and updates",
    )
    parser.add_argument(
        "--epochs",
        type=at_least(1),
        metavar="N",
        help="train for so many in place of the paper's; of flow_grpo's endless loop the only end",
    )
    parser.add_argument("--json", action="store_true", help="a JSON list instead of the script")
    parser.set_defaults(func=run, report_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Print what was chosen; 0 done, 2 a wrong value (by exit)."""
    numbers = list(dict.fromkeys(args.numbers)) or list(CONFIGURATIONS)
    try:
        experiments = [plan(number, args.gpus, args.epochs) for number in numbers]
    except ExperimentError as error:
        args.report_error(str(error))
        raise
    if args.json:
        print(json.dumps([script.as_dict(experiment) for experiment in experiments], allow_nan=False))
    else:
        print(script.render(experiments))
    return 0
