"""What a run's first optimizer step and its schedule show: numbers, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pcpo_overlay.tools.doctor import DoctorError
from pcpo_overlay.tools.runs.files import is_number
from pcpo_overlay.tools.runs.run import Run
from pcpo_overlay.trainers import TRAINERS, setting

#: Dtypes with less than float32's 24 bits.
HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class Step:
    """One timestep of the schedule, before any update. None where the run does not say.

    Attributes:
        timestep: as the trainer files it.
        ratio: mean of ``rho``.
        off: largest ``|rho - 1|``.
        outside, masked: shares of its samples outside the clip range, and without gradient.
        weight: native weight of the step on the network's output.
        credit: share of the native credit of all steps that can be trained.
        way: share of their way, which is what PCPO gives it.
    """

    timestep: float
    ratio: float | None = None
    off: float | None = None
    outside: float | None = None
    masked: float | None = None
    weight: float | None = None
    credit: float | None = None
    way: float | None = None


@dataclass(frozen=True)
class Findings:
    """What a page of the doctor tells.

    Attributes:
        trainer, label, commit: which script, mode with options, and upstream's commit.
        epoch: whose first optimizer step is looked at.
        samples: sample-timesteps of that step.
        off: largest ``|rho - 1|`` of them; ``lowest`` and ``highest`` the ratios at the ends.
        outside, masked: their shares outside the clip range, and without gradient.
        clip_range: the trainer's ``xi``.
        steps: in the order of the rollout.
        precision: of ``run.json``: dtypes, and whether the network is sampled as it is trained.
        mixed_precision: the trainer's setting.
        groups_without_spread: share of the epoch's groups.
        tape_bytes: what PCPO keeps of a rollout in ``match`` and ``full``, on the main rank.
        peak_memory_bytes: of the epoch, on the main rank.
        nonfinite: log ratios and losses of the epoch that are not finite.
        verdict: what to make of it, a sentence or two each, the gravest first.
        mode: what to set ``PCPO`` to next.
    """

    trainer: str
    label: str
    commit: str | None
    epoch: int
    samples: int | None
    off: float
    lowest: float
    highest: float
    outside: float
    masked: float
    clip_range: float | None
    steps: list[Step]
    precision: dict[str, Any]
    mixed_precision: str | None
    groups_without_spread: float | None
    tape_bytes: int | None
    peak_memory_bytes: int | None
    nonfinite: int
    verdict: list[str]
    mode: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return asdict(self)


def examine(run: Run) -> Findings:
    """Look at a run.

    Raises:
        DoctorError: no optimizer step or no epoch is recorded.
    """
    if not run.first_steps or not run.epochs:
        raise DoctorError(
            f"{run.path} has no whole epoch with an optimizer step in it; give the run more time, or another folder"
        )
    first, epoch = run.first_steps[0], run.epochs[0]
    wanted = ("ratio_min", "ratio_max", "fraction_outside", "fraction_masked")
    if not all(is_number(first.get(name)) for name in wanted):
        raise DoctorError(
            f"{run.path}: no ratio of the first optimizer step is finite ({_count(first)} are not); a smaller learning "
            "rate cannot help before the first update, so look at the loss and at the latents"
        )
    lowest, highest, outside, masked = (float(first[name]) for name in wanted)
    precision = run.info.get("precision") or {}
    clip_range = run.info.get("clip_range")
    settings = run.info.get("trainer") or {}
    numbers: dict[str, Any] = {
        "off": max(abs(lowest - 1), abs(highest - 1)),
        "outside": outside,
        "masked": masked,
        "clip_range": clip_range if is_number(clip_range) else None,
        "precision": precision,
        "mixed_precision": setting(settings, "mixed_precision"),
        "groups_without_spread": _number(epoch, "groups_without_spread"),
        "nonfinite": _count(epoch),
        "steps": _steps(run, first.get("per_timestep") or {}),
    }
    verdict, mode = _verdict(run, numbers)
    return Findings(
        trainer=TRAINERS[run.upstream].title if run.upstream in TRAINERS else run.upstream,
        label=run.label,
        commit=(run.info.get("clone") or {}).get("commit"),
        epoch=first["epoch"],
        samples=_number(first, "samples"),
        lowest=lowest,
        highest=highest,
        tape_bytes=_number(epoch, "tape_bytes_matching"),
        peak_memory_bytes=_number(epoch, "peak_memory_bytes"),
        verdict=verdict,
        mode=mode,
        **numbers,
    )


def _number(line: Mapping[str, Any], name: str) -> Any:
    return line.get(name) if is_number(line.get(name)) else None


def _count(line: Mapping[str, Any]) -> int:
    return int(_number(line, "nonfinite") or 0)


# ---------------------------------------------------------------- each step


def _steps(run: Run, table: Mapping[str, list[Any]]) -> list[Step]:
    """Every step that was trained or has a weight, in the order of the rollout."""
    columns = {
        "ratio": "ratio_mean",
        "off": "ratio_off",
        "outside": "fraction_outside",
        "masked": "fraction_masked",
    }
    seen: dict[float, dict[str, float]] = {}
    for n, timestep in enumerate(table.get("timestep", [])):
        held = {ours: table.get(theirs, [])[n : n + 1] for ours, theirs in columns.items()}
        seen[timestep] = {name: cell[0] for name, cell in held.items() if cell and is_number(cell[0])}
    resolved = _schedule(run)
    times = resolved.get("timestep", list(seen))
    shares = _shares(resolved)
    steps = []
    for n, timestep in enumerate(times):
        credit, way = shares[n] if n < len(shares) else (None, None)
        weight = resolved["weight_native"][n] if resolved else None
        steps.append(Step(timestep, **seen.get(timestep, {}), weight=weight, credit=credit, way=way))
    return steps


def _schedule(run: Run) -> dict[str, Any]:
    """``resolved`` of ``run.json``, if its columns are what they should be; else empty."""
    resolved = run.info.get("resolved") or {}
    columns = [resolved.get(name) for name in ("timestep", "weight_native", "dt", "std_native")]
    sound = all(
        isinstance(column, list)
        and column
        and all(map(is_number, column))
        and len(column) == len(columns[0] or ())
        for column in columns
    )
    return resolved if sound else {}


def _shares(resolved: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(credit, way) of every step that can be trained; empty where credit is not the network output's alone.

    Credit is compared on the noise estimate, or the velocity. A DDIM network that predicts neither has other weights
    on its output, and those are not credit.
    """
    if not resolved:
        return []
    trained = resolved.get("trained")
    kept = slice(trained if isinstance(trained, int) and trained > 0 else None)
    native, dt = resolved["weight_native"], resolved["dt"]
    drawn = [w for w, std in zip(native, resolved["std_native"], strict=True) if std > 0]
    mean = resolved.get("mean_native")
    mean = float(mean) if mean is not None and is_number(mean) else math.nan
    if not abs(sum(drawn) / max(len(drawn), 1) - mean) <= 1e-6 * abs(mean):
        return []
    weights, ways = native[kept], dt[kept]
    return [(w / sum(weights), d / sum(ways)) for w, d in zip(weights, ways, strict=True)]


# --------------------------------------------------------------- the verdict


def _verdict(run: Run, found: Mapping[str, Any]) -> tuple[list[str], str]:
    """Sentences, the gravest first, and what to set ``PCPO`` to next."""
    exact = found["off"] == 0
    as_trained = found["precision"].get("samples_as_trained") is not False
    half = sorted({d for d in found["precision"].values() if d in HALF})
    mode = "full" if as_trained else "full,precision=match"
    said = []
    if found["nonfinite"]:
        said.append(
            f"{found['nonfinite']} log ratios or losses are not finite. Nothing else matters before that."
        )
    said.append(_on_policy(run, found, exact, as_trained, half))
    groups = found["groups_without_spread"]
    if groups is not None and groups >= 0.5:
        which = "Every group of images has" if groups == 1 else f"{groups:.0%} of the groups of images have"
        said.append(
            f"{which} equal rewards: nothing is learned from them. A reward with more levels, harder prompts or larger "
            "groups would change that; no objective can."
        )
    top = max((s for s in found["steps"] if s.credit and s.way), key=lambda s: s.credit / s.way, default=None)
    if top is not None and top.credit / top.way >= 1.5:
        said.append(
            f"Credit is uneven: timestep {top.timestep:g} gets {top.credit:.0%} of it for {top.way:.1%} of the way. "
            "PCPO's full gives every step its share of the way."
        )
    elif top is not None:
        said.append(
            "Credit is nearly in proportion to the way already, so PCPO's weights change little here."
        )
    return said, mode


def _on_policy(run: Run, found: Mapping[str, Any], exact: bool, as_trained: bool, half: Sequence[str]) -> str:
    """What the ratios before the first update say, and where they come from."""
    if exact:
        return (
            "Before the first update every ratio is exactly 1, as it should be: what is clipped later is clipped for "
            "what the policy did."
        )
    off, clip = found["off"], found["clip_range"]
    matched = run.label.startswith(("match", "full"))
    if not as_trained:
        why = (
            "The trainer samples outside the autocast that it trains under, so its network gives two different "
            "answers. precision=match samples as it trains, and every ratio of PCPO's is then exactly 1."
        )
    elif matched:
        why = "The network does not give the same output twice: look for dropout, other batch sizes, unsteady kernels."
    elif half:
        why = (
            f"Latents or predictions are kept in {' and '.join(half)}, their log probabilities are of what was there "
            "before the rounding. PCPO's match and full compare predictions, and are exactly 1 if the network gives "
            "the same output twice; without PCPO, float32 mends it."
        )
    elif found["mixed_precision"] in ("fp16", "bf16"):
        why = (
            f"What is kept is in float32, but the run is in {found['mixed_precision']}: the sampler rounds on its way "
            "what the training does not. PCPO's match and full compare predictions as the training computes them; "
            "without PCPO, float32 mends it."
        )
    else:
        why = (
            "Nothing is kept in half precision, so the network does not give the same output twice: look for dropout, "
            "other batch sizes in sampling and training, TF32, or a compiled network."
        )
    if found["outside"] == 0:
        within = f" and within the clip range of {clip:g}" if clip is not None else ""
        return (
            f"Before the first update ratios are off by up to {off:.1e}, by rounding{within}: harmless. {why}"
        )
    return (
        f"Before the first update {found['outside']:.0%} of the ratios are outside the clip range, by up to {off:.1e}, "
        f"and {found['masked']:.0%} of the samples have no gradient, although nothing was learned yet. {why}"
    )
