"""A miniature of Stable Diffusion 1.x that draws the paper's 45 animals, 64x64 in colour.

``sd``           loading and sampling
``classifier``   a CNN that reads the animal, and the style of which set of icons it is drawn in
``rewards``      alignment, colourfulness and edges, for ddpo-pytorch's script
``measures``     distance within a prompt, number of styles
``check``        how many samples read as prompted, and how varied they are
``ddpo_config``, ``dancegrpo_sd_config``  files for ``--config`` of ddpo-pytorch's trainer, and of DanceGRPO's of SD

Its prompts are those of ddpo-pytorch's ``simple_animals``: a name alone, "cat". It was trained by
``benchmarks/miniatures/animals`` of the checkout, on the icons that ``NOTICE`` names; none of them is here.

Importing this package needs torch alone; the rest is imported where it is used.
"""

from __future__ import annotations

from pathlib import Path

from pcpo_overlay.tools.miniature import WEIGHTS

ANIMALS = (
    "ant", "bat", "bear", "bee", "beetle", "bird", "butterfly", "camel", "cat", "chicken", "cow", "deer", "dog",
    "dolphin", "duck", "fish", "fly", "fox", "frog", "goat", "goose", "gorilla", "hedgehog", "horse", "kangaroo",
    "lion", "lizard", "llama", "monkey", "mouse", "pig", "rabbit", "raccoon", "rat", "shark", "sheep", "snake",
    "spider", "squirrel", "tiger", "turkey", "turtle", "whale", "wolf", "zebra",
)  # fmt: skip
"""The 45 prompts; the position is the label."""

STYLES = (
    "noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat", "twemoji", "streamline-emojis", "fxemoji", "emojione",
)  # fmt: skip
"""The sets of icons that the model was trained on; the position is the label."""

IMAGE_SIZE = 64


def animals_path() -> Path:
    """Folder of the shipped miniature, for ``StableDiffusionPipeline.from_pretrained(path)``.

    Raises:
        FileNotFoundError: the installation lacks the weights.
    """
    path = WEIGHTS / "animals" / "sd"
    if not (path / "model_index.json").is_file():
        raise FileNotFoundError(
            f"the animals' weights are missing at {path}; reinstall pcpo-overlay, or in a checkout train them: "
            "python -m benchmarks.miniatures.animals all --folder DIR"
        )
    return path
