"""A network with the weights of a checkpoint: the whole network, or low-rank factors in each trainer's form.

==========================  ===========================================  =========================================
low-rank factors of         told by                                      what says their scale
==========================  ===========================================  =========================================
ddpo-pytorch                ``.processor.`` in the names                 nothing: it is 1
flow_grpo                   ``adapter_config.json`` beside               that file
DanceGRPO                   ``lora_config.json`` beside                  that file
``pcpo export-lora``        none of these                                the header of the file
==========================  ===========================================  =========================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pcpo_overlay.tools.checkpoints import Checkpoint, CheckpointError
from pcpo_overlay.tools.checkpoints.weights import read_weights
from pcpo_overlay.tools.faults import Fault
from pcpo_overlay.tools.runs.files import RunError, is_number, read_object

#: Beside the factors of flow_grpo and of DanceGRPO, what they were made with.
PEFT, DANCEGRPO = "adapter_config.json", "lora_config.json"
#: In the header of a safetensors file of diffusers', what its factors were made with.
HEADER = "lora_adapter_metadata"


def put(pipeline: Any, checkpoint: Checkpoint, largest: int | None = None) -> None:
    """Give a fresh pipeline the policy of a checkpoint; as :func:`policy`."""
    name = trained_part(pipeline)
    setattr(pipeline, name, policy(getattr(pipeline, name), checkpoint, largest))


def trained_part(pipeline: Any) -> str:
    """The part of a pipeline that the trainers train: ``unet`` or ``transformer``."""
    return "unet" if hasattr(pipeline, "unet") else "transformer"


def policy(network: Any, checkpoint: Checkpoint, largest: int | None = None) -> Any:
    """Put a checkpoint's weights on a fresh network.

    Args:
        network: the base model's, which is changed.
        checkpoint: of a policy that began as it.
        largest: bytes that a file of the checkpoint may have.

    Returns:
        The network to use in its place: itself, or peft's wrapper around it.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit.
        ImportError: a library is missing.
    """
    saved = read_weights(checkpoint.weights, largest)
    try:
        if not checkpoint.lora:
            # a name too many or too few is an error, and never the base model's weight
            network.load_state_dict(saved, strict=True)
            return network
        return form_of(checkpoint, saved)(network, checkpoint, saved)
    except (Fault, ImportError):
        raise
    except Exception as error:  # each library has errors of its own for a name or a shape it does not expect
        raise does_not_fit(checkpoint, error) from None


def form_of(checkpoint: Checkpoint, saved: Mapping[str, Tensor]) -> Any:
    """The function that puts these low-rank factors on a network."""
    if checkpoint.weights.with_name(PEFT).exists() or checkpoint.weights.stem == "adapter_model":
        return put_peft
    if checkpoint.weights.with_name(DANCEGRPO).exists():
        return put_dancegrpo
    if any(".processor." in name for name in saved):
        return put_processors
    return put_exported


def does_not_fit(checkpoint: Checkpoint, error: object) -> CheckpointError:
    """What to say of weights of other names or shapes than the network's."""
    told = " ".join(str(error).split())
    return CheckpointError(f"{checkpoint.weights} does not fit the model the run began with: {told:.300}")


def put_processors(unet: Any, checkpoint: Checkpoint, saved: dict[str, Tensor]) -> Any:
    """The attention processors that ddpo-pytorch trains, in the form of diffusers 0.17."""
    from pcpo_overlay.compat.lora import load_lora

    load_lora(unet, saved)
    return unet


def put_peft(network: Any, checkpoint: Checkpoint, saved: dict[str, Tensor]) -> Any:
    """The adapter of flow_grpo's trainers, which peft saved and peft wraps around the network."""
    try:
        from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    except ImportError:
        raise _needs_peft("flow_grpo") from None
    config = peft_config(checkpoint)
    adapted = get_peft_model(network, config).eval()
    set_peft_model_state_dict(adapted, saved)
    _check_loaded(checkpoint, get_peft_model_state_dict(adapted), saved)
    return adapted


def peft_config(checkpoint: Checkpoint) -> Any:
    """What an ``adapter_config.json`` says of an adapter, once it says nothing that is not read of it.

    Raises:
        CheckpointError: it cannot be read, or the adapter is another function of its weights.
    """
    described, config = _read_lora(checkpoint, PEFT, ("r", "lora_alpha", "target_modules"))
    plain = config.to_dict()
    for name in sorted((described.keys() & plain.keys()) - _TELL_NOTHING):
        if (described[name] or plain[name]) and described[name] != plain[name]:
            raise does_not_fit(checkpoint, f"its {PEFT} has {name} {described[name]!r:.60}")
    return config


#: What an ``adapter_config.json`` may say without the adapter being another function of its weights; and what is read.
_TELL_NOTHING = {
    "base_model_name_or_path", "revision", "auto_mapping", "task_type", "peft_version", "inference_mode",
    "init_lora_weights", "lora_dropout", "megatron_core", "r", "lora_alpha", "target_modules",
}  # fmt: skip


def dancegrpo_config(checkpoint: Checkpoint) -> Any:
    """What a ``lora_config.json`` says of an adapter."""
    names = ("lora_rank", "lora_alpha", "target_modules")
    return _read_lora(checkpoint, DANCEGRPO, names, within="lora_params")[1]


def _read_lora(
    checkpoint: Checkpoint, file: str, names: tuple[str, str, str], within: str | None = None
) -> tuple[dict[str, Any], Any]:
    """What lies beside low-rank factors: the whole of it, and peft's configuration of the three things named.

    The factors alone do not say by how much they are scaled, which is alpha over rank. peft is given nothing else of
    the file: it would import a module that one of its fields names.

    Raises:
        CheckpointError: it cannot be read, or lacks one of them.
    """
    described = checkpoint.weights.with_name(file)
    try:
        held = read_object(described)
        config = _config(*((held if within is None else held[within])[name] for name in names))
    except (OSError, RunError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{described} cannot be read: {error!r:.200}; was it cut short by a kill?"
        ) from None
    return held, config


def _config(rank: Any, alpha: Any, targets: Any) -> Any:
    """peft's configuration of an adapter.

    Raises:
        ValueError: one of the three is none.
        ImportError: peft is missing.
    """
    if not (isinstance(rank, int) and 0 < rank <= 4096 and is_number(alpha)):
        raise ValueError("the rank or alpha is none")
    if not (isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets)):
        raise ValueError("the target modules are no list of names")
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)


def put_dancegrpo(transformer: Any, checkpoint: Checkpoint, saved: dict[str, Tensor]) -> Any:
    """The adapter of DanceGRPO's FLUX-LoRA trainer, which diffusers saved."""
    return _add(transformer, checkpoint, dancegrpo_config(checkpoint), saved)


def put_exported(network: Any, checkpoint: Checkpoint, saved: dict[str, Tensor]) -> Any:
    """The adapter of a file that ``export-lora`` wrote."""
    return _add(network, checkpoint, exported_config(checkpoint), saved)


def exported_config(checkpoint: Checkpoint) -> Any:
    """What the header of diffusers' file says of an adapter.

    Raises:
        CheckpointError: it says nothing, so that the scale of the factors is not known.
    """
    from safetensors import safe_open

    file: Path = checkpoint.weights
    try:
        with safe_open(str(file), framework="pt") as opened:
            told = json.loads((opened.metadata() or {})[HEADER])
        held = {name.partition(".")[2]: value for name, value in told.items()}
        return _config(held["r"], held["lora_alpha"], held["target_modules"])
    except Exception as error:  # no safetensors file, no header, no JSON, no numbers
        raise CheckpointError(
            f"{file} does not say by how much its factors are scaled ({error!r:.200}), and neither {PEFT} nor "
            f"{DANCEGRPO} lies beside it; name the folder that the trainer saved"
        ) from None


def _add(network: Any, checkpoint: Checkpoint, config: Any, saved: dict[str, Tensor]) -> Any:
    """Add an adapter, whose names begin with the network's in the pipeline, to a network of diffusers'."""
    try:
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
    except ImportError:
        raise _needs_peft("DanceGRPO") from None
    saved = {name.removeprefix("transformer.").removeprefix("unet."): v for name, v in saved.items()}
    network.add_adapter(config)
    set_peft_model_state_dict(network, saved)
    _check_loaded(checkpoint, get_peft_model_state_dict(network), saved)
    return network


def _needs_peft(upstream: str) -> ImportError:
    return ImportError(
        f'LoRA checkpoints of {upstream} need peft; install it with: pip install "pcpo-overlay[ab]"'
    )


def _check_loaded(checkpoint: Checkpoint, loaded: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Compare what a network now holds with the file: peft passes over names that it or the file lacks.

    Raises:
        CheckpointError: they differ.
    """
    wrong = loaded.keys() ^ saved.keys()
    common = loaded.keys() & saved.keys()
    wrong |= {name for name in common if not loaded[name].equal(saved[name].to(loaded[name].dtype))}
    if wrong:
        raise does_not_fit(checkpoint, f"not loaded: {', '.join(sorted(wrong)[:4])}")
