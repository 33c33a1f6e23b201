"""What the arms of a miniature's study draw: side by side at the same reward, and one picture over the epochs.

    python -m benchmarks.pictures matched RUN ... --prompts cat,dog,whale --out FILE
    python -m benchmarks.pictures film RUN ... --prompts cat --out FILE

Needs runs with checkpoints that `pcpo evaluate` measured. Every picture of a row starts from the same noise, and is
given the same noise on its way. The numbers below a column are those of the checkpoint's evaluation, over all prompts;
they are in the PNG too, with the sha256 of what was drawn from, as its Description.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from pcpo_overlay.files import sha256, write_atomically
from pcpo_overlay.tools import palette
from pcpo_overlay.tools.checkpoints import Checkpoint
from pcpo_overlay.tools.cli.arguments import at_least, number
from pcpo_overlay.tools.cli.arguments import seeds as whole_numbers
from pcpo_overlay.tools.cli.sample import quiet_libraries
from pcpo_overlay.tools.evaluate.run import BASE, Request, Subject, subject_of
from pcpo_overlay.tools.faults import Fault, WrongArgument, complain
from pcpo_overlay.tools.runs.labels import names
from pcpo_overlay.tools.runs.run import Run, load

#: Inches of a picture's side.
SIDE = 0.55
#: What is told of a column, where it was measured.
TOLD = ("reward", "accuracy", "diversity", "styles")
_EPILOG = """\
Exit codes: 0 done; 1 a run is not evaluated, or cannot be drawn from; 2 a wrong
argument.
"""


@dataclass(frozen=True)
class Drawn:
    """A policy of a run, as far as a reader wants to know it.

    Attributes:
        arm: its name for people.
        run: the run folder's name.
        epoch: epochs of training before it.
        values: of its evaluation, over all prompts.
        sha256: of its weights.
    """

    arm: str
    run: str
    epoch: int
    values: dict[str, float]
    sha256: str


@dataclass(frozen=True)
class Arm:
    """A run with its evaluated policies: the base model and those checkpoints that are still there."""

    name: str
    subject: Subject
    policies: dict[int, tuple[Checkpoint | None, Drawn]]

    @classmethod
    def of(cls, run: Run, arm: str) -> Arm:
        """Of a run, and its name for people.

        Raises:
            Fault: it is no run on a miniature, or is not evaluated.
        """
        folder = run.path
        subject = subject_of(run, Request(None, 0))
        checkpoints: dict[str, Checkpoint | None] = {BASE: None}
        checkpoints |= {found.name: found for found in subject.loader.checkpoints(run)}
        policies = {}
        for record in run.quality:
            if record["checkpoint"] not in checkpoints:
                continue
            found = checkpoints[record["checkpoint"]]
            if found is not None and sha256(found.weights) != record["sha256"]:
                raise Fault(f"{found.weights} is not what was evaluated; type pcpo evaluate {folder}")
            drawn = Drawn(arm, folder.name, record["epoch"], record["overall"], record["sha256"])
            policies[record["epoch"]] = (found, drawn)
        if len(policies) < 2:
            raise Fault(f"{folder} is not evaluated; type pcpo evaluate {folder}")
        return cls(arm, subject, policies)

    def at(self, epoch: int) -> Drawn:
        """The policy after so many epochs."""
        return self.policies[epoch][1]

    def nearest(self, reward: float) -> int:
        """After how many epochs the evaluated reward is nearest to this one; of equals the first."""
        return min(self.policies, key=lambda epoch: (abs(self.at(epoch).values["reward"] - reward), epoch))

    def draw(self, epoch: int, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Pictures of each prompt, (N, seeds, 3, H, W) in [0, 1]; the same noise for the same prompts and seed."""
        pipeline, sample = self.subject.policy(self.policies[epoch][0]), self.subject.loader.sample
        drawn = [sample(pipeline, prompts, seed=seed, **self.subject.sampler) for seed in seeds]
        return torch.stack(drawn, dim=1)


def matched_reward(arms: Sequence[Arm]) -> float:
    """The highest evaluated reward that every arm has at some checkpoint: the least of their best."""
    return min(max(drawn.values["reward"] for _, drawn in arm.policies.values()) for arm in arms)


def matched(
    arms: Sequence[Arm], prompts: Sequence[str], seeds: int, reward: float | None, out: Path
) -> list[Drawn]:
    """Rows of prompts; the base model, then every arm at the checkpoint whose reward is nearest to the same one."""
    level = matched_reward(arms) if reward is None else reward
    columns = [(arms[0], 0)] + [(arm, arm.nearest(level)) for arm in arms]
    shown = [arm.at(epoch) for arm, epoch in columns]
    pictures = [arm.draw(epoch, prompts, range(seeds)) for arm, epoch in columns]
    heads = ["base model"] + [f"{drawn.arm}\nepoch {drawn.epoch}" for drawn in shown[1:]]
    below = [
        "\n".join(f"{name} {drawn.values[name]:.4g}" for name in TOLD if name in drawn.values)
        for drawn in shown
    ]
    _save(pictures, list(prompts), heads, below, out, shown)
    return shown


def film(
    arms: Sequence[Arm], prompts: Sequence[str], seed: int, epochs: Sequence[int] | None, out: Path
) -> list[Drawn]:
    """A row an arm and prompt, a column an epoch that every arm has a checkpoint of; the reward below each arm's."""
    common = sorted(set.intersection(*(set(arm.policies) for arm in arms)))
    if unknown := sorted(set(epochs or ()) - set(common)):
        raise WrongArgument(
            f"--epochs: no checkpoint of {', '.join(map(str, unknown))} in all; there are "
            f"{', '.join(map(str, common))}"
        )
    chosen = [epoch for epoch in common if not epochs or epoch in epochs]
    shown = [arm.at(epoch) for arm in arms for epoch in chosen]
    rows, labels, notes = [], [], []
    for arm in arms:
        rows.append(torch.cat([arm.draw(epoch, prompts, [seed]) for epoch in chosen], dim=1))
        labels += [f"{arm.name}, {prompt}" if len(arms) > 1 else prompt for prompt in prompts]
        notes.append([f"{arm.at(epoch).values['reward']:.3g}" for epoch in chosen])
    pictures = [torch.cat(rows)[:, n : n + 1] for n in range(len(chosen))]
    heads = [f"epoch {epoch}" for epoch in chosen]
    below = ["\n".join(note[n] for note in notes) for n in range(len(chosen))]
    _save(pictures, labels, heads, below, out, shown, told=[f"reward, {arm.name}" for arm in arms])
    return shown


def _save(
    columns: Sequence[Tensor],
    rows: Sequence[str],
    heads: Sequence[str],
    below: Sequence[str],
    out: Path,
    shown: Sequence[Drawn],
    told: Sequence[str] = (),
) -> None:
    """Write the picture.

    Args:
        columns: (N, K, 3, H, W) each: K pictures side by side in every row.
        rows, heads, below: of N rows, and of the columns.
        told: what the lines below are, to their left.
        shown: the policies that were drawn from.
    """
    palette.require_matplotlib()
    from matplotlib.figure import Figure

    across = [column.shape[1] for column in columns]
    left, gap = 0.1 + 0.075 * max(map(len, (*rows, *told))), 0.08
    top = 0.15 + 0.15 * max(head.count("\n") + 1 for head in heads)
    bottom = 0.1 + 0.16 * max(note.count("\n") + 1 for note in below)
    width = left + SIDE * sum(across) + gap * len(columns)
    height = top + SIDE * len(rows) + bottom
    figure = Figure(figsize=(width, height), dpi=200)
    at = left
    for column, head, note, wide in zip(columns, heads, below, across, strict=True):
        axes = figure.add_axes(
            (at / width, bottom / height, SIDE * wide / width, SIDE * len(rows) / height), frameon=False
        )
        strips = torch.cat([torch.cat(list(row), dim=2) for row in column], dim=1)
        axes.imshow(strips.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        middle = (at + SIDE * wide / 2) / width
        figure.text(middle, 1 - (top - 0.08) / height, head, ha="center", va="bottom", fontsize=8)
        figure.text(middle, (bottom - 0.05) / height, note, ha="center", va="top", fontsize=7)
        at += SIDE * wide + gap
    beside = (left - 0.06) / width
    for n, row in enumerate(rows):
        middle = 1 - (top + SIDE * (n + 0.5)) / height
        figure.text(beside, middle, row, ha="right", va="center", fontsize=8)
    figure.text(beside, (bottom - 0.05) / height, "\n".join(told), ha="right", va="top", fontsize=7)
    file = io.BytesIO()
    description = json.dumps([asdict(drawn) for drawn in shown])
    figure.savefig(file, format="png", metadata={"Description": description})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, file.getvalue())


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    try:
        quiet_libraries()
        runs = [load(folder) for folder in args.runs]
        named = names([run.label for run in runs])
        arms = [Arm.of(run, named[run.label]) for run in runs]
        if len({arm.subject.run.quality[0]["digest"] for arm in arms}) > 1:
            raise Fault("the runs were evaluated with different settings; evaluate them all alike")
        reader = arms[0].subject.loader.reader
        if unknown := [prompt for prompt in args.prompts if prompt not in reader.prompts]:
            raise WrongArgument(f"--prompts: {unknown[0]!r:.60} is none of {', '.join(reader.prompts)}")
        if args.what == "matched":
            shown = matched(arms, args.prompts, args.seeds, args.reward, args.out)
        else:
            shown = film(arms, args.prompts, args.seed, args.epochs, args.out)
    except (Fault, ImportError, OSError) as error:
        complain("pictures", error)
        return error.code if isinstance(error, Fault) else 1
    for drawn in shown:
        values = ", ".join(f"{key} {value:.4g}" for key, value in drawn.values.items())
        print(f"{drawn.arm} ({drawn.run}), epoch {drawn.epoch}: {values}")
    print(args.out)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pictures",
        description=(__doc__ or "").partition("\n")[0],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="evaluated run folders, an arm each, the baseline first",
    )
    common.add_argument(
        "--prompts", required=True, type=lambda text: text.split(","), metavar="A,B,...", help="of the rows"
    )
    common.add_argument("--out", required=True, type=Path, metavar="FILE", help="PNG to write")
    common.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="of torch (default: 1)")
    kinds = parser.add_subparsers(dest="what", required=True, metavar="matched|film")
    of_matched = kinds.add_parser("matched", parents=[common], help="arms side by side at the same reward")
    of_matched.add_argument(
        "--seeds", type=at_least(1), default=3, metavar="N", help="pictures of a prompt and arm (default: 3)"
    )
    of_matched.add_argument(
        "--reward", type=number, metavar="R", help="to match (default: the highest that every arm has)"
    )
    of_film = kinds.add_parser("film", parents=[common], help="prompts over the epochs")
    of_film.add_argument("--seed", type=at_least(0), default=0, metavar="S", help="of the noise (default: 0)")
    of_film.add_argument("--epochs", type=whole_numbers, metavar="A,B,...", help="(default: all)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
