"""What DanceGRPO's trainers read on the miniatures, at the relative paths that their scripts write out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from pcpo_overlay.tools.embeddings import write_flux_embeddings
from pcpo_overlay.tools.folders import made_by, written
from pcpo_overlay.tools.miniature import PROMPTS, flux, flux_path, sd_path
from pcpo_overlay.tools.miniature.animals import ANIMALS, animals_path
from pcpo_overlay.tools.miniature.animals import classifier as of_animals
from pcpo_overlay.tools.miniature.classifier import load_classifier
from pcpo_overlay.tools.miniature.dancegrpo import HPS_WEIGHTS, PROMPTS_FILE, SD

#: How often the prompts stand in the SD trainer's file, of which it makes one pass.
REPEATS = 1000
#: As the folder's marker names it.
COMMAND = "pcpo miniature prepare"


def prepare(folder: Path, *, animals: bool = False) -> Path:
    """Write the folder, unless it is there: ``data`` (models, embeddings), ``assets``, ``hps_ckpt``.

    With `animals` it is that of the SD trainer alone, and draws them. Everything is small, so models are copied: the
    folder stays whole when the package changes under a running command.

    Returns:
        `folder`.

    Raises:
        FolderError: it holds what this command did not make.
    """
    if made_by(folder, COMMAND):
        return folder
    with written(folder, COMMAND) as scratch:
        if animals:
            _write(scratch, animals_path(), ANIMALS, of_animals.load_classifier())
        else:
            _write(scratch, sd_path(), PROMPTS, load_classifier())
            _write_flux(scratch / "data")
    return folder


def _write(folder: Path, model: Path, prompts: Sequence[str], classifier: torch.nn.Module) -> None:
    """What the SD trainer reads; FLUX's scores by the same weights."""
    shutil.copytree(model, folder / SD)
    for file in (folder / PROMPTS_FILE, folder / HPS_WEIGHTS):
        file.parent.mkdir()
    (folder / PROMPTS_FILE).write_text("\n".join([*prompts] * REPEATS) + "\n", encoding="utf-8")
    torch.save({"state_dict": classifier.state_dict()}, folder / HPS_WEIGHTS)


def _write_flux(data: Path) -> None:
    shutil.copytree(flux_path(), data / "flux")
    with _quiet():
        write_flux_embeddings(
            flux_path(), PROMPTS, data / "rl_embeddings", max_length=flux.T5_LENGTH, dtype=torch.float32
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and notices of the libraries: this is a second's work within another command."""
    import diffusers.utils.logging
    import transformers.utils.logging

    loggings = (diffusers.utils.logging, transformers.utils.logging)
    before = [logging.get_verbosity() for logging in loggings]
    for logging in loggings:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, verbosity in zip(loggings, before, strict=True):
            logging.set_verbosity(verbosity)
            logging.enable_progress_bar()
