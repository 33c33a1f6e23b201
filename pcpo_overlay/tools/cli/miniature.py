"""``pcpo miniature {check,grid,prepare}``: the miniatures that write digits, and the one that draws animals."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from pcpo_overlay.tools.cli.arguments import at_least, number, seed
from pcpo_overlay.tools.faults import WrongArgument, complain
from pcpo_overlay.tools.progress import bar

MODELS = ("sd", "sd3", "flux", "animals")


def add_parser(subparsers: Any) -> None:
    """Add ``miniature`` and its actions."""
    parser = subparsers.add_parser(
        "miniature",
        help="check or show the miniature models of handwritten digits and of animals",
        description="Miniatures of Stable Diffusion 1.x (sd) and 3 (sd3) and of FLUX (flux) of handwritten digits, "
        "and of Stable Diffusion 1.x of animals in colour (animals), with their weights.",
        epilog="Exit codes: 0 done; 1 the check missed its bar, a library is missing, or a model cannot be loaded; "
        "2 a wrong argument.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    check = actions.add_parser("check", help="read samples with a classifier of real digits, or of animals")
    check.add_argument("model", choices=MODELS)
    check.add_argument(
        "--samples", type=at_least(1), default=1000, help="at least 20, of animals 90 (default: 1000)"
    )
    check.add_argument("--json", action="store_true", help="one JSON object on stdout for each sampler")

    grid = actions.add_parser("grid", help="draw a picture of samples, one row per prompt")
    grid.add_argument("model", choices=MODELS)
    grid.add_argument("--out", type=Path, required=True, help="PNG file to write")
    grid.add_argument("--columns", type=at_least(1), default=8, help="samples per prompt (default: 8)")

    prepare = actions.add_parser(
        "prepare", help="write what DanceGRPO's trainers read, as `pcpo ab dancegrpo` does by itself"
    )
    prepare.add_argument(
        "folder", type=Path, metavar="DIR", help="folder to write; not one that holds anything else"
    )
    prepare.add_argument(
        "--animals", action="store_true", help="of animals, for the SD trainer alone (default: of digits)"
    )
    prepare.set_defaults(func=run, task=_prepare)

    for action in (check, grid):
        action.add_argument("--path", type=Path, help="pipeline folder (default: the shipped one)")
        action.add_argument(
            "--guidance",
            type=number,
            help="guidance scale (default: 5.0 for sd, 4.5 for sd3, 3.0 for animals); of flux what the network is "
            "told (3.5)",
        )
        action.add_argument(
            "--steps",
            type=at_least(1),
            help="sd: DDIM steps (default: 50; animals: 20). sd3: 10 of Flow-GRPO's SDE, as it samples to train, "
            "or 40 without noise, as it evaluates "
            + ("(default: both in turn)" if action is check else "(default: 10)")
            + "; flux: of DanceGRPO's SDE (default: 16)",
        )
        action.add_argument(
            "--noise-level", type=number, metavar="A", help="sd3 alone: that of the SDE, 0.7, or 0 for none"
        )
        action.add_argument(
            "--eta",
            type=number,
            metavar="A",
            help="sd, animals: DDIM's, 1; flux: of the SDE, 0.3, or 0 for none",
        )
        action.add_argument("--seed", type=seed, default=0 if action is check else 1)
    check.set_defaults(func=run, task=_check)
    grid.set_defaults(func=run, task=_grid)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    try:
        code: int = args.task(args)
    except ValueError as error:  # of a number that the sampler does not take
        raise WrongArgument(str(error)) from None
    return code


def samplers(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The settings of each sampler asked for: the model's own that agree with what was given.

    Where none does, the first of them with what was given in its place.
    """
    known = _family(args.model).SETTINGS
    given = {"steps": args.steps, "noise_level": args.noise_level, "eta": args.eta}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - known[0].keys():
        others = ", ".join(f"{key.replace('_', '-')} {value:g}" for key, value in known[0].items())
        raise ValueError(f"{args.model} has no --{name.replace('_', '-')}; its sampler has {others}")
    chosen = [settings for settings in known if given.items() <= settings.items()] or [{**known[0], **given}]
    if args.guidance is not None:
        chosen = [{**settings, "guidance": args.guidance} for settings in chosen]
    return chosen


def _family(model: str) -> ModuleType:
    """The module with a model's ``load_pipeline`` and ``SETTINGS``."""
    from pcpo_overlay.tools.miniature.animals import sd
    from pcpo_overlay.tools.miniature.check import FAMILIES

    return {**FAMILIES, "animals": sd}[model]


def _judge(model: str) -> ModuleType:
    """The module with the ``check`` and ``grid`` of what a model draws."""
    from pcpo_overlay.tools.miniature import check
    from pcpo_overlay.tools.miniature.animals import check as animals

    return animals if model == "animals" else check


def _check(args: argparse.Namespace) -> int:
    chosen, pipeline = samplers(args), _family(args.model).load_pipeline(args.path)
    code = 0
    for settings in chosen:
        title = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items())
        with bar("sampling", args.samples) as report:
            result = _judge(args.model).check(
                pipeline, samples=args.samples, seed=args.seed, report=report, **settings
            )
        if args.json:
            print(json.dumps(result.to_json()), flush=True)
        else:
            if len(chosen) > 1:
                print(f"{title}:")
            print("\n".join(result.lines()))
        if result.missed is not None:
            complain("pcpo miniature", f"{result.missed} ({title})")
            code = 1
    return code


def _grid(args: argparse.Namespace) -> int:
    settings, pipeline = samplers(args)[0], _family(args.model).load_pipeline(args.path)
    _judge(args.model).grid(pipeline, args.out, columns=args.columns, seed=args.seed, **settings)
    print(args.out)
    return 0


def _prepare(args: argparse.Namespace) -> int:
    from pcpo_overlay.tools.miniature.dancegrpo.data import prepare

    print(prepare(args.folder, animals=args.animals))
    return 0
