"""``python -m benchmarks.miniatures.animals STAGE --folder DIR``: train the miniature from nothing, stage by stage."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.miniatures.animals import autoencoder, denoiser, icons, model, nearest, packages, reader
from benchmarks.miniatures.animals.drawings import Artist
from benchmarks.miniatures.animals.resumable import Plan, Report, Training
from pcpo_overlay.tools.cli.arguments import at_least
from pcpo_overlay.tools.faults import Fault, Stopped, WrongArgument
from pcpo_overlay.tools.miniature import require
from pcpo_overlay.tools.miniature.animals import ANIMALS, sd
from pcpo_overlay.tools.miniature.animals.check import check, draw, grid, varied
from pcpo_overlay.tools.miniature.animals.classifier import AnimalClassifier

STEPS = {"autoencoder": 12_000, "denoiser": 15_000, "decoder": 8_000, "reader": 6_000}
LEARNING_RATES = {"autoencoder": 2e-3, "denoiser": 1e-3, "decoder": 1e-3, "reader": 2e-3}
DRAWINGS = 90_000
"""How many the denoiser is trained on: 2,000 of each animal."""

TESTED = 1000
"""Drawings, or samples, that a measure is taken of."""

#: Of the drawings; the reader's are its own, and the tests' too.
SEEDS = {"autoencoder": 1, "denoiser": 2, "decoder": 3, "reader": 4, "test": 5}

_EPILOG = """\
Stages, each from the one before:
  icons        fetch the packages of icons with npm and render them
  autoencoder  train encoder and decoder
  latents      encode the drawings that the denoiser is trained on
  denoiser     train UNet and text encoder
  decoder      train the decoder further; may run beside the denoiser
  reader       train the classifier; needs the icons alone
  pack         write the pipeline and the classifier to DIR/weights
  all          all of these
What it draws then, from DIR/weights:
  check        how much reads as prompted, and how varied it is
  nearest      how near it is to the icons
  grid         a picture of samples, DIR/grid.png

A training writes a checkpoint every two minutes and when Ctrl-C or SIGTERM ends it; the same command
goes on from there.

Exit codes: 0 done; 1 a library or file is missing, or a package is another one; 2 a wrong argument;
130 a training was stopped before its end.
"""


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU
    try:
        _check_device(args.device)
        for stage in ALL if args.stage == "all" else (args.stage,):
            STAGES[stage](args)
    except (Fault, ImportError, OSError, ValueError) as error:
        print(f"animals: {error}", file=sys.stderr)
        return error.code if isinstance(error, Fault) else 1
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="animals",
        description="Train the miniature that draws 45 animals, from nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=(*STAGES, "all"))
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where everything lies")
    parser.add_argument(
        "--steps",
        type=at_least(1),
        metavar="N",
        help="optimizer steps of a training (default: as the shipped weights)",
    )
    parser.add_argument(
        "--batch", type=at_least(1), metavar="N", help="pictures a step (default: as the shipped weights)"
    )
    parser.add_argument(
        "--minutes", type=at_least(1), metavar="N", help="stop a training after so many, to go on later"
    )
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="of torch, to train on (default: cpu)"
    )
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="of torch (default: 1)")
    return parser.parse_args(argv)


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:
        raise WrongArgument(f"--device {name} is no device here: {str(error).splitlines()[0]}") from None


def _icons(args: argparse.Namespace) -> icons.Icons:
    file = args.folder / "icons.pt"
    if file.is_file():
        return icons.Icons(**torch.load(file, weights_only=True))
    require("resvg_py", "PIL", extra="animals")
    rendered = icons.read(packages.fetch(args.folder / "npm"))
    torch.save(vars(rendered), file)
    print(f"{file}: {len(rendered)} icons")
    return rendered


def _artist(args: argparse.Namespace, stage: str) -> Artist:
    # what is measured is measured on the CPU, on the same drawings wherever it was trained
    return Artist(_icons(args), SEEDS[stage], "cpu" if stage == "test" else args.device)


def _plan(args: argparse.Namespace, stage: str) -> Plan:
    ema = 0.999 if stage == "denoiser" else 0.995
    return Plan(steps=args.steps or STEPS[stage], lr=LEARNING_RATES[stage], ema=ema, minutes=args.minutes)


def _options(args: argparse.Namespace, stage: str) -> dict[str, Any]:
    return {"report": _printer(stage), **({"batch": args.batch} if args.batch else {})}


def _printer(stage: str) -> Report:
    """Prints the mean loss of every hundred steps."""
    losses: list[Tensor] = []

    def report(step: int, loss: Tensor) -> None:
        losses.append(loss)
        if len(losses) == 100:
            print(f"{stage} {step}: {float(torch.stack(losses).mean()):.4f}", flush=True)
            losses.clear()

    return report


def _ended(stage: str, done: Training) -> None:
    """Say how far a training came.

    Raises:
        Stopped: not to its end, so that no later stage begins.
    """
    if not done.complete:
        raise Stopped(f"{stage} stopped after {done.steps} of {done.planned} steps; the same command goes on")
    print(f"{stage}: {done.planned} steps", flush=True)


def _autoencoder(args: argparse.Namespace) -> None:
    file = args.folder / "autoencoder.pt"
    done = autoencoder.train(
        _artist(args, "autoencoder"), _plan(args, "autoencoder"), file, **_options(args, "autoencoder")
    )
    _ended("autoencoder", done)
    test = _artist(args, "test")
    vae: Any = done.average.vae.cpu()
    autoencoder.fold_latents(vae, test, TESTED)
    print(f"autoencoder: {autoencoder.psnr(vae, test.draw(TESTED // 4).images):.2f} dB", flush=True)
    torch.save(vae.state_dict(), args.folder / "vae.pt")


def _vae(args: argparse.Namespace) -> Any:
    vae = model.build_vae().eval().requires_grad_(False)
    file = args.folder / "vae_decoded.pt"
    vae.load_state_dict(torch.load(file if file.is_file() else args.folder / "vae.pt", weights_only=True))
    return vae


def _latents(args: argparse.Namespace) -> None:
    found = denoiser.encode(_vae(args), _artist(args, "denoiser"), DRAWINGS).to("cpu")
    torch.save(vars(found), args.folder / "latents.pt")
    print(
        f"latents: {len(found.labels)}, mean {found.means.float().mean():.3f}, std {found.means.float().std():.3f}"
    )


def _denoiser(args: argparse.Namespace) -> None:
    latents = denoiser.Latents(**torch.load(args.folder / "latents.pt", weights_only=True))
    file, plan = args.folder / "denoiser.pt", _plan(args, "denoiser")
    done = denoiser.train(latents, plan, file, device=args.device, **_options(args, "denoiser"))
    _ended("denoiser", done)


def _decoder(args: argparse.Namespace) -> None:
    vae = _vae(args)
    test = _artist(args, "test").draw(TESTED // 4).images
    before = autoencoder.psnr(vae, test)
    done = autoencoder.train_decoder(
        vae,
        _artist(args, "decoder"),
        _plan(args, "decoder"),
        args.folder / "decoder.pt",
        **_options(args, "decoder"),
    )
    _ended("decoder", done)
    vae.cpu()
    torch.save(vae.state_dict(), args.folder / "vae_decoded.pt")
    print(f"decoder: from {before:.2f} to {autoencoder.psnr(vae, test):.2f} dB", flush=True)


def _reader(args: argparse.Namespace) -> None:
    done = reader.train(
        _artist(args, "reader"), _plan(args, "reader"), args.folder / "reader.pt", **_options(args, "reader")
    )
    _ended("reader", done)
    animal, style = reader.accuracy(done.average.cpu(), _artist(args, "test").draw(TESTED))
    print(
        f"reader: {animal:.1%} of the animals and {style:.1%} of the styles of {TESTED} drawings that it never saw"
    )


def _pack(args: argparse.Namespace) -> None:
    from safetensors.torch import save_file

    networks = denoiser.read(args.folder / "denoiser.pt")
    folder = model.save_pipeline(
        args.folder / "weights" / "sd",
        unet=networks.unet,
        vae=_vae(args),
        text_encoder=networks.text_encoder,
    )
    classifier = AnimalClassifier().eval()
    classifier.load_state_dict(torch.load(args.folder / "reader.pt", weights_only=True)["averages"])
    drawn = _artist(args, "test").draw_animals(torch.arange(TESTED) % len(ANIMALS))
    animal, style = reader.accuracy(classifier, drawn)
    data = vars(varied(classifier, drawn.images, drawn.animals))
    measured = {"data": data, "accuracy": {"animals": animal, "styles": style}, "drawings": TESTED}
    file = args.folder / "weights" / "classifier.safetensors"
    save_file(
        {name: value.half().contiguous() for name, value in classifier.state_dict().items()},
        str(file),
        {"format": "pt", **{name: json.dumps(value) for name, value in measured.items()}},
    )
    file.chmod(0o644)  # safetensors leaves a file that only its owner may read
    print(f"{folder} and {file} are written; of {TESTED} drawings: {measured}")


def _check(args: argparse.Namespace) -> None:
    """As ``pcpo miniature check animals`` does for what is shipped."""
    weights = args.folder / "weights"
    pipeline = sd.load_pipeline(weights / "sd")
    result = check(pipeline, samples=TESTED, classifier=weights / "classifier.safetensors", **sd.SETTINGS[0])
    print("\n".join(result.lines()))
    if result.missed is not None:
        print(f"below the bar: {result.missed}")


def _grid(args: argparse.Namespace) -> None:
    print(grid(sd.load_pipeline(args.folder / "weights" / "sd"), args.folder / "grid.png", **sd.SETTINGS[0]))


def _nearest(args: argparse.Namespace) -> None:
    known = _icons(args)
    pipeline = sd.load_pipeline(args.folder / "weights" / "sd")
    labels = torch.arange(TESTED) % len(ANIMALS)
    samples = draw(pipeline, labels, **sd.SETTINGS[0])
    drawn = _artist(args, "test").draw_animals(labels)
    with torch.no_grad():
        seen = [pipeline.vae.encode(2 * chunk - 1).latent_dist.mean for chunk in drawn.images.split(64)]
        decoded = torch.cat([(pipeline.vae.decode(z).sample / 2 + 0.5).clamp(0, 1) for z in seen])
    own = nearest.nearest(decoded, labels, known).distances
    other = nearest.nearest(decoded, labels, known, apart_from=drawn.icons).distances
    found = nearest.nearest(samples, labels, known).distances
    print(f"difference in colour to the nearest icon of the animal, median of {TESTED}:")
    print(f"  samples                         {found.median():.3f}")
    print(f"  drawings, their own icon        {own.median():.3f}")
    print(f"  drawings, their own left out    {other.median():.3f}")
    print(
        f"{(found < own.quantile(0.95)).double().mean():.0%} of the samples are as near as 95% of the drawings"
    )


STAGES: dict[str, Callable[[argparse.Namespace], object]] = {
    "icons": _icons,
    "autoencoder": _autoencoder,
    "latents": _latents,
    "denoiser": _denoiser,
    "decoder": _decoder,
    "reader": _reader,
    "pack": _pack,
    "check": _check,
    "nearest": _nearest,
    "grid": _grid,
}
ALL = ("icons", "autoencoder", "latents", "denoiser", "decoder", "reader", "pack")


if __name__ == "__main__":
    raise SystemExit(main())
