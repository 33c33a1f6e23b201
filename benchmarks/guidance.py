"""Implicit reward guidance on a miniature: the paper's Figures 13 and 14, and both rewards over lambda.

    python -m benchmarks.guidance [options]

Trains two experts with ddpo-pytorch's own script, one on the probability of the prompted digit and one on JPEG
compressibility, draws pictures of each and of their mixes with `pcpo sample --expert`, and writes
benchmarks/data/guidance.json and the figures. Needs a patched clone (`python apply.py ddpo-pytorch`). Minutes on a CPU;
what is finished is not repeated, so type the same command again to go on after a stop.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.measuring import machine
from benchmarks.measuring.guidance_figure import DIGIT, FIGURE, JPEG, REWARDS, Guided, Point
from benchmarks.measuring.study import python
from pcpo_overlay.tools.cli.arguments import at_least
from pcpo_overlay.tools.faults import Fault, complain

FIGURES = ROOT / "benchmarks" / "figures"
DATA = ROOT / "benchmarks" / "data" / "guidance.json"
EPOCHS, SEEDS = 31, 20
#: As the experts are trained, so are pictures drawn: 10 steps of DDIM, and no guidance of the usual kind.
TRAINED = ("--config.sample.num_steps=10", "--config.sample.guidance_scale=1.0", "--config.train.cfg=False")
DRAWN = ("--model", "miniature-sd", "--prompts", "digits", "--steps", "10", "--guidance", "1")
#: Strengths of one expert, and of each of two.
ALONE = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
MIXED = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Of the pictures that are shown: prompts of the sheets, and the prompt and seed of the grid over two experts.
ROWS, SHOWN = 5, ("00003", 0)
_EPILOG = """\
Exit codes: 0 done; 1 a training or a drawing failed (its command says why; the
same command again repeats only that); 2 a wrong argument; 130 stopped by Ctrl-C.
"""


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    out = args.out.resolve()
    try:
        for name in REWARDS:
            code = _train(name, out, args.epochs)
            if code:
                complain("guidance", f"the expert of {name} is not trained; type the same command to go on")
                return 130 if code == 130 else 1
        points = [
            Point.of(strengths, rewards(_drawn(strengths, out, args.seeds))) for strengths in every_mix()
        ]
        described = machine.describe(seed=0)
        source = (
            f"{described['command']}, {described['date'][:10]}, {described['name']}, torch "
            f"{described['versions']['torch']}, experts of seed 0 and {args.epochs} epochs, pictures of seeds 0 to "
            f"{args.seeds - 1}"
        )
        Guided(source, len(rewards(_folder({}, out))[DIGIT]), points).write(args.data)
        for path in pictures(out, args.figures):
            print(path)
    except KeyboardInterrupt:
        return 130
    except Fault as error:
        complain("guidance", error)
        return error.code
    from pcpo_overlay.tools.report.build import save

    save(Guided.read(args.data).figure(), args.figures / FIGURE)
    print(args.figures / FIGURE)
    return 0


def every_mix() -> list[dict[str, float]]:
    """The strengths of every set of pictures; those of 0 are left out, so that the base model comes once."""
    pairs = [(strength, 0.0) for strength in ALONE] + [(0.0, strength) for strength in ALONE]
    pairs += [(digit, jpeg) for digit in MIXED for jpeg in MIXED]
    mixes = [{DIGIT: digit, JPEG: jpeg} for digit, jpeg in dict.fromkeys(pairs)]
    return [{name: strength for name, strength in mix.items() if strength} for mix in mixes]


def _train(name: str, out: Path, epochs: int) -> int:
    """Train an expert through ``ab``, with a checkpoint after the last epoch."""
    words = ["-m", "pcpo_overlay", "ab", "ddpo", "--modes", "full", "--epochs", str(epochs), "--jobs", "1"]
    words += ["--out", str(out / name), "--", *TRAINED, f"--config.save_freq={epochs - 1}"]
    print(f"guidance: training the expert of {name}", file=sys.stderr, flush=True)
    return subprocess.run(python([*words, f"--config.reward_fn={name}"]), cwd=ROOT, check=False).returncode


def _folder(strengths: Mapping[str, float], out: Path) -> Path:
    told = [f"{name.partition('_')[0]}-{strength:g}" for name, strength in strengths.items()]
    return out / "pictures" / ("_".join(told) or "base")


def _drawn(strengths: Mapping[str, float], out: Path, seeds: int) -> Path:
    """Draw a mix.

    Raises:
        Fault: it failed; the command has said why.
    """
    from pcpo_overlay.__main__ import main as pcpo

    folder = _folder(strengths, out)
    words = ["sample", *DRAWN, "--seeds", f"0-{seeds - 1}", "--batch", str(seeds), "--out", str(folder)]
    for name, strength in strengths.items():
        words += ["--expert", f"{out / name / 'full-seed0'}={strength:g}"]
    if pcpo(words):
        raise Fault(f"{folder} is not drawn; type the same command to go on")
    return folder


def rewards(folder: Path) -> dict[str, list[float]]:
    """Both rewards of a folder's PNGs, as ddpo-pytorch and the miniature give them in training."""
    import torch
    from PIL import Image

    from pcpo_overlay.tools.miniature.rewards import digit_probability
    from pcpo_overlay.tools.sample.folder import load

    opened = load(folder)
    held = opened.pictures()
    pixels = torch.stack([opened.read(picture) for picture in held])
    sizes = []
    for one in pixels:
        file = io.BytesIO()
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=95)
        sizes.append(-file.tell() / 1000)
    digits = digit_probability(pixels, [picture.text for picture in held])
    return {DIGIT: digits.tolist(), JPEG: sizes}


def pictures(out: Path, figures: Path) -> list[Path]:
    """A sheet over lambda for each expert, and a grid over two."""
    from pcpo_overlay.tools.report.build import save
    from pcpo_overlay.tools.sample.folder import load
    from pcpo_overlay.tools.sample.sheet import sheet

    made = []
    for name in REWARDS:
        folders = [load(_folder({name: strength} if strength else {}, out)) for strength in ALONE]
        path = figures / f"guidance-{name.partition('_')[0]}.png"
        made.append(sheet(folders, path, labels=[f"{s:g}" for s in ALONE], rows=ROWS, cell=64))
    save(_two(out), figures / "guidance-two.png")
    return [*made, figures / "guidance-two.png"]


def _two(out: Path) -> Any:
    """One picture at every pair of strengths: down more of the digit's expert, to the right more of JPEG's."""
    import matplotlib.image

    from pcpo_overlay.tools import palette

    prompt, seed = SHOWN
    figure = palette.new_figure(5.2, 5.2)
    for axes, (digit, jpeg) in zip(
        figure.subplots(len(MIXED), len(MIXED)).flat, ((d, j) for d in MIXED for j in MIXED), strict=True
    ):
        strengths = {name: s for name, s in ((DIGIT, digit), (JPEG, jpeg)) if s}
        axes.imshow(
            matplotlib.image.imread(_folder(strengths, out) / prompt / f"{seed}.png"), interpolation="nearest"
        )
        axes.set_xticks([])
        axes.set_yticks([])
        if digit == MIXED[0]:
            axes.set_title(f"JPEG {jpeg:g}", fontsize="small")
        if jpeg == MIXED[0]:
            axes.set_ylabel(f"digit {digit:g}", fontsize="small")
    return figure


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="guidance",
        description=(__doc__ or "").partition("\n")[0],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--epochs", type=at_least(2), default=EPOCHS, help="of an expert (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=at_least(2), default=SEEDS, help="of a prompt (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("pcpo_ab") / "guidance", metavar="DIR", help="of runs and pictures"
    )
    parser.add_argument("--data", type=Path, default=DATA, metavar="FILE", help="(default: benchmarks/data)")
    parser.add_argument(
        "--figures", type=Path, default=FIGURES, metavar="DIR", help="(default: benchmarks/figures)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
