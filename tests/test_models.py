"""A model folder from anybody is read, and nothing in it is run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.miniature import flux_path, sd_path
from pcpo_overlay.tools.models import ModelError, load_pipeline, read_index

Capture = pytest.CaptureFixture[str]

HOSTILE = """
from pathlib import Path
Path({proof!r}).write_text("run")

class Evil:
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        return cls()
"""


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """A file that is there once the hostile code has run."""
    return tmp_path / "proof"


def hostile(folder: Path, proof: Path, **index: Any) -> Path:
    """The miniature with a module of its own wherever diffusers would look for one, and these entries in its index."""
    shutil.copytree(sd_path(), folder)
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for name in ("evil", "pipeline"):
            (place / f"{name}.py").write_text(HOSTILE.format(proof=str(proof)))
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **index}))
    return folder


ENTRIES: dict[str, dict[str, Any]] = {
    "a module in the part's folder": {"unet": ["evil", "Evil"]},
    "a module on the path": {"scheduler": ["antigravity", "fly"]},
    "a part that is not a pipeline's": {"extra": ["evil", "Evil"]},
    "a pipeline of its own": {"_class_name": ["pipeline", "Evil"]},
    "another class of diffusers": {"vae": ["diffusers", "DiffusionPipeline"]},
    "another class of transformers": {"text_encoder": ["transformers", "AutoModel"]},
    "half of an entry": {"unet": ["diffusers", None]},
    "too long an entry": {"unet": ["diffusers", "UNet2DConditionModel", "evil"]},
    "an object": {"unet": {"diffusers": "UNet2DConditionModel"}},
    "no names": {"unet": [["evil"], ["Evil"]]},
}


@pytest.mark.parametrize("entries", ENTRIES.values(), ids=ENTRIES)
def test_classes_that_are_not_on_the_list_are_refused(
    tmp_path: Path, proof: Path, capsys: Capture, entries: dict[str, Any]
) -> None:
    folder = hostile(tmp_path / "model", proof, **entries)
    with pytest.raises(ModelError, match=r"model_index\.json"):
        load_pipeline(folder, "StableDiffusionPipeline")
    assert main(["miniature", "check", "sd", "--path", str(folder), "--samples", "20", "--steps", "1"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("pcpo miniature: ") and err.count("\n") == 1
    assert str(folder) in err
    assert not proof.exists()


def test_the_hostile_folder_would_run_code(tmp_path: Path, proof: Path) -> None:
    """Why there is a list: diffusers itself runs the module, whatever it is told of trust."""
    from diffusers import StableDiffusionPipeline

    folder = hostile(tmp_path / "model", proof, unet=["evil", "Evil"])
    with pytest.raises(Exception):  # noqa: B017  the class is no network, which diffusers finds out after it ran
        StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    if "diffusers" in sys.modules and not proof.exists():
        pytest.skip("this diffusers no longer imports a module that lies in a part's folder")


def test_weights_are_not_unpickled(tmp_path: Path, proof: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (Path(proof).write_text, ("run",))

    folder = shutil.copytree(sd_path(), tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert main(["miniature", "check", "sd", "--path", str(folder), "--samples", "20", "--steps", "1"]) == 1
    assert not proof.exists()


def test_the_embeddings_of_a_hostile_model(tmp_path: Path, proof: Path, capsys: Capture) -> None:
    folder = shutil.copytree(flux_path(), tmp_path / "model")
    (folder / "tokenizer" / "evil.py").write_text(HOSTILE.format(proof=str(proof)))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "tokenizer": ["evil", "Evil"]}))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    words = [
        "embed",
        "flux",
        "--model",
        str(folder),
        "--prompts",
        str(prompts),
        "--out",
        str(tmp_path / "emb"),
    ]
    assert main(words) == 1
    assert "tokenizer is ['evil', 'Evil']" in capsys.readouterr().err
    assert not proof.exists() and not (tmp_path / "emb").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", "[" * 100_000, '{"_class_name": "FluxPipeline"}', "\x00"]
)
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(ModelError, match=r"model_index\.json"):
        read_index(tmp_path, "StableDiffusionPipeline")


def damage_config(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text('{"block_out_channels": 7}')


def damage_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 100)


def remove_part(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder")


def leave_out_of_the_index(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    del index["unet"]
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("damage", [damage_config, damage_weights, remove_part, leave_out_of_the_index])
def test_a_damaged_folder_is_one_line(
    tmp_path: Path, capsys: Capture, damage: Callable[[Path], None]
) -> None:
    folder = shutil.copytree(sd_path(), tmp_path / "model")
    damage(folder)
    assert main(["miniature", "check", "sd", "--path", str(folder), "--samples", "20", "--steps", "1"]) == 1
    _, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]  # the libraries have their say before
    assert last.startswith(f"pcpo miniature: {folder} cannot be loaded: ")


def test_no_pipeline_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no pipeline at"):
        read_index(tmp_path, "StableDiffusionPipeline")


def test_what_is_shipped_is_read() -> None:
    assert read_index(sd_path(), "StableDiffusionPipeline")["unet"] == ["diffusers", "UNet2DConditionModel"]
