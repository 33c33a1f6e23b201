"""What DanceGRPO's trainers read of prompts: a file of them, and for FLUX the list of their embeddings.

Upstream's own preprocessing (``scripts/preprocess``) needs a GPU and a prompts file that a clone may lack; this makes
the same files from any prompts, on any device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pcpo_overlay.tools.faults import Fault
from pcpo_overlay.tools.folders import check_writable, written
from pcpo_overlay.tools.models import load_pipeline

#: Name of the list in its folder, as upstream's preprocessing writes it.
LIST = "videos2caption.json"
#: As the folder's marker names it.
COMMAND = "pcpo embed flux"


class EmbeddingError(Fault):
    """The embeddings cannot be made; the message says why and what to do."""


def read_prompts(file: Path) -> list[str]:
    """The prompts of a text file, one a line, without empty ones.

    Raises:
        EmbeddingError: no such file, or nothing in it.
    """
    try:
        prompts = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise EmbeddingError(f"the prompts {file} cannot be read: {error}") from None
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise EmbeddingError(f"{file} holds no prompts; write one a line")
    return prompts


@torch.no_grad()
def write_flux_embeddings(
    model: Path,
    prompts: Sequence[str],
    out: Path,
    *,
    max_length: int = 512,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    batch: int = 16,
    report: Callable[[int], None] | None = None,
) -> Path:
    """Embed prompts with a FLUX pipeline's text encoders, as its trainers read them.

    Args:
        model: the pipeline's folder, of which only tokenizers and text encoders are loaded.
        prompts: each becomes one entry.
        out: folder to write, complete or not at all.
        max_length: tokens of a prompt for T5.
        device: where the text encoders run.
        dtype: of text encoders and embeddings.
        batch: prompts at a time.
        report: called with the prompts done after each batch.

    Returns:
        The list, ``out/videos2caption.json``. Beside it, in a folder each, one tensor a prompt: T5's states
        (tokens, width), CLIP's pooled state (width,), and the position of text (3,), which is zero.

    Raises:
        EmbeddingError: libraries are missing.
        FolderError: ``out`` is there and not of this command's making.
        FileNotFoundError, ModelError: ``model`` is no FLUX pipeline, or has classes of its own.
    """
    check_writable(out, COMMAND)
    try:
        pipeline = load_pipeline(model, "FluxPipeline", transformer=None, vae=None, torch_dtype=dtype).to(
            device
        )
    except ImportError:
        raise EmbeddingError(
            'diffusers is missing; install with: pip install "pcpo-overlay[miniature]"'
        ) from None

    entries: list[dict[str, Any]] = []
    with written(out, COMMAND) as scratch:
        for kind in ("prompt_embed", "pooled_prompt_embeds", "text_ids"):
            (scratch / kind).mkdir()
        for start in range(0, len(prompts), batch):
            some = list(prompts[start : start + batch])
            states, pooled, text_ids = pipeline.encode_prompt(
                prompt=some, prompt_2=some, max_sequence_length=max_length
            )
            for offset, prompt in enumerate(some):
                name = f"{start + offset}.pt"
                torch.save(states[offset].cpu().clone(), scratch / "prompt_embed" / name)
                torch.save(pooled[offset].cpu().clone(), scratch / "pooled_prompt_embeds" / name)
                torch.save(text_ids[0].cpu().clone(), scratch / "text_ids" / name)
                entries.append(
                    {
                        "prompt_embed_path": name,
                        "pooled_prompt_embeds_path": name,
                        "text_ids": name,
                        "caption": prompt,
                    }
                )
            if report is not None:
                report(len(entries))
        (scratch / LIST).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return out / LIST
