"""The numbers behind a study's figures, as a JSON file of the repository, and the figures drawn from them."""

from __future__ import annotations

import dataclasses
import json
import shlex
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pcpo_overlay.config import MODES
from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, levels, quality
from pcpo_overlay.tools.report.arms import Shown, shown_arms
from pcpo_overlay.tools.report.compare import Comparison
from pcpo_overlay.tools.report.quality import Quality
from pcpo_overlay.tools.runs.labels import label
from pcpo_overlay.trainers import TRAINERS

T = TypeVar("T")


@dataclass(frozen=True)
class StudyArm:
    """An arm: the full configuration that it ran with, none of it left to a default, and its number of seeds.

    ``objective`` is the name of upstream's own, where it is no baseline.
    """

    configuration: dict[str, Any]
    seeds: int
    objective: str | None = None


@dataclass(frozen=True)
class StudyData:
    """What a study's figures are drawn from.

    Attributes:
        study: its name.
        title: what it trains, for a reader.
        source: where the numbers come from.
        commands: that made the runs, as they were typed then.
        provenance: when and where they ran, and with what versions.
        upstream: the trainer's short name.
        auto_variance: the variance that ``full`` takes by itself on this study's schedule, by which its arms are named;
            None for a flow sampler.
        baseline: the place of the arm that the others are held against.
        arms: in order.
        quality: the report's chapter; without curves and ways where the numbers were taken from a page.
    """

    study: str
    title: str
    source: str
    commands: list[str]
    provenance: list[str]
    upstream: str
    auto_variance: str | None
    baseline: int
    arms: list[StudyArm]
    quality: Quality

    @staticmethod
    def of(
        study: str,
        title: str,
        comparison: Comparison,
        commands: Sequence[Sequence[str]],
        provenance: list[str],
    ) -> StudyData:
        """Those of a report's comparison.

        Raises:
            ValueError: its runs were not evaluated.
        """
        if comparison.quality is None:
            raise ValueError(f"{study}: without evaluated runs there is nothing to draw")
        arms = [StudyArm(arm.configuration, len(arm.runs), _objective(arm.label)) for arm in comparison.arms]
        plain = (
            arm for arm in comparison.arms if arm.label.startswith("full") and "variance=" not in arm.label
        )
        auto = next((str(arm.configuration.get("variance")) for arm in plain), "native")
        return StudyData(
            study, title, "the run folders of the commands below", [shlex.join(words) for words in commands],
            provenance, comparison.upstream, auto if TRAINERS[comparison.upstream].sampler == "ddim" else None,
            [arm.label for arm in comparison.arms].index(comparison.baseline), arms, comparison.quality,
        )  # fmt: skip

    @property
    def labels(self) -> list[str]:
        """Of the arms: as the mode's defaults are now, whatever they were when the study was run."""
        return [self._label(arm) for arm in self.arms]

    def _label(self, arm: StudyArm) -> str:
        fields = {k: v for k, v in arm.configuration.items() if k != "variance"}
        told, variance = label(fields, self.upstream, arm.objective), arm.configuration.get("variance")
        if arm.configuration["mode"] != "full" or self.auto_variance in (None, variance):
            return told
        return f"{told},variance={variance}"

    def shown(self) -> Shown:
        """What its tables and figures share."""
        seeds = dict(zip(self.labels, (arm.seeds for arm in self.arms), strict=True))
        return Shown(self.upstream, shown_arms(seeds), self.baseline)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> StudyData:
        """What :meth:`write` wrote."""
        held = json.loads(path.read_text(encoding="utf-8"), object_hook=_by_metric)
        return from_plain(StudyData, held)

    def figures(self) -> dict[str, Any]:
        """By what their files' names end in: epochs to a reward, and what the policies draw at the same reward."""
        shown = self.shown()
        return {
            "": _speed(shown, self.quality, self.title),
            "-quality": quality.figures(shown, self.quality)["quality"],
        }


def _objective(label: str) -> str | None:
    """What an arm's label has in the place of a mode."""
    held = label.partition(",")[0]
    return None if held in MODES else held


def _speed(shown: Shown, held: Quality, title: str) -> Any:
    """Epochs to each level of evaluated reward, and the reward at the last checkpoint, with intervals."""
    figure = palette.new_figure(11, 1.7 + 0.2 * len(held.levels) * (len(shown.arms) + 1))
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    title_a = "(a) epochs to reach an evaluated reward"
    levels.panel(left, shown, held.levels, title_a, "evaluated reward", "epochs of training", legend=True)
    last = held.last
    ends = [
        [own.reward if n == row else None for row in range(len(last.arms))] for n, own in enumerate(last.arms)
    ]
    for n, own in enumerate(ends):
        draw.dots(right, shown, shown.names, [own], arms=[n])
    palette.plain(right, f"(b) evaluated reward after {last.epoch} epochs", "evaluated reward", grid="x")
    if last.base is not None:
        right.axvline(last.base["reward"], color=palette.NEUTRAL, linestyle=":", linewidth=1.2)
        right.set_xlabel("evaluated reward (dotted: before training)")
    intervals = any(own.reward.low is not None for own in last.arms)
    told = "line: bootstrap interval of 95%" if intervals else "two seeds, too few for intervals"
    draw.heading(
        figure, f"How fast each arm learns: {title.replace(chr(96), '')}", f"dot: mean over seeds; {told}"
    )
    palette.legend_below(figure, left)
    return figure


def _by_metric(held: dict[str, Any]) -> dict[str, Any]:
    """Numbers of quality by metric, as the chapter has them; in files of its format 2 they stand beside the others."""
    digits = ("accuracy", "diversity", "frechet_prompt", "frechet")
    if "runs" in held and isinstance(held.get("accuracy"), dict):
        held["values"] = {key: held.pop(key) for key in digits}
    if "ways" in held:
        held.setdefault("metrics", list(digits))
    return held


def from_plain(kind: type[T], value: Any) -> T:
    """A dataclass from what ``dataclasses.asdict`` and JSON made of it; entries it does not know are passed over."""
    hints = typing.get_type_hints(kind)
    return kind(**{name: _read(hints[name], value[name]) for name in hints if name in value})


def _read(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return [_read(arguments[0], held) for held in value]
    if origin is dict:
        return {key: _read(arguments[1], held) for key, held in value.items()}
    if origin in (types.UnionType, typing.Union):
        return _read(next(a for a in arguments if a is not type(None)), value)
    return value
