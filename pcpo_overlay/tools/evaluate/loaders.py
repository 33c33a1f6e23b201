"""One loader per upstream: what a run was sampled and rewarded with, its checkpoints, and how one becomes a policy.

A further upstream is one more entry of :data:`LOADERS`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.tools.evaluate import EvaluationError, rewards
from pcpo_overlay.tools.faults import Fault, told
from pcpo_overlay.tools.miniature import WEIGHTS, flux, sd, sd3
from pcpo_overlay.tools.runs.files import HIGHEST, RunError, is_number, read_object
from pcpo_overlay.tools.runs.run import MOST_EPOCHS, Run
from pcpo_overlay.tools.runs.settings import real, whole

#: Bytes of a checkpoint; those of the miniatures have less than a hundredth.
LARGEST = 2**30


@dataclass(frozen=True)
class Checkpoint:
    """What a trainer saved of its policy.

    Attributes:
        name: of its folder.
        epoch: how many epochs the policy had been trained.
        weights: the file that holds them.
        lora: whether they are low-rank factors on top of the base model; else the whole network.
    """

    name: str
    epoch: int
    weights: Path
    lora: bool


@dataclass(frozen=True)
class Loader:
    """What there is to know about one upstream's runs.

    Attributes:
        model: the miniature's name, a folder of ``miniature/weights``.
        network: the subfolder of the pipeline that is trained.
        load_pipeline: the pipeline in a folder, in float32.
        sample: images (N, 3, 32, 32) in [0, 1] of N prompts, by upstream's native sampler; takes ``seed`` and the
            sampler's settings.
        sampler: those settings, from the trainer's config.
        reward_weights: the weights of the run's rewards by name, from the trainer's config.
        rewards: the rewards that can be computed here.
        checkpoints: those of a run, in the order of training.
        put: gives a fresh pipeline the policy of a checkpoint.
        save_options: what makes ``ab`` save checkpoints.
        began_as: the folder of the model that a run began as, as its trainer names it.
    """

    model: str
    network: str
    load_pipeline: Callable[[Path], Any]
    sample: Callable[..., Tensor]
    sampler: Callable[[Mapping[str, Any]], dict[str, Any]]
    reward_weights: Callable[[Mapping[str, Any]], dict[str, float]]
    rewards: Mapping[str, rewards.Reward]
    checkpoints: Callable[[Run], list[Checkpoint]]
    put: Callable[[Any, Checkpoint], None]
    save_options: str
    began_as: Callable[[Run], str] = lambda run: str(run.info["trainer"]["pretrained"]["model"])

    @property
    def shipped(self) -> Path:
        """The miniature as this package ships it."""
        return WEIGHTS / self.model


def folders(run: Run, within: str, recorded: object, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    """The numbered folders that match ``pattern``, ascending: in the run folder, else where the trainer wrote.

    Args:
        run: which.
        within: the place below the run folder, as ``ab`` has it.
        recorded: the trainer's own setting of the place; counts where it is absolute.
        pattern: of a folder's name; its first group is the number.
    """
    places = [run.path / within]
    if isinstance(recorded, str) and Path(recorded).is_absolute():
        places.append(Path(recorded))
    for place in places:
        found = [(m, p) for p in _children(place) if (m := pattern.fullmatch(p.name)) and p.is_dir()]
        if found:
            return sorted((int(m[1]), p) for m, p in found)
    return []


def _children(place: Path) -> Iterable[Path]:
    return place.iterdir() if place.is_dir() else ()


def network_or_lora(folder: Path, epoch: int, network: Path, lora: Path) -> Checkpoint:
    """A checkpoint that is one of both kinds, in a safetensors file or in torch's older ``.bin``.

    Args:
        folder: the checkpoint's own.
        epoch: how many epochs the policy had been trained.
        network: the folder that would hold the whole network.
        lora: the file that would hold low-rank factors, without its suffix.

    Raises:
        EvaluationError: neither is there.
    """
    for stem, is_lora in ((network / "diffusion_pytorch_model", False), (lora, True)):
        for suffix in (".safetensors", ".bin"):
            weights = stem.with_name(stem.name + suffix)
            if weights.is_file():
                return Checkpoint(folder.name, epoch, weights, is_lora)
    raise EvaluationError(
        f"{folder} holds neither a whole network nor LoRA weights; was it cut short by a kill?"
    )


def _began_plain(run: Run, lora: object, setting: str) -> None:
    """Refuse a run whose trainer was given a LoRA to begin with.

    Raises:
        EvaluationError: it was.
    """
    if lora:
        raise EvaluationError(
            f"{run.path} began with a LoRA of its own ({setting}), and what is compared with here is the plain "
            "miniature"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a ``.bin`` of torch's; of the latter nothing but tensors is made.

    Raises:
        EvaluationError: it cannot be read, or holds something else than finite tensors by name.
    """
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        size = path.stat().st_size
        if size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        if path.suffix == ".bin":
            with zipfile.ZipFile(path) as parts:  # a packed part may be a thousand times its size
                if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
                    raise ValueError("a part of it is packed, which torch never does")
            held = torch.load(path, map_location="cpu", weights_only=True)
        else:
            from safetensors.torch import load_file

            held = load_file(str(path))
        _check_tensors(held, size)
    except ImportError:
        raise
    except Exception as error:  # each library has errors of its own for a file that is cut short
        raise EvaluationError(
            f"{path} cannot be read ({told(error):.300}); a checkpoint that a kill cut short is best moved away"
        ) from None
    return held


def _check_tensors(held: object, size: int) -> None:
    """Refuse what a file of so many bytes cannot hold as a network's weights: a view may claim any shape.

    Raises:
        ValueError: says what.
    """
    if not isinstance(held, dict):
        raise ValueError(f"it holds a {type(held).__name__} in place of tensors by name")
    claimed = 0
    for name, value in held.items():
        if not isinstance(name, str):
            raise ValueError(f"a name in it is {name!r:.60}")
        if (
            not isinstance(value, Tensor)
            or value.layout != torch.strided
            or value.is_meta
            or value.is_complex()
        ):
            raise ValueError(f"{name} is no tensor of real numbers, one by one")
        claimed += value.numel() * value.element_size()
        if claimed > size:
            raise ValueError(f"up to {name} it claims more numbers than it has")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} has numbers that are not finite; the training diverged")


def put_network(network: Any, checkpoint: Checkpoint) -> None:
    """Replace every weight of a network; a name too many or too few is an error, and never the base model's weight."""
    network.load_state_dict(read_weights(checkpoint.weights), strict=True)


def put(loader: Loader, pipeline: Any, checkpoint: Checkpoint) -> None:
    """Give a fresh pipeline the policy of a checkpoint.

    Raises:
        EvaluationError: it cannot be read, or does not fit.
        ImportError: a library is missing.
    """
    try:
        loader.put(pipeline, checkpoint)
    except (Fault, ImportError):
        raise
    except (
        Exception
    ) as error:  # each library has errors of its own for a name or a shape that it does not expect
        raise _does_not_fit(checkpoint, error) from None


def _does_not_fit(checkpoint: Checkpoint, error: object) -> EvaluationError:
    told = " ".join(str(error).split())
    return EvaluationError(f"{checkpoint.weights} does not fit the model the run began with: {told:.300}")


# ------------------------------------------------------------- ddpo-pytorch


def _ddpo_sampler(trainer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": whole(trainer, "sample.num_steps", 1, 1000),
        "guidance": real(trainer, "sample.guidance_scale", 0, 1000),
        "eta": real(trainer, "sample.eta", 0, 1),
    }


def _ddpo_checkpoints(run: Run) -> list[Checkpoint]:
    """Those of accelerate's ``save_state``, which numbers them from 0.

    Upstream saves after the training of every epoch whose number, counted from 0, is a multiple of ``save_freq`` but 0,
    so checkpoint ``k`` is the policy after ``(k + 1) * save_freq + 1`` epochs.

    Raises:
        EvaluationError: a resumed run, of whose checkpoints the epoch cannot be told.
    """
    trainer = run.info["trainer"]
    name = str(trainer["run_name"])
    recorded = str(Path(str(trainer["logdir"])) / name / "checkpoints")
    found = folders(run, f"logs/{name}/checkpoints", recorded, re.compile(r"checkpoint_(\d+)"))
    if found and trainer.get("resume_from"):
        raise EvaluationError(
            f"{run.path} was resumed (config.resume_from): upstream then numbers checkpoints anew, so that the "
            "epochs of these cannot be told"
        )
    checkpoints = []
    for number, folder in found:
        epoch = (number + 1) * whole(trainer, "save_freq", 1, MOST_EPOCHS) + 1
        checkpoints.append(network_or_lora(folder, epoch, folder / "unet", folder / "pytorch_lora_weights"))
    return checkpoints


def _ddpo_put(pipeline: Any, checkpoint: Checkpoint) -> None:
    if not checkpoint.lora:
        put_network(pipeline.unet, checkpoint)
        return
    from pcpo_overlay.compat.lora import load_lora

    load_lora(pipeline.unet, read_weights(checkpoint.weights))


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
    checkpoints=_ddpo_checkpoints,
    put=_ddpo_put,
    save_options="-- --config.save_freq=5 --config.num_checkpoint_limit=100",
)


# ---------------------------------------------------------------- flow_grpo


def _flow_sampler(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """As it samples to train, not as it evaluates: the reward to match is the one that was trained on."""
    return {
        "steps": whole(trainer, "sample.num_steps", 1, 1000),
        # upstream takes anything below 1 as no guidance too
        "guidance": max(1.0, real(trainer, "sample.guidance_scale", 0, 1000)),
        "noise_level": real(trainer, "sample.noise_level", 0, 100),
    }


def _flow_checkpoints(run: Run) -> list[Checkpoint]:
    """Those under ``checkpoints``, numbered by the optimizer steps taken before.

    With ``train.ema`` they hold upstream's averaged weights; there are no others.
    """
    trainer = run.info["trainer"]
    _began_plain(run, trainer["train"].get("lora_path"), "config.train.lora_path")
    recorded = str(Path(str(trainer["save_dir"])) / "checkpoints")
    checkpoints = []
    steps = [line["step"] for line in run.first_steps if is_number(line.get("step"))]
    for step, folder in folders(run, "checkpoints", recorded, re.compile(r"checkpoint-(\d+)")):
        if len(steps) < len(run.first_steps):
            raise EvaluationError(f"{run.path}: a step of metrics.jsonl has no number, which tells its epoch")
        epoch = sum(before < step for before in steps)
        inner = folder / "lora"  # upstream's name for either kind
        checkpoints.append(network_or_lora(folder, epoch, inner, inner / "adapter_model"))
    return checkpoints


def _flow_put(pipeline: Any, checkpoint: Checkpoint) -> None:
    if not checkpoint.lora:
        put_network(pipeline.transformer, checkpoint)
        return
    try:
        from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    except ImportError:
        raise _needs_peft("flow_grpo") from None
    saved = read_weights(checkpoint.weights)
    described, config = _read_lora(checkpoint, "adapter_config.json", ("r", "lora_alpha", "target_modules"))
    plain = config.to_dict()
    for name in sorted((described.keys() & plain.keys()) - _TELL_NOTHING):
        if (described[name] or plain[name]) and described[name] != plain[name]:
            raise _does_not_fit(checkpoint, f"its adapter_config.json has {name} {described[name]!r:.60}")
    policy = get_peft_model(pipeline.transformer, config).eval()
    set_peft_model_state_dict(policy, saved)
    _check_loaded(checkpoint, get_peft_model_state_dict(policy), saved)
    pipeline.transformer = policy


#: What an ``adapter_config.json`` may say without the adapter being another function of its weights; and what is read.
_TELL_NOTHING = {
    "base_model_name_or_path", "revision", "auto_mapping", "task_type", "peft_version", "inference_mode",
    "init_lora_weights", "lora_dropout", "megatron_core", "r", "lora_alpha", "target_modules",
}  # fmt: skip


def _read_lora(
    checkpoint: Checkpoint, file: str, names: tuple[str, str, str], within: str | None = None
) -> tuple[dict[str, Any], Any]:
    """What lies beside low-rank factors: the whole of it, and peft's configuration of the three things named.

    The factors alone do not say by how much they are scaled, which is alpha over rank. peft is given nothing else of
    the file: it would import a module that one of its fields names.

    Raises:
        EvaluationError: it cannot be read, or lacks one of them.
    """
    from peft import LoraConfig

    described = checkpoint.weights.with_name(file)
    try:
        held = read_object(described)
        rank, alpha, targets = ((held if within is None else held[within])[name] for name in names)
        if not (isinstance(rank, int) and 0 < rank <= 4096 and is_number(alpha)):
            raise ValueError(f"{names[0]} or {names[1]} is none")
        if not (isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets)):
            raise ValueError(f"{names[2]} is no list of names")
    except (OSError, RunError, KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"{described} cannot be read: {error!r:.200}; was it cut short by a kill?"
        ) from None
    return held, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)


def _needs_peft(upstream: str) -> ImportError:
    return ImportError(
        f'LoRA checkpoints of {upstream} need peft; install it with: pip install "pcpo-overlay[ab]"'
    )


def _check_loaded(checkpoint: Checkpoint, loaded: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Compare what a network now holds with the file: peft passes over names that it or the file lacks.

    Raises:
        EvaluationError: they differ.
    """
    wrong = loaded.keys() ^ saved.keys()
    common = loaded.keys() & saved.keys()
    wrong |= {name for name in common if not loaded[name].equal(saved[name].to(loaded[name].dtype))}
    if wrong:
        raise _does_not_fit(checkpoint, f"not loaded: {', '.join(sorted(wrong)[:4])}")


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
    checkpoints=_flow_checkpoints,
    put=_flow_put,
    save_options="-- --config.save_freq=5",
)

# ---------------------------------------------------------------- DanceGRPO


def _dance_sd_checkpoints(run: Run) -> list[Checkpoint]:
    """Those that the SD trainer writes where it runs, named by the epoch, from 0, after which it did."""
    checkpoints = []
    for number, folder in folders(run, "work/my_checkpoints", None, re.compile(r"checkpoint_epoch_(\d+)")):
        weights = folder / "diffusion_pytorch_model.safetensors"
        checkpoints.append(Checkpoint(folder.name, number + 1, weights, lora=False))
    return checkpoints


_DANCE_SD = Loader(
    model="sd",
    network="unet",
    load_pipeline=sd.load_pipeline,
    sample=sd.sample,
    sampler=_ddpo_sampler,
    reward_weights=lambda trainer: {str(trainer["reward_fn"]): 1.0},
    rewards={"hpsv2": rewards.digit_log_odds},
    checkpoints=_dance_sd_checkpoints,
    put=lambda pipeline, checkpoint: put_network(pipeline.unet, checkpoint),
    save_options="-- --config.save_freq=5",
    began_as=lambda run: str(run.path / "work" / "data" / "stable-diffusion-v1-4"),
)


def _flux_sampler(trainer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": whole(trainer, "sampling_steps", 1, 1000),
        "eta": real(trainer, "eta", 0, 100),
        "shift": real(trainer, "shift", 1e-3, 1000),
    }


def _flux_checkpoints(run: Run) -> list[Checkpoint]:
    """Those of the whole network."""
    return _flux_saved(run, "checkpoint", "diffusion_pytorch_model", lora=False)


def _flux_saved(run: Run, name: str, weights: str, lora: bool) -> list[Checkpoint]:
    """Checkpoints ``NAME-ITERATION-EPOCH``: saved *before* the training of that iteration, which counts from 1."""
    recorded = run.info["trainer"].get("output_dir")
    return [
        Checkpoint(folder.name, number - 1, folder / f"{weights}.safetensors", lora)
        for number, folder in folders(run, "checkpoints", recorded, re.compile(rf"{name}-(\d+)-\d+"))
    ]


_DANCE_FLUX = Loader(
    model="flux",
    network="transformer",
    load_pipeline=flux.load_pipeline,
    sample=flux.sample,
    sampler=_flux_sampler,
    reward_weights=lambda trainer: {"hpsv2": 1.0} if trainer["use_hpsv2"] else {},
    rewards={"hpsv2": rewards.digit_log_odds},
    checkpoints=_flux_checkpoints,
    put=lambda pipeline, checkpoint: put_network(pipeline.transformer, checkpoint),
    save_options="-- --checkpointing_steps=5",
    began_as=lambda run: str(run.path / "work" / run.info["trainer"]["pretrained_model_name_or_path"]),
)


def _flux_lora_checkpoints(run: Run) -> list[Checkpoint]:
    """Those of the low-rank factors."""
    began = run.info["trainer"].get("resume_from_lora_checkpoint")
    _began_plain(run, began, "--resume_from_lora_checkpoint")
    return _flux_saved(run, "lora-checkpoint", "pytorch_lora_weights", lora=True)


def _flux_lora_put(pipeline: Any, checkpoint: Checkpoint) -> None:
    try:
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
    except ImportError:
        raise _needs_peft("DanceGRPO") from None
    saved = {k.removeprefix("transformer."): v for k, v in read_weights(checkpoint.weights).items()}
    _, config = _read_lora(
        checkpoint, "lora_config.json", ("lora_rank", "lora_alpha", "target_modules"), within="lora_params"
    )
    pipeline.transformer.add_adapter(config)
    set_peft_model_state_dict(pipeline.transformer, saved)
    _check_loaded(checkpoint, get_peft_model_state_dict(pipeline.transformer), saved)


_DANCE_FLUX_LORA = replace(_DANCE_FLUX, checkpoints=_flux_lora_checkpoints, put=_flux_lora_put)

#: By the upstream's name in ``run.json``.
LOADERS: dict[str, Loader] = {
    "ddpo": _DDPO,
    "flow_grpo": _FLOW_GRPO,
    "flow_grpo_sd3_guard": _FLOW_GRPO,
    "dancegrpo_sd": _DANCE_SD,
    "dancegrpo_flux": _DANCE_FLUX,
    "dancegrpo_flux_lora": _DANCE_FLUX_LORA,
}
