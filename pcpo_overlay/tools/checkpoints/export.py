"""A trainer's low-rank factors as the file that diffusers' own ``load_lora_weights`` takes, with a model card.

Whatever form a trainer saves, the file has ``PART.MODULE.lora_A.weight`` (rank, in) and ``lora_B.weight`` (out, rank).
A scale ``alpha / rank`` that is a power of two goes into ``lora_B``, where it changes no bit of a picture: a loader
that does not read it from the file's header would else apply another one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import pcpo_overlay
from pcpo_overlay.files import sha256
from pcpo_overlay.record.provenance import versions
from pcpo_overlay.tools.checkpoints import Checkpoint, CheckpointError, policy
from pcpo_overlay.tools.checkpoints.weights import read_weights
from pcpo_overlay.tools.folders import check_writable, written
from pcpo_overlay.tools.runs.run import RUN, Run, load
from pcpo_overlay.trainers import TRAINERS, setting

COMMAND = "pcpo export-lora"
FILE, CARD = "pytorch_lora_weights.safetensors", "README.md"
#: Where the trainers' settings name the model that they began as.
BEGAN_AS = ("pretrained.model", "pretrained_model_name_or_path")
#: How far above a checkpoint its run's folder may be.
ABOVE = 6
#: Of each part, the class of diffusers that a card's reader most probably loads.
PIPELINES = {"unet": "StableDiffusionPipeline", "transformer": "DiffusionPipeline"}


@dataclass(frozen=True)
class Lora:
    """Low-rank factors, whatever trainer saved them.

    Attributes:
        part: of the pipeline, ``unet`` or ``transformer``.
        factors: by a module's name in it, ``A`` (rank, in) and ``B`` (out, rank).
        rank, alpha: each addition is ``alpha / rank * B A x``.
    """

    part: str
    factors: dict[str, tuple[Tensor, Tensor]]
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """What ``B A x`` is multiplied by."""
        return self.alpha / self.rank

    @property
    def exact(self) -> bool:
        """Whether the scale can go into the factors without a bit of a picture changing."""
        return self.scale > 0 and math.frexp(self.scale)[0] == 0.5

    def state(self) -> dict[str, Tensor]:
        """The tensors of diffusers' file by name; of an exact scale it is in ``lora_B``."""
        by = self.scale if self.exact else 1
        return {
            f"{self.part}.{module}.{name}": value.contiguous()
            for module, (a, b) in self.factors.items()
            for name, value in (("lora_A.weight", a), ("lora_B.weight", b * by))
        }

    def header(self) -> str:
        """What diffusers reads of a file's header: the configuration of the adapter."""
        told: dict[str, object] = {
            "r": self.rank,
            "lora_alpha": self.rank if self.exact else self.alpha,
            "target_modules": sorted(self.factors),
            "rank_pattern": {},
            "alpha_pattern": {},
        }
        return json.dumps({f"{self.part}.{name}": value for name, value in told.items()}, sort_keys=True)


def read(checkpoint: Checkpoint) -> Lora:
    """The low-rank factors of a checkpoint.

    Raises:
        CheckpointError: it holds a whole network, cannot be read, or holds factors of another form.
        ImportError: a library is missing.
    """
    if not checkpoint.lora:
        raise CheckpointError(
            f"{checkpoint.weights} holds a whole network and no LoRA; diffusers loads its folder with from_pretrained"
        )
    saved = read_weights(checkpoint.weights)
    form = policy.form_of(checkpoint, saved)
    if form is policy.put_processors:
        part, rank, alpha, pairs = "unet", 0, 0.0, dict(_of_processors(checkpoint, saved))
    elif form is policy.put_peft:
        config = policy.peft_config(checkpoint)
        part, rank, alpha = "transformer", config.r, config.lora_alpha
        pairs = dict(_of_names(checkpoint, saved, "base_model.model."))
    elif form is policy.put_dancegrpo:
        config = policy.dancegrpo_config(checkpoint)
        part, rank, alpha = "transformer", config.r, config.lora_alpha
        pairs = dict(_of_names(checkpoint, saved, "transformer."))
    else:
        raise CheckpointError(f"{checkpoint.weights} is no trainer's LoRA; is it exported already?")
    ranks = {a.shape[0] for a, _ in pairs.values()} | {b.shape[1] for _, b in pairs.values()}
    if form is policy.put_processors:
        rank = min(ranks)
        alpha = rank
    if ranks != {rank}:
        raise CheckpointError(
            f"{checkpoint.weights} has factors of ranks {sorted(ranks)}, and should of {rank}"
        )
    return Lora(part, pairs, rank, alpha)


#: By the name of ddpo-pytorch's factors, that of the projection which they add to.
_PROJECTIONS = {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"}


def _of_processors(checkpoint: Checkpoint, saved: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    name = re.compile(rf"(.+)\.processor\.({'|'.join(_PROJECTIONS)})\.(down|up)\.weight")
    yield from _paired(
        checkpoint,
        saved,
        lambda key: (m := name.fullmatch(key)) and (f"{m[1]}.{_PROJECTIONS[m[2]]}", m[3] == "down"),
    )


def _of_names(checkpoint: Checkpoint, saved: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Any]]:
    name = re.compile(rf"{re.escape(prefix)}(.+)\.lora_([AB])\.weight")
    yield from _paired(checkpoint, saved, lambda key: (m := name.fullmatch(key)) and (m[1], m[2] == "A"))


def _paired(checkpoint: Checkpoint, saved: Mapping[str, Tensor], split: Any) -> Iterator[tuple[str, Any]]:
    """Each module with its two factors; every tensor of the file has to be one.

    Raises:
        CheckpointError: one is not, or lacks the other.
    """
    found: dict[str, dict[bool, Tensor]] = {}
    for key, value in saved.items():
        named = split(key)
        if not named or value.ndim != 2:
            raise CheckpointError(f"{checkpoint.weights}: {key} is no low-rank factor of a linear layer's")
        found.setdefault(named[0], {})[named[1]] = value
    for module, pair in found.items():
        if len(pair) != 2:
            raise CheckpointError(f"{checkpoint.weights}: {module} has one factor of two")
        yield module, (pair[True], pair[False])
    if not found:
        raise CheckpointError(f"{checkpoint.weights} holds no factors")


def run_of(checkpoint: Checkpoint) -> Run | None:
    """The run that a checkpoint lies in; None where no folder above it is one."""
    above = checkpoint.weights.resolve().parents
    return next((load(folder) for folder in above[:ABOVE] if (folder / RUN).is_file()), None)


def export(checkpoint: Checkpoint, out: Path, run: Run | None, base_model: str | None) -> Path:
    """Write the file and the card.

    Args:
        checkpoint: of low-rank factors.
        out: folder to write, complete or not at all.
        run: that it is of, for the card; None where that is not known.
        base_model: its name on the hub, for the card; None is what the run says, if it is one.

    Returns:
        The file.

    Raises:
        CheckpointError: as :func:`read`.
        FolderError: ``out`` is there and not of this command's making.
    """
    check_writable(out, COMMAND)
    lora = read(checkpoint)
    from safetensors.torch import save_file

    with written(out, COMMAND) as scratch:
        save_file(lora.state(), scratch / FILE, {"format": "pt", policy.HEADER: lora.header()})
        text = card(out.name, checkpoint, lora, run, base_model, str(sha256(scratch / FILE)))
        (scratch / CARD).write_text(text, encoding="utf-8")
    return out / FILE


def card(
    name: str, checkpoint: Checkpoint, lora: Lora, run: Run | None, base_model: str | None, digest: str
) -> str:
    """A model card: what it was trained with, as far as the run says, and how it is loaded."""
    rows = [("checkpoint", f"{checkpoint.name}, sha256 `{sha256(checkpoint.weights)}`")]
    if run is not None:
        trainer, clone = TRAINERS.get(run.upstream), run.info.get("clone") or {}
        settings = run.info.get("trainer") or {}
        base_model = base_model or next(
            (str(v) for path in BEGAN_AS if _is_of_the_hub(v := setting(settings, path))), None
        )
        pcpo = run.info.get("pcpo") or {}
        rows += [
            ("trainer", f"{trainer.title}, `{trainer.script}`" if trainer else run.upstream),
            ("upstream's commit", f"`{clone['commit']}`" if clone.get("commit") else "not recorded"),
            ("PCPO", f"`{run.label}`"),
            *((f"PCPO, {key}", f"`{pcpo[key]}`") for key in ("weights", "variance") if pcpo.get(key)),
            ("seed", str(run.seed) if run.seed is not None else "not recorded"),
        ]
    else:
        rows.append(("training", "not recorded: no run folder lies above the checkpoint"))
    scale = f"{lora.scale:g}" + (
        ", in lora_B" if lora.exact else f", as lora_alpha {lora.alpha:g} in the header"
    )
    rows += [
        ("rank and scale", f"{lora.rank}, {scale}"),
        ("file", f"`{FILE}`, sha256 `{digest}`"),
        ("exported by", f"pcpo-overlay {pcpo_overlay.__version__}, torch {versions()['torch']}"),
    ]
    needs = (
        ""
        if lora.exact
        else "\nThe scale is read from the file's header, which takes diffusers 0.34 or later.\n"
    )
    told = base_model or "BASE_MODEL"
    return (
        "---\n"
        + (f"base_model: {base_model}\n" if base_model else "")
        + "library_name: diffusers\npipeline_tag: text-to-image\ntags:\n- lora\n- diffusers\n- pcpo\n---\n\n"
        f"# {name}\n\nA LoRA of {base_model or 'a model that the run does not name'}.\n\n| | |\n|---|---|\n"
        + "".join(f"| {key} | {value} |\n" for key, value in rows)
        + f"\n```python\nfrom diffusers import {PIPELINES[lora.part]}\n\n"
        f'pipeline = {PIPELINES[lora.part]}.from_pretrained("{told}")\n'
        f'pipeline.load_lora_weights("{name}", weight_name="{FILE}")\n```\n{needs}\n'
        "Licence: not chosen. Whoever publishes this chooses one, within what the base model's allows.\n"
    )


def _is_of_the_hub(value: Any) -> bool:
    return (
        isinstance(value, str) and bool(re.fullmatch(r"[\w.-]+/[\w.-]+", value)) and not Path(value).exists()
    )
