"""One loader per upstream: what a run of the miniatures was sampled and rewarded with, and its checkpoints.

A further upstream is one more entry of :data:`LOADERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pcpo_overlay.tools.checkpoints import Checkpoint, found, policy
from pcpo_overlay.tools.evaluate import readers, rewards
from pcpo_overlay.tools.evaluate.readers import Reader
from pcpo_overlay.tools.miniature import WEIGHTS, flux, sd, sd3
from pcpo_overlay.tools.miniature.animals import sd as animals_sd
from pcpo_overlay.tools.runs.files import HIGHEST
from pcpo_overlay.tools.runs.run import Run
from pcpo_overlay.tools.runs.settings import real, whole

#: Bytes of a checkpoint; those of the miniatures have less than a hundredth.
LARGEST = 2**30


def _put(pipeline: Any, checkpoint: Checkpoint) -> None:
    policy.put(pipeline, checkpoint, LARGEST)


@dataclass(frozen=True)
class Loader:
    """What there is to know about one upstream's runs.

    Attributes:
        model: the miniature's name, a folder of ``miniature/weights``.
        network: the subfolder of the pipeline that is trained.
        load_pipeline: the pipeline in a folder, in float32.
        sample: images (N, 3, H, W) in [0, 1] of N prompts, by upstream's native sampler; takes ``seed`` and the
            sampler's settings.
        sampler: those settings, from the trainer's config.
        reward_weights: the weights of the run's rewards by name, from the trainer's config.
        rewards: the rewards that can be computed here.
        checkpoints: those of a run, in the order of training.
        save_options: what makes ``ab`` save checkpoints.
        put: gives a fresh pipeline the policy of a checkpoint.
        began_as: the folder of the model that a run began as, as its trainer names it.
        reader: whose prompts are drawn, and who reads the pictures.
        others: of the same upstream's runs on other miniatures of the same architecture.
    """

    model: str
    network: str
    load_pipeline: Callable[[Path], Any]
    sample: Callable[..., Tensor]
    sampler: Callable[[Mapping[str, Any]], dict[str, Any]]
    reward_weights: Callable[[Mapping[str, Any]], dict[str, float]]
    rewards: Mapping[str, rewards.Reward]
    checkpoints: Callable[[Run], list[Checkpoint]]
    save_options: str
    put: Callable[[Any, Checkpoint], None] = _put
    began_as: Callable[[Run], str] = lambda run: str(run.info["trainer"]["pretrained"]["model"])
    reader: Reader = readers.DIGITS
    others: tuple[Loader, ...] = ()

    @property
    def shipped(self) -> Path:
        """The miniature as this package ships it."""
        return WEIGHTS / self.model


# ------------------------------------------------------------- ddpo-pytorch


def _ddpo_sampler(trainer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": whole(trainer, "sample.num_steps", 1, 1000),
        "guidance": real(trainer, "sample.guidance_scale", 0, 1000),
        "eta": real(trainer, "sample.eta", 0, 1),
    }


_DDPO = Loader(
    model="sd",
    network="unet",
    load_pipeline=sd.load_pipeline,
    sample=sd.sample,
    sampler=_ddpo_sampler,
    reward_weights=lambda trainer: {str(trainer["reward_fn"]): 1.0},
    rewards={
        "jpeg_compressibility": rewards.compressibility(1.0),
        "digit_probability": rewards.digit_probability,
    },
    checkpoints=found.of_ddpo,
    save_options="-- --config.save_freq=5 --config.num_checkpoint_limit=100",
)


def _of_animals(loader: Loader, known: Mapping[str, rewards.Reward]) -> Loader:
    """The same with the miniature that draws animals beside the digits', and its rewards."""
    animals = replace(
        loader,
        model="animals/sd",
        load_pipeline=animals_sd.load_pipeline,
        sample=animals_sd.sample,
        rewards=known,
        reader=readers.ANIMALS,
    )
    return replace(loader, others=(animals,))


# ---------------------------------------------------------------- flow_grpo


def _flow_sampler(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """As it samples to train, not as it evaluates: the reward to match is the one that was trained on."""
    return {
        "steps": whole(trainer, "sample.num_steps", 1, 1000),
        # upstream takes anything below 1 as no guidance too
        "guidance": max(1.0, real(trainer, "sample.guidance_scale", 0, 1000)),
        "noise_level": real(trainer, "sample.noise_level", 0, 100),
    }


_FLOW_GRPO = Loader(
    model="sd3",
    network="transformer",
    load_pipeline=sd3.load_pipeline,
    sample=sd3.sample,
    sampler=_flow_sampler,
    reward_weights=lambda trainer: {
        name: float(real(trainer, f"reward_fn.{name}", -HIGHEST, HIGHEST)) for name in trainer["reward_fn"]
    },
    rewards={
        "jpeg_compressibility": rewards.compressibility(500.0),
        "digit_probability": rewards.digit_probability,
    },
    checkpoints=found.of_flow_grpo,
    save_options="-- --config.save_freq=5",
)


def _windowed(loader: Loader) -> Loader:
    """Of a fast trainer, which draws noise in a window of its steps."""

    def sampler(trainer: Mapping[str, Any]) -> dict[str, Any]:
        size, held = whole(trainer, "sample.sde_window_size", 0, 1000), trainer["sample"]["sde_window_range"]
        if not (isinstance(held, list) and len(held) == 2 and all(isinstance(n, int) for n in held)):
            raise ValueError(f"trainer.sample.sde_window_range is {held!r:.60} in place of two whole numbers")
        told = {"sde_type": str(trainer["sample"]["sde_type"]), "window": [size, *held]}
        return loader.sampler(trainer) | told

    return replace(loader, sampler=sampler)


_FLUX = replace(
    _FLOW_GRPO,
    model="flux",
    load_pipeline=flux.load_pipeline,
    sample=flux.sample_by_flow_grpo,
    # embedded, and told to the network whatever it is
    sampler=lambda trainer: (
        _flow_sampler(trainer) | {"guidance": real(trainer, "sample.guidance_scale", 0, 1000)}
    ),
)

# ---------------------------------------------------------------- DanceGRPO


_DANCE_SD = Loader(
    model="sd",
    network="unet",
    load_pipeline=sd.load_pipeline,
    sample=sd.sample,
    sampler=_ddpo_sampler,
    reward_weights=lambda trainer: {str(trainer["reward_fn"]): 1.0},
    rewards={"hpsv2": rewards.digit_log_odds},
    checkpoints=found.of_dancegrpo_sd,
    save_options="-- --config.save_freq=5",
    began_as=lambda run: str(run.path / "work" / "data" / "stable-diffusion-v1-4"),
)


def _flux_sampler(trainer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": whole(trainer, "sampling_steps", 1, 1000),
        "eta": real(trainer, "eta", 0, 100),
        "shift": real(trainer, "shift", 1e-3, 1000),
    }


_DANCE_FLUX = Loader(
    model="flux",
    network="transformer",
    load_pipeline=flux.load_pipeline,
    sample=flux.sample,
    sampler=_flux_sampler,
    reward_weights=lambda trainer: {"hpsv2": 1.0} if trainer["use_hpsv2"] else {},
    rewards={"hpsv2": rewards.digit_log_odds},
    checkpoints=found.of_dancegrpo_flux,
    save_options="-- --checkpointing_steps=5",
    began_as=lambda run: str(run.path / "work" / run.info["trainer"]["pretrained_model_name_or_path"]),
)

#: By the upstream's name in ``run.json``.
LOADERS: dict[str, Loader] = {
    "ddpo": _of_animals(_DDPO, {"jpeg_compressibility": rewards.compressibility(1.0), **rewards.OF_ANIMALS}),
    "flow_grpo": _FLOW_GRPO,
    "flow_grpo_sd3_fast": _windowed(_FLOW_GRPO),
    "flow_grpo_sd3_guard": _FLOW_GRPO,
    "flow_grpo_flux": _FLUX,
    "flow_grpo_flux_fast": _windowed(_FLUX),
    "dancegrpo_sd": _of_animals(_DANCE_SD, {"hpsv2": rewards.OF_ANIMALS["animal_logodds"]}),
    "dancegrpo_flux": _DANCE_FLUX,
    "dancegrpo_flux_lora": replace(_DANCE_FLUX, checkpoints=found.of_dancegrpo_flux_lora),
}
