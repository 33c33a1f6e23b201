"""Run folders made of invented numbers, for tests of what reads them. Nothing here was measured."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcpo_overlay.config import parse

TIMESTEPS = list(range(981, 0, -20))


def write_run(
    path: Path,
    mode: str = "observe",
    *,
    seed: int = 0,
    rewards: Sequence[float | None] = (),
    status: str = "finished",
    upstream: str = "ddpo",
    trainer: dict[str, Any] | None = None,
    steps_per_epoch: int = 2,
    kl: Sequence[float] | None = None,
    evaluations: Mapping[int, float | None] | None = None,
    **info: Any,
) -> Path:
    """Write a run folder whose epochs have these rewards; every other number is a function of mode and epoch.

    Args:
        path: made.
        mode: with its options, as ``PCPO`` has it.
        seed, status, upstream, trainer: as in ``run.json``, the last on top of what a trainer's config holds.
        rewards: one per epoch.
        steps_per_epoch: optimizer steps.
        kl: the mean of the KL term, one per epoch, as flow_grpo records it.
        evaluations: the validation reward by the number of epochs trained before, as flow_grpo records it.
        info: further entries of ``run.json``.
    """
    path.mkdir(parents=True)
    config = parse(mode).on(upstream)
    run = {
        "format": 1,
        "upstream": upstream,
        "mode": config.mode,
        "pcpo": config.as_dict(),
        "clone": {"commit": "c" * 40, "base_tree": "b" * 40, "patched_tree": "p" * 40, "modified": False},
        "trainer": {
            "seed": seed,
            "num_epochs": len(rewards),
            "run_name": path.name,
            "sample": {"num_steps": 50, "eta": 1.0, "batch_size": 8},
            "train": {"clip_range": 1e-4, "learning_rate": 3e-4, "batch_size": 4},
            **(trainer or {}),
        },
        "clip_range": 1e-4,
        "seed": seed,
        "versions": {"python": "3.11.0", "torch": "2.0.0"},
        "hardware": {"device": "cpu", "name": "an invented processor", "threads": 1, "world_size": 1},
        "resolved": {"variance": "native" if config.variance == "native" else "paper"},
        "argv": [],
        "started": "2026-01-01T00:00:00Z",
        "finished": "2026-01-01T01:00:00Z" if status == "finished" else None,
        "status": status,
        **info,
    }
    (path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    with (path / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for epoch, reward in enumerate(rewards):
            records = _evaluation(evaluations, epoch)
            records += _epoch(
                config.mode, seed, epoch, reward, steps_per_epoch, kl[: epoch + 1] if kl else []
            )
            file.writelines(json.dumps(record) + "\n" for record in records)
        file.writelines(json.dumps(record) + "\n" for record in _evaluation(evaluations, len(rewards)))
    return path


def _evaluation(evaluations: Mapping[int, float | None] | None, epoch: int) -> list[dict[str, Any]]:
    if evaluations is None or epoch not in evaluations:
        return []
    reward = evaluations[epoch]
    return [
        {"kind": "eval", "epoch": epoch, "step": 2 * epoch, "reward_mean": reward, "reward_count": 20,
         "rewards": {"avg": reward, "jpeg_compressibility": reward}, "seconds": 8.0}
    ]  # fmt: skip


def _epoch(
    mode: str, seed: int, epoch: int, reward: float | None, steps: int, kl: Sequence[float]
) -> list[dict[str, Any]]:
    """The records of one epoch; ``kl`` of all epochs up to it, or empty."""
    level = {"observe": 0.4, "log": 0.4, "match": 0.2, "full": 0.05}[mode]
    common = {
        "samples": 400,
        "loss": 0.01,
        "fraction_outside": level,
        "fraction_masked": level / 2,
        "ratio_mean": 1.0,
        "ratio_std": level * 1e-3,
        "ratio_min": 0.99,
        "ratio_max": 1.01,
        "log_ratio_error_mean": 1e-5,
        "log_ratio_error_max": 1e-3,
        "approx_kl": 1e-8,
        "kl": 1e-8,
        "credit_std": level * 1e-3,
        "grad_norm": 1.0 + level * epoch / 10,
        "grad_abs_mean": 1e-3 * (1 + level * epoch / 10),
        "grad_abs_var": 1e-6 * (1 + level * epoch / 10),
        "grad_layer": "conv_in",
        "nonfinite": 0,
        **({"kl_loss": kl[-1]} if kl else {}),
        "per_timestep": {
            "timestep": TIMESTEPS,
            "count": [8] * len(TIMESTEPS),
            "fraction_outside": [min(1.0, level * (0.5 + 20 / t)) for t in TIMESTEPS],
            "fraction_masked": [min(1.0, level * (0.5 + 20 / t)) / 2 for t in TIMESTEPS],
            "ratio_mean": [1.0] * len(TIMESTEPS),
        },
    }
    records = [
        {"kind": "step", "epoch": epoch, "inner_epoch": 0, "step": step, **common,
         "fraction_outside": level * step / max(1, steps - 1)}
        for step in range(steps)
    ]  # fmt: skip
    return [
        *records,
        {
            "kind": "epoch", "epoch": epoch, "reward_mean": reward, "reward_std": 1.0, "reward_count": 64,
            "seconds_sampling": 2.0, "seconds_training": 3.0 if mode == "observe" else 2.5,
            "seconds_total": 5.0 if mode == "observe" else 4.5, "peak_memory_bytes": 2**30, **common,
            **({"kl_running_mean": math.fsum(kl) / len(kl)} if kl else {}),
        },
    ]  # fmt: skip


def learning_curve(seed: int, speed: float, epochs: int = 40) -> list[float]:
    """An invented noisy reward that saturates."""
    noise = random.Random(seed * 1000 + round(speed * 100))
    return [-60 + 30 * (1 - math.exp(-speed * e / epochs)) + noise.gauss(0, 1.5) for e in range(epochs)]


def write_ladder(parent: Path, seeds: Sequence[int] = (0, 1, 2), epochs: int = 40) -> list[Path]:
    """The whole ablation ladder, several seeds each."""
    speeds = {"observe": 1.5, "log": 1.8, "match": 2.2, "full": 3.5, "full,variance=native": 3.0}
    return [
        write_run(
            parent / f"{index}-seed{seed}",
            mode,
            seed=seed,
            rewards=learning_curve(seed + 7 * index, speed, epochs),
        )
        for index, (mode, speed) in enumerate(speeds.items())
        for seed in seeds
    ]


def write_flow(
    parent: Path,
    arms: Sequence[str] = ("observe", "full"),
    seeds: Sequence[int] = (0, 1),
    epochs: int = 40,
    eval_freq: int = 5,
    **options: Any,
) -> list[Path]:
    """Runs as flow_grpo leaves them: with a KL and with evaluations, of which the first is before any training."""
    folders = []
    for index, mode in enumerate(arms):
        for seed in seeds:
            rewards = learning_curve(seed + 7 * index, (1.5, 3.0, 2.2, 2.6)[index], epochs)
            noise = random.Random(seed + 100 * index)
            kl = [
                (0.012 - 0.004 * (index % 2)) * (e / epochs) ** 1.3 * (1 + noise.gauss(0, 0.1))
                for e in range(epochs)
            ]
            evaluated = range(0, epochs + 1, eval_freq)
            validation = {e: -60.0 if e == 0 else rewards[e - 1] + noise.gauss(0.5, 0.3) for e in evaluated}
            folders.append(
                write_run(
                    parent / f"{index}-seed{seed}",
                    mode,
                    seed=seed,
                    rewards=rewards,
                    kl=kl,
                    evaluations=validation,
                    upstream="flow_grpo",
                    **options,
                )
            )
    return folders


def write_quality(
    run: Path,
    rewards: Mapping[int, float],
    *,
    quality: Callable[[str, float], Mapping[str, float]] | None = None,
    digest: str = "d" * 64,
    samples: int = 50,
) -> Path:
    """Give a run folder an ``evaluation.jsonl``.

    Args:
        run: the folder.
        rewards: the evaluated reward by epochs of training; 0 is the base model.
        quality: accuracy, diversity and Fréchet distance of a prompt's images at a reward; None invents some.
        digest, samples: of the settings.
    """
    lines = []
    for epoch, reward in rewards.items():
        prompts = {
            prompt: {"reward": reward, **(quality or _invented_quality)(prompt, reward)}
            for prompt in ("a zero", "a one", "a two")
        }
        overall = {
            key: math.fsum(p[key] for p in prompts.values()) / 3
            for key in ("reward", "accuracy", "diversity")
        }
        overall["frechet"] = math.fsum(p["frechet"] for p in prompts.values()) / 10
        lines.append(
            {"format": 1, "checkpoint": f"checkpoint_{epoch}" if epoch else "base", "epoch": epoch,
             "overall": overall, "prompts": prompts, "digest": digest,
             "settings": {"samples": samples, "seed": 0, "sampler": {"steps": 5, "noise_level": 0.7}}}
        )  # fmt: skip
    (run / "evaluation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def _invented_quality(prompt: str, reward: float) -> dict[str, float]:
    place = len(prompt) + math.sin(97 * reward + len(prompt))
    return {"accuracy": 1 - 0.01 * place, "diversity": 10 - reward - place / 5, "frechet": reward**2 + place}
