"""What DanceGRPO's trainers read beside models: prompts, embedded prompts with their list, the reward's checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from source import load

STANDINS = Path(__file__).resolve().parent / "standins"
CAPTIONS = [
    f"a {colour} {thing}" for colour in ("red", "green", "blue", "white") for thing in ("cat", "boat", "hat")
]


def prompts(file: Path) -> None:
    """One prompt a line, for the SD trainer."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(CAPTIONS) + "\n")


def reward_checkpoint(file: Path) -> None:
    """The weights of the stand-in for HPSv2, under the key that the trainers take them from."""
    # By its file: another `hpsv2` may be imported in the tests' process, the miniatures' own.
    module = load(STANDINS / "replaced" / "hpsv2" / "src" / "open_clip.py")
    model = module.create_model_and_transforms("", "")[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": model.state_dict()}, file)


def embeddings(folder: Path, tensors: dict[str, Any], **fields: Any) -> Path:
    """A list of captions with random tensors in one folder a kind, as upstream's preprocessing writes them.

    Args:
        folder: where to write; the list is ``list.json`` in it.
        tensors: by the list's key, ``(name of the folder, function of a generator that draws one tensor)``.
        fields: what every entry of the list has besides.

    Returns:
        The list.
    """
    random = torch.Generator().manual_seed(12)
    entries = []
    for number, caption in enumerate(CAPTIONS):
        entry = {"caption": caption, **fields}
        for key, (kind, draw) in tensors.items():
            entry[key] = f"{number}.pt"
            (folder / kind).mkdir(parents=True, exist_ok=True)
            torch.save(draw(random), folder / kind / entry[key])
        entries.append(entry)
    file = folder / "list.json"
    file.write_text(json.dumps(entries))
    return file


def flux(folder: Path) -> None:
    """6 tokens of 32 channels, a pooled embedding of 32, and the position of text, which is 0 on all three axes."""
    embeddings(
        folder,
        {
            "prompt_embed_path": ("prompt_embed", lambda random: torch.randn(6, 32, generator=random)),
            "pooled_prompt_embeds_path": (
                "pooled_prompt_embeds",
                lambda random: torch.randn(32, generator=random),
            ),
            "text_ids": ("text_ids", lambda random: torch.zeros(3)),
        },
    )


def hunyuan(folder: Path) -> None:
    """A pooled embedding in the first row, then 5 tokens of which the last is padding; the mask is of the tokens."""
    embeddings(
        folder,
        {
            "prompt_embed_path": ("prompt_embed", lambda random: torch.randn(6, 32, generator=random)),
            "prompt_attention_mask": (
                "prompt_attention_mask",
                lambda random: torch.tensor([True, True, True, True, False]),
            ),
        },
    )


def empty_prompt(folder: Path) -> None:
    """What guidance contrasts with: the empty prompt, embedded; its mask leaves one token."""
    random = torch.Generator().manual_seed(13)
    embedded = torch.randn(6, 32, generator=random)
    for kind, tensor in (("prompt_embed", embedded), ("prompt_attention_mask", torch.arange(5) < 1)):
        (folder / kind).mkdir(parents=True)
        torch.save(tensor, folder / kind / "0.pt")


def wan(folder: Path) -> None:
    """Prompt and negative prompt, 6 tokens each."""

    def draw(random: torch.Generator) -> torch.Tensor:
        return torch.randn(6, 32, generator=random)

    embeddings(
        folder,
        {
            "prompt_embed_path": ("prompt_embed", draw),
            "negative_prompt_embeds_path": ("negative_prompt_embeds", draw),
        },
    )


_QWEN: dict[str, Any] = {
    "prompt_embed_path": ("prompt_embed", lambda random: torch.randn(6, 32, generator=random)),
    "prompt_attention_mask": ("prompt_attention_mask", lambda random: (torch.arange(6) < 5).long()),
}


def qwen_image(folder: Path) -> None:
    """5 tokens padded to 6."""
    embeddings(folder, _QWEN, original_length=5)


def qwen_image_edit(folder: Path) -> None:
    """The same, and latents of the image to edit, 32x32 pixels."""
    images = {"image_latents": ("image_latents", lambda random: torch.randn(1, 16, 4, 4, generator=random))}
    embeddings(folder, {**_QWEN, **images}, original_length=5, calculated_height=32, calculated_width=32)
