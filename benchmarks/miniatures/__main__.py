"""``python -m benchmarks.miniatures MODEL --out PATH``: train one from nothing."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks.miniatures import (
    model_flux,
    model_sd,
    model_sd3,
    train_classifier,
    train_flux,
    train_sd,
    train_sd3,
)
from benchmarks.miniatures.layout import COMMAND
from pcpo_overlay.tools.cli.arguments import at_least
from pcpo_overlay.tools.faults import Fault
from pcpo_overlay.tools.folders import FolderError, check_writable
from pcpo_overlay.tools.miniature import classifier, flux, sd, sd3
from pcpo_overlay.tools.miniature.digits import load_digits
from pcpo_overlay.tools.progress import bar

_EPILOG = """\
The shipped weights lie in pcpo_overlay/tools/miniature/weights; what is trained
here takes their place by hand.

Exit codes: 0 done; 1 a library or file is missing, or there is something else
at PATH; 2 a wrong argument.
"""


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    try:
        train = {"sd": _sd, "sd3": _sd3, "flux": _flux, "classifier": _classifier}[args.model]
        train(args)
    except (Fault, ImportError, OSError, ValueError) as error:
        print(f"miniatures: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="miniatures",
        description="Train a miniature model of handwritten digits from nothing: about half an hour on one CPU core, "
        "the classifier less.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", choices=("sd", "sd3", "flux", "classifier"))
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder to write, or for the classifier the file; not one that holds anything else",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="of torch (default: 1)")
    parser.add_argument(
        "--steps", type=at_least(1), metavar="N", help="optimizer steps (default: as the shipped weights)"
    )
    parser.add_argument(
        "--vae", type=Path, metavar="DIR", help="reuse the autoencoder of this pipeline folder"
    )
    return parser.parse_args(argv)


def _classifier(args: argparse.Namespace) -> None:
    if args.out.exists():
        raise FolderError(f"{args.out} is there already; move it away or choose another name")
    steps = args.steps or 2500
    with bar("classifier", steps) as report:
        model = train_classifier.train_classifier(steps=steps, seed=args.seed, report=report)
    test = load_digits("test")
    accuracy = classifier.accuracy(model, test.images, test.labels)
    train_classifier.save_classifier(model, args.out, test_accuracy=accuracy)
    print(f"{args.out}: reads {accuracy:.2%} of {len(test)} held-out real digits")


def _sd(args: argparse.Namespace) -> None:
    recipe = train_sd.Recipe(seed=args.seed)
    if args.steps is not None:
        recipe = replace(recipe, unet_steps=args.steps)
    vae, latents = _autoencoder(args, sd, train_sd, recipe)
    with bar("text encoder and UNet", recipe.unet_steps) as report:
        unet, text_encoder = train_sd.train_unet(latents, recipe, report)
    model_sd.save_pipeline(args.out, unet=unet, vae=vae, text_encoder=text_encoder)
    _done(args)


def _sd3(args: argparse.Namespace) -> None:
    recipe = train_sd3.Recipe(seed=args.seed)
    if args.steps is not None:
        full = round(args.steps * recipe.full_steps / recipe.steps)
        recipe = replace(recipe, short_steps=args.steps - full, full_steps=full)
    _flow(args, sd3, model_sd3, train_sd3, recipe)


def _flux(args: argparse.Namespace) -> None:
    recipe = train_flux.Recipe(seed=args.seed)
    if args.steps is not None:
        recipe = replace(recipe, steps=args.steps)
    _flow(args, flux, model_flux, train_flux, recipe)


def _flow(
    args: argparse.Namespace, loading: ModuleType, model: ModuleType, training: ModuleType, recipe: Any
) -> None:
    """A flow model: the modules that load it, have its architecture, and train it."""
    vae, latents = _autoencoder(args, loading, training, recipe)
    with bar("text encoders and transformer", recipe.steps) as report:
        transformer, text_encoders = training.train_transformer(latents, recipe, report)
    model.save_pipeline(args.out, transformer=transformer, vae=vae, text_encoders=text_encoders)
    _done(args)


def _autoencoder(
    args: argparse.Namespace, loading: ModuleType, training: ModuleType, recipe: Any
) -> tuple[Any, train_sd.Latents]:
    """The autoencoder, trained or taken from another folder, and the digits as it encodes them."""
    check_writable(args.out, COMMAND)
    if args.vae is not None:
        vae = loading.load_pipeline(args.vae).vae.eval().requires_grad_(False)
    else:
        with bar("autoencoder", recipe.vae_steps) as report:
            vae = training.train_vae(recipe, report)
    return vae, train_sd.encode_train_split(vae, copies=recipe.copies, seed=recipe.seed)


def _done(args: argparse.Namespace) -> None:
    print(f"{args.out}: trained; now run: pcpo miniature check {args.model} --path {args.out}")


if __name__ == "__main__":
    raise SystemExit(main())
