"""``pcpo miniature {train,check,grid,prepare}``: the miniature Stable Diffusions that write digits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.cli.arguments import at_least

MODELS = ("sd", "sd3", "flux")
BAR = 0.90
"""Share of samples that must read as prompted for `check` to succeed."""


def add_parser(subparsers: Any) -> None:
    """Add ``miniature`` and its actions."""
    parser = subparsers.add_parser(
        "miniature",
        help="train, check or show the miniature models of handwritten digits",
        description="Miniatures of Stable Diffusion 1.x (sd) and 3 (sd3) and of FLUX (flux) of handwritten digits, "
        "with their weights.",
        epilog="Exit codes: 0 done; 1 the check missed its bar, or a library or file is missing; 2 a wrong argument.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    train = actions.add_parser(
        "train", help="train one from nothing (about half an hour on one CPU core; the classifier less)"
    )
    train.add_argument("model", choices=(*MODELS, "classifier"))
    train.add_argument(
        "--out", type=Path, help="folder or, for the classifier, file to write; default: the package's own"
    )
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--threads", type=at_least(1), default=1, help="torch threads (default: 1)")
    train.add_argument("--steps", type=at_least(1), help="optimizer steps (default: as the shipped weights)")
    train.add_argument(
        "--vae", type=Path, metavar="DIR", help="reuse the autoencoder of this pipeline folder"
    )

    check = actions.add_parser("check", help="read samples with a classifier of real digits")
    check.add_argument("model", choices=MODELS)
    check.add_argument("--samples", type=at_least(1), default=1000, help="at least 20 (default: 1000)")
    check.add_argument("--json", action="store_true", help="one JSON object on stdout for each sampler")

    grid = actions.add_parser("grid", help="draw a picture of samples, one row per prompt")
    grid.add_argument("model", choices=MODELS)
    grid.add_argument("--out", type=Path, required=True, help="PNG file to write")
    grid.add_argument("--columns", type=at_least(1), default=8, help="samples per prompt (default: 8)")

    prepare = actions.add_parser(
        "prepare", help="write what DanceGRPO's trainers read, as `pcpo ab dancegrpo` does by itself"
    )
    prepare.add_argument("folder", type=Path, metavar="DIR", help="folder to write")
    prepare.set_defaults(func=run, task=_prepare)

    for action in (check, grid):
        action.add_argument("--path", type=Path, help="pipeline folder (default: the shipped one)")
        action.add_argument(
            "--guidance",
            type=float,
            help="guidance scale (default: 5.0 for sd, 4.5 for sd3); of flux what the network is told (3.5)",
        )
        action.add_argument(
            "--steps",
            type=at_least(1),
            help="sd: DDIM steps (default: 50). sd3: 10 of Flow-GRPO's SDE, as it samples to train, "
            "or 40 without noise, as it evaluates "
            + ("(default: both in turn)" if action is check else "(default: 10)")
            + "; flux: of DanceGRPO's SDE (default: 16)",
        )
        action.add_argument(
            "--noise-level", type=float, metavar="A", help="sd3 alone: that of the SDE, 0.7, or 0 for none"
        )
        action.add_argument(
            "--eta", type=float, metavar="A", help="sd: DDIM's, 1; flux: of the SDE, 0.3, or 0 for none"
        )
        action.add_argument("--seed", type=int, default=0 if action is check else 1)
    train.set_defaults(func=run, task=_train)
    check.set_defaults(func=run, task=_check)
    grid.set_defaults(func=run, task=_grid)


def run(args: argparse.Namespace) -> int:
    """Run the action; a user's mistake is one line on stderr."""
    try:
        code: int = args.task(args)
    except ValueError as error:
        print(f"pcpo miniature: {error}", file=sys.stderr)
        return 2
    except (ImportError, OSError) as error:
        print(f"pcpo miniature: {error}", file=sys.stderr)
        return 1
    return code


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A rich progress bar on stderr; the yielded function takes the steps done and, if any, the loss."""
    from pcpo_overlay.tools.miniature import require

    require("rich")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, loss="")
        smooth = float("nan")

        def report(done: int, loss: float | None = None) -> None:
            nonlocal smooth
            if loss is not None:
                smooth = loss if smooth != smooth else 0.98 * smooth + 0.02 * loss
                progress.update(task, completed=done, loss=f"loss {smooth:.4f}")
            else:
                progress.update(task, completed=done)

        yield report


def _train(args: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(args.threads)
    tasks = {"sd": _train_sd, "sd3": _train_sd3, "flux": _train_flux, "classifier": _train_classifier}
    return tasks[args.model](args)


def _train_classifier(args: argparse.Namespace) -> int:
    from pcpo_overlay.tools.miniature import classifier as reader
    from pcpo_overlay.tools.miniature.digits import load_digits

    steps = args.steps or 2500
    with _bar("classifier", steps) as report:
        model = reader.train_classifier(steps=steps, seed=args.seed, report=report)
    test = load_digits("test")
    accuracy = reader.accuracy(model, test.images, test.labels)
    out = args.out or reader.classifier_path()
    reader.save_classifier(model, out, test_accuracy=accuracy)
    print(f"{out}: reads {accuracy:.2%} of {len(test)} held-out real digits")
    return 0


def _train_sd(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from pcpo_overlay.tools.miniature import WEIGHTS, sd, train

    recipe = train.Recipe(seed=args.seed)
    if args.steps is not None:
        recipe = replace(recipe, unet_steps=args.steps)
    if args.vae is not None:
        vae = sd.load_pipeline(args.vae).vae.eval().requires_grad_(False)
    else:
        with _bar("autoencoder", recipe.vae_steps) as report:
            vae = train.train_vae(recipe, report)
    out: Path = args.out or WEIGHTS / "sd"
    latents = train.encode_train_split(vae, copies=recipe.copies, seed=recipe.seed)
    with _bar("text encoder and UNet", recipe.unet_steps) as report:
        unet, text_encoder = train.train_unet(latents, recipe, report)
    sd.save_pipeline(out, unet=unet, vae=vae, text_encoder=text_encoder)
    print(f"{out}: trained; now run: pcpo miniature check sd --path {out}")
    return 0


def _train_sd3(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from pcpo_overlay.tools.miniature import sd3, train_sd3

    recipe = train_sd3.Recipe(seed=args.seed)
    if args.steps is not None:
        full = round(args.steps * recipe.full_steps / recipe.steps)
        recipe = replace(recipe, short_steps=args.steps - full, full_steps=full)
    return _train_flow(args, sd3, train_sd3, recipe)


def _train_flux(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from pcpo_overlay.tools.miniature import flux, train_flux

    recipe = train_flux.Recipe(seed=args.seed)
    if args.steps is not None:
        recipe = replace(recipe, steps=args.steps)
    return _train_flow(args, flux, train_flux, recipe)


def _train_flow(args: argparse.Namespace, model: Any, training: Any, recipe: Any) -> int:
    """Train a miniature of a flow model: `model` is the module of its architecture, `training` that of its training."""
    from pcpo_overlay.tools.miniature import WEIGHTS, train

    if args.vae is not None:
        vae = model.load_pipeline(args.vae).vae.eval().requires_grad_(False)
    else:
        with _bar("autoencoder", recipe.vae_steps) as report:
            vae = training.train_vae(recipe, report)
    out: Path = args.out or WEIGHTS / args.model
    latents = train.encode_train_split(vae, copies=recipe.copies, seed=recipe.seed)
    with _bar("text encoders and transformer", recipe.steps) as report:
        transformer, text_encoders = training.train_transformer(latents, recipe, report)
    model.save_pipeline(out, transformer=transformer, vae=vae, text_encoders=text_encoders)
    print(f"{out}: trained; now run: pcpo miniature check {args.model} --path {out}")
    return 0


def samplers(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The settings of each sampler asked for: the model's own that agree with what was given.

    Where none does, the first of them with what was given in its place.
    """
    from pcpo_overlay.tools.miniature.check import FAMILIES

    known = FAMILIES[args.model].SETTINGS
    given = {"steps": args.steps, "noise_level": args.noise_level, "eta": args.eta}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - known[0].keys():
        others = ", ".join(f"{key.replace('_', '-')} {value:g}" for key, value in known[0].items())
        raise ValueError(f"{args.model} has no --{name.replace('_', '-')}; its sampler has {others}")
    chosen = [settings for settings in known if given.items() <= settings.items()] or [{**known[0], **given}]
    if args.guidance is not None:
        chosen = [{**settings, "guidance": args.guidance} for settings in chosen]
    return chosen


def _load(args: argparse.Namespace) -> Any:
    from pcpo_overlay.tools.miniature.check import FAMILIES

    return FAMILIES[args.model].load_pipeline(args.path)


def _check(args: argparse.Namespace) -> int:
    from pcpo_overlay.tools.miniature import DIGIT_NAMES
    from pcpo_overlay.tools.miniature.check import check

    chosen, pipeline = samplers(args), _load(args)
    code = 0
    for settings in chosen:
        title = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items())
        with _bar("sampling", args.samples) as report:
            result = check(pipeline, samples=args.samples, seed=args.seed, report=report, **settings)
        if args.json:
            print(json.dumps(result.to_json()), flush=True)
        else:
            if len(chosen) > 1:
                print(f"{title}:")
            for name, share in zip(DIGIT_NAMES, result.per_digit, strict=True):
                print(f"  {name:6} {share:7.1%}")
            print(f"{result.accuracy:.1%} of {result.samples} samples read as prompted (bar: {BAR:.0%})")
            print(
                f"spread of a pixel within a digit: {result.spread:.3f} (real digits {result.spread_real:.3f})"
            )
            print(
                f"to the nearest training picture: {result.nearest:.3f} "
                f"(held-out digits {result.nearest_real:.3f})"
            )
        if result.accuracy < BAR:
            print(
                f"pcpo miniature: {result.accuracy:.1%} read as prompted, below {BAR:.0%} ({title})",
                file=sys.stderr,
            )
            code = 1
    return code


def _grid(args: argparse.Namespace) -> int:
    from pcpo_overlay.tools.miniature.check import grid

    settings = samplers(args)[0]
    grid(_load(args), args.out, columns=args.columns, seed=args.seed, **settings)
    print(args.out)
    return 0


def _prepare(args: argparse.Namespace) -> int:
    from pcpo_overlay.tools.miniature.dancegrpo.data import prepare

    print(prepare(args.folder))
    return 0
