"""A report on scored folders, which `pcpo sample` drew and `pcpo score` measured: what each has, arm against arm.

Where arms have several policies along a training, they are compared at the same reward, by the chapter on quality;
the mixed model of the paper's Tables 3 and 4 is of whatever the folders have by prompt.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.faults import WrongArgument, printable, require
from pcpo_overlay.tools.folders import check_writable, written
from pcpo_overlay.tools.report import mixed_model, paper_tables, quality
from pcpo_overlay.tools.report.arms import ReportError, Shown, choose_baseline, shown_arms
from pcpo_overlay.tools.report.build import COMMAND, JSON, MARKDOWN, save
from pcpo_overlay.tools.report.text import number, quoted, table
from pcpo_overlay.tools.runs import policies
from pcpo_overlay.tools.runs.arms import Arm
from pcpo_overlay.tools.runs.files import is_number
from pcpo_overlay.tools.runs.run import Run

FORMAT = 1
FIGURE = "quality.png"
DEFINITIONS = {
    "scores": "What `pcpo score` measured, over all pictures of a folder; `by prompt`, the mean of the prompts' own. "
    "FID, FD-DINOv2, that of digits: squared Fréchet distance to the base model's pictures, so drift: 0 is the base "
    "model. A prompt's own is larger, as it is of fewer pictures. IS: Inception Score. LPIPS diversity: mean distance "
    "of two pictures of one prompt. HPSv2, CLIPScore: cosines. A metric is left out where folders have it of other "
    "weights, or of other numbers of pictures.",
    "reward": "`{reward}` over all pictures of a folder: the metric that arms are matched by.",
    "matched reward": "An arm's policy when its reward first reaches a level, with everything interpolated linearly "
    "between the last folder below and the first at the level. Unless given with --thresholds the levels are four, "
    "evenly spaced strictly between the first folders' reward and the lowest of the arms' best.",
    "mixed model": mixed_model.DEFINITIONS["mixed model"].replace(
        "at matched reward.", "at the reward that is told."
    ),
}
#: What has to be the same of two numbers that are compared.
_ALIKE = (
    "scorer", "weights_sha256", "read_with", "preprocessing", "pictures", "pictures_of_a_prompt", "splits", "pairs",
    "reference",
)  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """A scored folder.

    Attributes:
        path: the folder.
        settings: what its pictures were drawn with.
        told: what else ``sample.json`` has.
        lines: of ``sets.jsonl``, by metric.
        name: the folder's, as it can be printed; with its path where another has the same.
    """

    path: Path
    settings: dict[str, Any]
    told: dict[str, Any]
    lines: dict[str, dict[str, Any]]
    name: str

    @property
    def is_base(self) -> bool:
        """Whether no checkpoint had a part in it."""
        return self.settings.get("checkpoint_sha256") is None and not self.settings.get("experts")

    @property
    def setting(self) -> str:
        """The model and the prompts, as the user named them."""
        return printable(", ".join(str(self.told[key]) for key in ("model", "prompts") if self.told.get(key)))

    @property
    def pictures(self) -> int:
        """How many were scored."""
        return max((line["pictures"] for line in self.lines.values()), default=0)

    def values(self, metrics: Sequence[str]) -> dict[str, float]:
        """Over all; and of sets the prompts' mean, named ``METRIC_prompt``, where every prompt has a number."""
        found: dict[str, float] = {}
        for metric in metrics:
            line = self.lines.get(metric)
            if line is None:
                continue
            if line["overall"] is not None:
                found[metric] = line["overall"]
            held = [prompt["value"] for prompt in line["prompts"]]
            if metric in policies.OF_SETS and held and None not in held:
                found[f"{metric}_prompt"] = sum(held) / len(held)
        return found

    def prompts(self, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
        """By prompt, those metrics that every prompt has."""
        found: dict[str, dict[str, float]] = {}
        for metric in metrics:
            line = self.lines.get(metric)
            if line is None or any(prompt["value"] is None for prompt in line["prompts"]):
                continue
            for prompt in line["prompts"]:
                found.setdefault(prompt["text"], {})[metric] = prompt["value"]
        return found


@dataclass(frozen=True)
class Training:
    """Folders of one training, as the user names it.

    Attributes:
        arm: its arm's name; several trainings of one arm are its seeds.
        batch: samples an epoch, for the mixed model.
        folders: with the epochs of training before each, where they were told.
    """

    arm: str
    folders: Sequence[tuple[Path, float | None]]
    batch: int | None = None


@dataclass(frozen=True)
class ScoredRun(Run):
    """A training of which scored folders are known, and nothing else."""

    arm: str = ""
    batch: int | None = None

    @property
    def label(self) -> str:
        """The arm's name."""
        return self.arm

    @property
    def samples_per_epoch(self) -> int | None:
        """As the user said it."""
        return self.batch


@dataclass
class ScoreReport:
    """What ``report.json`` holds of scored folders; ``paper_tables`` are of the paper's numbers alone."""

    metrics: list[str]
    notes: list[str]
    folders: dict[str, dict[str, float]]
    quality: quality.Quality | None
    mixed_models: list[mixed_model.MixedModel]
    paper_tables: list[str]
    definitions: dict[str, str]
    format: int = FORMAT
    kind: str = "scored folders"


def is_scored(path: Path) -> bool:
    """Whether it is a folder of ``pcpo sample``."""
    return (path / "sample.json").is_file()


def read(path: Path) -> Scored:
    """A scored folder.

    Raises:
        ReportError: it is none, or was not scored, or its scores are damaged.
        Fault: ``sample.json`` is damaged.
    """
    from pcpo_overlay.tools.sample.folder import load
    from pcpo_overlay.tools.score.run import SETS

    if not is_scored(path):
        raise ReportError(f"{path} is no folder of `pcpo sample`")
    held = load(path)
    try:
        lines = [json.loads(line) for line in (path / SETS).read_text(encoding="utf-8").splitlines() if line]
        sound = all(_sound(line) for line in lines)
    except FileNotFoundError:
        raise ReportError(f"{path} is not scored yet; `pcpo score {path} --metrics ...` does it") from None
    except (OSError, ValueError):
        sound = False
    if not sound or not lines:
        raise ReportError(f"{path / SETS} is damaged; move it away and score the folder again")
    by_metric = {line["metric"]: line for line in lines}
    return Scored(path, held.settings, held.told, by_metric, printable(held.name))


def _sound(line: Any) -> bool:
    def valued(value: Any) -> bool:
        return value is None or is_number(value)

    return (
        isinstance(line, dict)
        and isinstance(line.get("metric"), str)
        and valued(line.get("overall"))
        and isinstance(line.get("pictures"), int)
        and isinstance(line.get("prompts"), list)
        and all(
            isinstance(p, dict) and isinstance(p.get("text"), str) and valued(p.get("value"))
            for p in line["prompts"]
        )
    )


def build(
    folders: Sequence[Path],
    trainings: Sequence[Training],
    out: Path,
    *,
    reward: str | None = None,
    thresholds: Sequence[float] | None = None,
    baseline: str | None = None,
    tables: Sequence[str] = (),
) -> tuple[ScoreReport, dict[str, str]]:
    """Compare scored folders and write the report, whole or not at all; an earlier one in ``out`` is replaced.

    Args:
        folders: each an arm of its own; of those without a checkpoint the first is the base model's.
        trainings: folders of which the user says what they are.
        out: the report's folder.
        reward: the metric to match arms by; every training's folders then have epochs.
        thresholds: levels of it.
        baseline: the arm that the others are held against; by default ``baseline``, else the first.
        tables: of the paper, to set beside these numbers.

    Returns:
        What the report holds, and its tables by title.

    Raises:
        ReportError: a folder cannot be read, or there is nothing to compare.
        WrongArgument: the reward was not scored, or a folder has no epoch.
    """
    require("pandas", "the report needs")
    check_writable(out, COMMAND)
    paths = list(dict.fromkeys([*folders, *(path for t in trainings for path, _ in t.folders)]))
    held = {path: read(path) for path in paths}
    names = [scored.name for scored in held.values()]
    held = {
        path: dataclasses.replace(one, name=printable(path)) if names.count(one.name) > 1 else one
        for path, one in held.items()
    }
    metrics, notes = _comparable(list(held.values()))
    base = next((scored for scored in held.values() if scored.is_base), None)
    taken = {path for training in trainings for path, _ in training.folders}
    alone = [Training(held[p].name, [(p, None)]) for p in folders if p not in taken and not held[p].is_base]
    arms = _arms([*trainings, *alone], held, base, metrics, reward)
    notes += _drawn_alike(list(held.values()))
    report = ScoreReport(
        metrics, notes, {str(path): scored.values(metrics) for path, scored in held.items()}, None, [], list(tables),
        {name: text.replace("{reward}", str(reward)) for name, text in DEFINITIONS.items()
         if reward is not None or name not in ("reward", "matched reward")},
    )  # fmt: skip
    made = {"Scores": _score_table(held, metrics)}
    figure = None
    if arms:
        first = "baseline" if baseline is None and any(arm.label == "baseline" for arm in arms) else baseline
        against = choose_baseline(arms, first)
        if reward is not None:
            shown = Shown("", shown_arms({arm.label: len(arm.runs) for arm in arms}), arms.index(against))
            report.quality = quality.describe_arms({a.label: a.runs for a in arms}, against.label, thresholds)
            made |= quality.tables(shown, report.quality)
            figure = quality.figures(shown, report.quality).get("quality")
            report.mixed_models = mixed_model.describe_all(arms, against, thresholds)
        else:
            report.mixed_models = [
                mixed_model.describe_as_drawn(against, arm) for arm in arms if arm is not against
            ]
    for model in report.mixed_models:
        told = quoted("Note", model.notes)
        title = f"Mixed model of `{model.arm}` against `{model.baseline}`"
        made[title] = "\n".join([*told, mixed_model.model_table(model) if model.metrics else ""]).strip()
    labels = {
        path: f"{t.arm}{'' if e is None else f', epoch {e:g}'}" for t in trainings for path, e in t.folders
    }
    for name in tables:
        rows = [
            paper_tables.Row(
                s.setting, labels.get(p, "Base model" if s is base else s.name), s.values(metrics), s.is_base,
                s.pictures, s.pictures // _each(s),
            )
            for p, s in held.items()
        ]  # fmt: skip
        made |= paper_tables.render(name, rows)
    with written(out, COMMAND) as folder:
        if figure is not None:
            save(figure, folder / FIGURE)
        (folder / MARKDOWN).write_text(_render(report, made, figure is not None), encoding="utf-8")
        plain = json.dumps(dataclasses.asdict(report), indent=1, allow_nan=False)
        (folder / JSON).write_text(plain + "\n", encoding="utf-8")
    return report, made


def _comparable(folders: Sequence[Scored]) -> tuple[list[str], list[str]]:
    """The metrics whose numbers can stand beside each other, and of the others why they cannot."""
    kept, notes = [], []
    known = dict.fromkeys(metric for scored in folders for metric in scored.lines)
    for metric in sorted(known, key=lambda m: list(quality.TITLES).index(m) if m in quality.TITLES else 99):
        lines = {s.name: s.lines[metric] for s in folders if metric in s.lines}
        first_name, first = next(iter(lines.items()))
        differs = next(
            (
                (name, key)
                for name, line in lines.items()
                for key in (*_ALIKE, "texts")
                if _of(line, key) != _of(first, key)
            ),
            None,
        )
        if differs is None:
            kept.append(metric)
        else:
            name, key = differs
            what = {"texts": "prompts", "weights_sha256": "weights"}.get(key, key.replace("_", " "))
            notes.append(
                f"{quality.TITLES.get(metric, printable(metric))} is left out: `{first_name}` and `{name}` have it of "
                f"other {what}; score them alike"
            )
    return kept, notes


def _of(line: Mapping[str, Any], key: str) -> Any:
    return [prompt["text"] for prompt in line["prompts"]] if key == "texts" else line.get(key)


def _drawn_alike(folders: Sequence[Scored]) -> list[str]:
    """What a reader has to know of folders that were drawn in different ways."""
    notes = []
    for key, told in (("model_sha256", "base models"), ("sampler", "samplers"), ("dtype", "dtypes")):
        if len({json.dumps(scored.settings.get(key), sort_keys=True) for scored in folders}) > 1:
            notes.append(f"the folders were drawn with different {told}, which their scores hang on too")
    return notes


def _arms(
    trainings: Sequence[Training],
    held: Mapping[Path, Scored],
    base: Scored | None,
    metrics: Sequence[str],
    reward: str | None,
) -> list[Arm]:
    """Arms of runs, whose evaluated policies are the folders; the base model's is the first of each."""
    if reward is not None and reward not in metrics:
        raise WrongArgument(
            f"--reward {reward!r:.40} is none that every folder has alike; there are {', '.join(metrics)}"
        )
    arms: dict[str, list[Run]] = {}
    for training in trainings:
        lines = []
        if base is not None:
            lines.append(_line(base, 0, metrics, reward))
        for path, epoch in training.folders:
            if reward is not None and epoch is None:
                raise WrongArgument(
                    f"--reward matches policies along a training: say how long {path} was trained, with "
                    f"--arm NAME={path}@EPOCH"
                )
            lines.append(_line(held[path], float("inf") if epoch is None else epoch, metrics, reward))
        runs = arms.setdefault(training.arm, [])
        info = {"upstream": "scored folders", "seed": len(runs)}
        lines.sort(key=lambda line: float(line["epoch"]))
        name = training.folders[-1][0]
        runs.append(ScoredRun(name, info, [], [], quality=lines, arm=training.arm, batch=training.batch))
    return [Arm("scored folders", name, runs) for name, runs in arms.items()]


def _line(scored: Scored, epoch: float, metrics: Sequence[str], reward: str | None) -> dict[str, Any]:
    """As a line of ``evaluation.jsonl``: the reward by its own name there, and what else was measured."""
    values, prompts = scored.values(metrics), scored.prompts(metrics)
    overall = {key: value for key, value in values.items() if key in metrics and key != reward}
    if reward is not None:
        if reward not in values:
            raise WrongArgument(f"--reward {reward}: {scored.path} has no number of it")
        overall["reward"] = values[reward]
        prompts = {
            text: {("reward" if key == reward else key): value for key, value in of.items()}
            for text, of in prompts.items()
        }
    settings = {"samples": _each(scored), "sampler": scored.settings.get("sampler"), "reward": reward}
    return {"epoch": epoch, "overall": overall, "prompts": prompts, "digest": "", "settings": settings}


def _each(scored: Scored) -> int:
    """How many pictures of a prompt."""
    line = next(iter(scored.lines.values()))
    return max(1, line["pictures"] // max(1, len(line["prompts"])))


def _score_table(held: Mapping[Path, Scored], metrics: Sequence[str]) -> str:
    rows = [(scored, scored.values(metrics)) for scored in held.values()]
    known = [key for key in quality.TITLES if any(key in values for _, values in rows)]
    known += [metric for metric in metrics if metric not in quality.TITLES]
    heads = [quality.TITLES.get(key, printable(key)) for key in known]
    cells = [
        [scored.name + (" (base model)" if scored.is_base else ""), str(scored.pictures),
         *(number(values.get(key)) for key in known)]
        for scored, values in rows
    ]  # fmt: skip
    return table(["folder", "pictures", *heads], cells, left=1)


def _render(report: ScoreReport, tables: Mapping[str, str], figure: bool) -> str:
    parts = ["# PCPO report on scored pictures", "", *quoted("Note", report.notes)]
    for title, text in tables.items():
        parts += [f"## {title}", "", text, ""]
        if figure and title == quality.TITLE:
            parts += [f"![What the policies draw at the same reward]({FIGURE})", ""]
    parts += ["## What each number is", ""]
    parts += [f"- **{name}**: {text}" for name, text in report.definitions.items()]
    return "\n".join(parts).rstrip() + "\n"
