"""Both rewards of pictures drawn with implicit reward guidance, over the strength of one expert and of two."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring.study_data import from_plain
from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw as drawing

#: The experts' rewards, as upstream's config names them, and as a reader does.
REWARDS = {
    "digit_probability": "probability of the prompted digit",
    "jpeg_compressibility": "JPEG compressibility, -kB",
}
DIGIT, JPEG = REWARDS
#: Name of the figure's file.
FIGURE = "reward-guidance.png"
#: Colours and markers of the experts, and of mixes of both; no arm of training is in these figures.
_LOOKS = {DIGIT: ("#0072B2", "o"), JPEG: ("#D55E00", "s")}

#: By strength of the digit's expert, the lines of mixes.
_FROM = {
    0.0: {"color": "#D55E00", "marker": "s", "linestyle": "-"},
    0.5: {"color": "#009E73", "marker": "^", "linestyle": "--"},
    1.0: {"color": "#0072B2", "marker": "o", "linestyle": "-."},
}


@dataclass(frozen=True)
class Point:
    """One set of pictures.

    Attributes:
        strengths: lambda of each expert in the mix, by its reward.
        means, errors: by reward, mean over the pictures and its standard error.
    """

    strengths: dict[str, float]
    means: dict[str, float]
    errors: dict[str, float]

    @classmethod
    def of(cls, strengths: dict[str, float], values: Mapping[str, Sequence[float]]) -> Point:
        """From the pictures' own rewards."""
        means = {name: math.fsum(held) / len(held) for name, held in values.items()}
        errors = {
            name: math.sqrt(math.fsum((v - means[name]) ** 2 for v in held) / (len(held) - 1) / len(held))
            for name, held in values.items()
        }
        return cls(strengths, means, errors)


@dataclass(frozen=True)
class Guided:
    """The numbers behind the figure.

    Attributes:
        source: the command, the date and the machine.
        pictures: of a point.
        points: of one expert or two; base model and whole experts among them.
    """

    source: str
    pictures: int
    points: list[Point]

    @staticmethod
    def read(path: Path) -> Guided:
        """What :meth:`write` wrote."""
        return from_plain(Guided, json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def alone(self, name: str) -> list[Point]:
        """The points of one expert by itself, by its strength."""
        other = next(reward for reward in REWARDS if reward != name)
        held = [point for point in self.points if not point.strengths.get(other)]
        return sorted(held, key=lambda point: point.strengths.get(name, 0.0))

    def figure(self) -> Any:
        """Each reward over the strength of each expert, and both rewards of every mix against each other."""
        figure = palette.new_figure(10, 4.4)
        *over, both = figure.subplots(1, 3)
        for axes, (reward, told) in zip(over, REWARDS.items(), strict=True):
            for expert, (colour, marker) in _LOOKS.items():
                held = self.alone(expert)
                axes.errorbar(
                    [point.strengths.get(expert, 0.0) for point in held],
                    [point.means[reward] for point in held],
                    [1.96 * point.errors[reward] for point in held],
                    color=colour, marker=marker, markersize=4, linewidth=1.5, capsize=2,
                    label=f"expert of {expert}",
                )  # fmt: skip
            for whole in (0, 1):
                axes.axvline(whole, color=palette.NEUTRAL, linewidth=0.8, linestyle=":")
            palette.plain(axes, told, "lambda")
        self._against(both)
        drawing.heading(
            figure,
            "Implicit reward guidance: both rewards over lambda, and of mixes of two experts",
            f"{self.pictures} pictures a point, each of the same prompts and seeds; bars: 95% of the mean. Lambda 0 is "
            "the base model, 1 the expert.",
        )
        palette.legend_below(figure, over[0])
        return figure

    def _against(self, axes: Any) -> None:
        """One reward against the other, from the base model and from two strengths of the digit's expert."""
        for digit, look in _FROM.items():
            held = [point for point in self.points if point.strengths.get(DIGIT, 0.0) == digit]
            held = sorted(
                (p for p in held if p.strengths.get(JPEG, 0.0) <= 1), key=lambda p: p.strengths.get(JPEG, 0.0)
            )
            axes.errorbar(
                [point.means[JPEG] for point in held],
                [point.means[DIGIT] for point in held],
                [1.96 * point.errors[DIGIT] for point in held],
                markersize=4, linewidth=1.2, capsize=2, label=f"lambda of digit {digit:g}", **look,
            )  # fmt: skip
        axes.legend(frameon=False, fontsize="small", loc="lower left")
        palette.plain(axes, "mixes: lambda of JPEG from 0 to 1", REWARDS[JPEG], REWARDS[DIGIT])
