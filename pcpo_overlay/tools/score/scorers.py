"""The scorers by name: what each needs, where that comes from, how it is loaded, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.tools.faults import told
from pcpo_overlay.tools.sample.draw import digest
from pcpo_overlay.tools.score import ScoreError, pixels

#: What a scorer makes of pictures (N, 3, H, W) uint8 and their prompts: (N,) scores, or (N, D) features.
Scorer = Callable[[Tensor, Sequence[str]], Tensor]


@dataclass(frozen=True)
class Weights:
    """Something that a scorer needs.

    Attributes:
        what: the file or, with ``/``, the name on the hub.
        size: about.
        where: it comes from.
        files: of the hub's, one kind or the next; the others only where there is none of the first.
    """

    what: str
    size: str
    where: str
    files: tuple[str, ...] = ("model*.safetensors", "pytorch_model*.bin")


HUB = "the Hugging Face hub"
#: By the name that ``--weights NAME=PATH`` has.
WEIGHTS: dict[str, Weights] = {
    "inception": Weights(
        "weights-inception-2015-12-05-6726825d.pth",
        "91 MB",
        "github.com/toshas/torch-fidelity, release v0.2.0",
    ),
    "dinov2": Weights("facebook/dinov2-large", "1.2 GB", HUB),
    "alexnet": Weights("alexnet-owt-7be5be79.pth", "233 MB", "download.pytorch.org/models"),
    "lpips": Weights("alex.pth", "6 KB", "the package torchmetrics, or lpips"),
    "clip": Weights("apple/DFN5B-CLIP-ViT-H-14-378", "3.9 GB", HUB),
    "pickscore": Weights("yuvalkirstain/PickScore_v1", "3.9 GB", HUB),
    "clip-h": Weights("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "3.9 GB", HUB),
    "hpsv2": Weights("HPS_v2_compressed.pt", "1.9 GB", "xswu/HPSv2 on the hub"),
    "hpsv2.1": Weights("HPS_v2.1_compressed.pt", "1.9 GB", "xswu/HPSv2 on the hub"),
    "clip-l": Weights("openai/clip-vit-large-patch14", "1.7 GB", HUB),
    "aesthetic": Weights(
        "sac+logos+ava1-l14-linearMSE.pth", "4 MB", "a clone of ddpo-pytorch, ddpo_pytorch/assets"
    ),
    "imagereward": Weights("ImageReward.pt", "1.8 GB", "THUDM/ImageReward on the hub"),
    "bert": Weights("google-bert/bert-base-uncased", "of it the tokenizer, 0.7 MB", HUB, ("vocab.txt",)),
}


@dataclass(frozen=True)
class Kind:
    """A scorer that can be loaded.

    Attributes:
        needs: names of :data:`WEIGHTS`.
        preprocessing: what is recorded of how pictures are seen.
        load: the scorer, from the paths of what it needs and on a device.
        title: of its numbers, for a reader.
        recorded: what else is recorded of it.
    """

    needs: tuple[str, ...]
    preprocessing: str
    load: Callable[[Mapping[str, Path], torch.device], Scorer]
    title: str
    recorded: Callable[[], dict[str, Any]] = dict


def _inception(paths: Mapping[str, Path], device: torch.device) -> Scorer:
    from pcpo_overlay.tools.score.inception import Inception

    network = Inception()
    network.load(tensors(paths["inception"]))
    network.eval().to(device)

    @torch.no_grad()
    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.cat(network(pictures.to(device)), 1).float().cpu()

    return score


def _dinov2(paths: Mapping[str, Path], device: torch.device) -> Scorer:
    from transformers import Dinov2Model

    network: Any = Dinov2Model.from_pretrained(str(paths["dinov2"]), local_files_only=True).eval().to(device)

    @torch.no_grad()
    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        seen = pixels.squashed(pictures, 224).to(device)
        found: Tensor = network(seen).last_hidden_state[:, 0]  # the class token, after the final norm
        return found.float().cpu()

    return score


def _clip(name: str, how: str) -> Callable[[Mapping[str, Path], torch.device], Scorer]:
    def load(paths: Mapping[str, Path], device: torch.device) -> Scorer:
        from pcpo_overlay.tools.score.clip import Clip

        clip = Clip(paths[name])
        clip.model.to(device)
        scorer: Scorer = getattr(clip, how)
        return scorer

    return load


def _hps(name: str) -> Callable[[Mapping[str, Path], torch.device], Scorer]:
    def load(paths: Mapping[str, Path], device: torch.device) -> Scorer:
        from pcpo_overlay.tools.score.clip import Clip, from_open_clip

        clip = Clip(paths["clip-h"], see=pixels.hps)
        held: Any = tensors(paths[name])
        clip.model.load_state_dict(from_open_clip(held.get("state_dict", held)))
        clip.model.to(device)
        return clip.cosine

    return load


def _aesthetic(paths: Mapping[str, Path], device: torch.device) -> Scorer:
    from pcpo_overlay.tools.score.clip import Aesthetic, Clip

    clip = Clip(paths["clip-l"])
    clip.model.to(device)
    return Aesthetic(clip, tensors(paths["aesthetic"]))


def _imagereward(paths: Mapping[str, Path], device: torch.device) -> Scorer:
    from pcpo_overlay.tools.score.blip import ImageReward

    return ImageReward(tensors(paths["imagereward"]), paths["bert"], device)


def _ocr(paths: Mapping[str, Path], device: torch.device) -> Scorer:
    from pcpo_overlay.tools.score import ocr

    return ocr.Ocr(ocr.reader(ocr.installed(), device))


def _read_with() -> dict[str, Any]:
    """Which package reads, and of rapidocr, which has them, the weights; paddleocr fetches its own."""
    from pcpo_overlay.tools.score import ocr

    package = ocr.installed()
    return {"read_with": package, **(recorded(ocr.weights()) if package.startswith(ocr.RAPID) else {})}


def _of_digits(what: str) -> Callable[[Mapping[str, Path], torch.device], Scorer]:
    """What the miniatures' classifier, which ships with them, makes of the digits that they draw."""

    def load(paths: Mapping[str, Path], device: torch.device) -> Scorer:
        from pcpo_overlay.tools.miniature import classifier, rewards

        network = classifier.load_classifier().to(device)

        @torch.no_grad()
        def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
            try:
                labels = rewards.labels(prompts)
                images = pictures.to(device).float() / 255
                if what == "probability":
                    return network.digit_probability(images, labels).cpu()
                return network.features(images).cpu()
            except ValueError as error:
                raise ScoreError(
                    f"the miniatures' classifier reads their digits alone: {told(error)}"
                ) from None

        return score

    return load


def _shipped_classifier() -> dict[str, Any]:
    from pcpo_overlay.tools.miniature.classifier import classifier_path

    return recorded({"classifier": classifier_path()})


_CLIP_SEES = "Pillow bicubic to the shorter side, centre, CLIP mean and std"
_HPS_SEES = "float, torch bicubic antialiased to the longer side, zero pad, CLIP mean and std"
_OWN_PIXELS = "the picture's own pixels"
#: Scores of a picture, and features of one.
KINDS: dict[str, Kind] = {
    "clipscore": Kind(("clip",), _CLIP_SEES, _clip("clip", "cosine"), "CLIPScore (cosine)"),
    "pickscore": Kind(("pickscore",), _CLIP_SEES, _clip("pickscore", "pick"), "PickScore"),
    "hpsv2": Kind(("hpsv2", "clip-h"), _HPS_SEES, _hps("hpsv2"), "HPSv2"),
    "hpsv2.1": Kind(("hpsv2.1", "clip-h"), _HPS_SEES, _hps("hpsv2.1"), "HPSv2.1"),
    "aesthetic": Kind(("aesthetic", "clip-l"), _CLIP_SEES, _aesthetic, "aesthetic score"),
    "imagereward": Kind(("imagereward", "bert"), _CLIP_SEES, _imagereward, "ImageReward"),
    "ocr": Kind((), _OWN_PIXELS, _ocr, "OCR", _read_with),
    "digit": Kind((), _OWN_PIXELS, _of_digits("probability"), "digit probability", _shipped_classifier),
    "digit-features": Kind((), _OWN_PIXELS, _of_digits("features"), "digit features", _shipped_classifier),
    "inception": Kind(
        ("inception",), "TensorFlow 1 bilinear to 299, (x - 128) / 128", _inception, "Inception features"
    ),
    "dinov2": Kind(
        ("dinov2",), "Pillow bicubic to 224x224, ImageNet mean and std", _dinov2, "DINOv2 features"
    ),
}


def find(name: str, given: Mapping[str, str]) -> Path:
    """Where something that a scorer needs lies on this machine.

    Args:
        name: one of :data:`WEIGHTS`.
        given: by name, the path or the hub's name that the user gave.

    Raises:
        ScoreError: it is not here; says which file, how large, and where it comes from.
    """
    needed, called = WEIGHTS[name], given.get(name)
    if called is None and name == "lpips":
        for package, inside in (("torchmetrics", "functional/image/lpips_models"), ("lpips", "weights/v0.1")):
            file = _beside(package) / inside / needed.what
            if file.is_file():
                return file
    path = Path(called or needed.what)
    if path.exists():
        return path
    hub = called or needed.what
    why = ""
    if hub.count("/") == 1 and not hub.endswith((".pt", ".pth")):
        try:
            from huggingface_hub import snapshot_download

            for kind in needed.files:
                path = Path(snapshot_download(hub, allow_patterns=["*.json", "*.txt", kind]))
                if list(path.glob(kind)):
                    return path
        except Exception as error:  # the hub's client has many of its own
            why = f" ({type(error).__name__}: {told(error):.120})"
    raise ScoreError(
        f"{name} needs {needed.what}, {needed.size}, from {needed.where}; give it with --weights {name}=PATH"
        + (f"; {called} is not here{why}" if called else why)
    )


def _beside(package: str) -> Path:
    """The folder of an installed package, which is not imported; a folder that is not there, where it is none."""
    try:
        return Path(str(metadata.distribution(package).locate_file(package)))
    except metadata.PackageNotFoundError:
        return Path("/nonexistent")


def load(kind: str, given: Mapping[str, str], device: torch.device) -> tuple[Scorer, dict[str, Any]]:
    """A scorer, and what is recorded of it: weights' sha256 and preprocessing.

    Raises:
        ScoreError: what it needs is not here, or is something else.
        ImportError: a library is missing.
    """
    entry = KINDS[kind]
    paths = {name: find(name, given) for name in entry.needs}
    record = {"scorer": kind, **recorded(paths), "preprocessing": entry.preprocessing, **entry.recorded()}
    try:
        return entry.load(paths, device), record
    except (ImportError, ScoreError):
        raise
    except Exception as error:  # of the libraries, about files that are others than they should be
        places = ", ".join(f"{name}={path}" for name, path in paths.items())
        raise ScoreError(
            f"{kind} cannot be loaded from {places}: {type(error).__name__}: {told(error):.200}"
        ) from None


def tensors(path: Path) -> dict[str, Tensor]:
    """What a file of torch's, old or new, or of safetensors holds; nothing but tensors is made.

    Raises:
        ScoreError: it cannot be read.
        ImportError: safetensors is missing.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(path))
        held: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return held
    except ImportError:
        raise
    except Exception as error:  # each library has errors of its own for a file that is none
        raise ScoreError(f"{path} cannot be read as weights ({type(error).__name__})") from None


def recorded(paths: Mapping[str, Path]) -> dict[str, Any]:
    """The digests of weights, by name."""
    return {"weights_sha256": {name: digest(_files(path)) for name, path in paths.items()}}


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
