"""``pcpo score``: every number against an independent computation, and what a stop leaves behind."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections import OrderedDict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_sample import command as sample
from torch import Tensor, nn

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.miniature import sd_path
from pcpo_overlay.tools.miniature.classifier import classifier_path, load_classifier
from pcpo_overlay.tools.sample import folder
from pcpo_overlay.tools.score import pixels, run, scorers
from pcpo_overlay.tools.score.clip import Aesthetic, Clip, from_open_clip
from pcpo_overlay.tools.score.inception import Inception, resized
from pcpo_overlay.tools.score.lpips import Lpips
from pcpo_overlay.tools.score.statistics import Gaussian, frechet, inception_score, pairs

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")
Capture = pytest.CaptureFixture[str]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noisy(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Pictures of noise, which no resize leaves alone."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), generator=draw, dtype=torch.uint8)


# --- statistics -------------------------------------------------------------------------------------------------


def gaussian(features: Tensor, size: int = 10**6) -> Gaussian:
    return Gaussian.of(lambda: features.split(size))


def by_eigenvalues(a: Tensor, b: Tensor) -> float:
    """The distance from the eigenvalues of the product of both covariances."""
    means = (a.mean(0) - b.mean(0)).square().sum()
    c1, c2 = torch.cov(a.T), torch.cov(b.T)
    roots = torch.linalg.eigvals(c1 @ c2).real.clamp(min=0).sqrt().sum()
    return float(means + c1.trace() + c2.trace() - 2 * roots)


@pytest.mark.parametrize(("n", "m", "d"), [(400, 300, 24), (30, 200, 24), (12, 9, 40), (64, 64, 64)])
def test_frechet_distance_against_eigenvalues(n: int, m: int, d: int) -> None:
    mix = drawn(d, d, seed=3)
    a, b = drawn(n, d) @ mix + 0.3, drawn(m, d, seed=1) @ (mix + 0.2 * drawn(d, d, seed=4))
    told = by_eigenvalues(a, b)
    assert frechet(gaussian(a), gaussian(b)) == pytest.approx(told, rel=1e-6)
    assert frechet(gaussian(a, 7), gaussian(b, 50)) == pytest.approx(
        frechet(gaussian(a), gaussian(b)), rel=1e-11
    )
    assert frechet(gaussian(a), gaussian(a.flip(0), 11)) == 0


def test_a_gaussian_holds_no_more_than_a_square() -> None:
    features = drawn(500, 16)
    held = gaussian(features, 33)
    assert held.factor.shape == (16, 16) and held.count == 500
    assert torch.allclose(held.factor.T @ held.factor, torch.cov(features.T), atol=1e-12)
    assert torch.allclose(held.mean, features.mean(0), atol=1e-14)
    with pytest.raises(ValueError, match="two features or more, got 1"):
        gaussian(features[:1])
    with pytest.raises(ValueError, match="16 features against 3"):
        frechet(held, gaussian(features[:, :3]))


def test_the_cost_at_the_papers_size_is_measured(capsys: Capture) -> None:
    from benchmarks import score_size

    assert score_size.measure(300, 8).distance == pytest.approx(
        frechet(*(gaussian(torch.cat(list(score_size.features(300, 8, seed)()))) for seed in (1, 2))),
        rel=1e-9,
    )
    score_size.main(["--pictures", "400", "--prompts", "4", "--features", "16"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| over all | 400 | ") and lines[3].startswith("| of one prompt | 100 | ")
    assert "machine:" in "\n".join(lines[4:])


def test_inception_score_by_hand() -> None:
    """Sure of as many classes as there are is that number; unsure of any is 1."""
    sure = 60.0 * torch.eye(4).repeat(25, 1)
    assert inception_score(sure, splits=1) == pytest.approx(4, rel=1e-6)
    assert inception_score(torch.zeros(100, 4), splits=10) == 1
    logits = drawn(40, 6)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2020))
    parts = []
    for rows in np.array_split(logits[order].softmax(1).numpy(), 4):
        q = rows.mean(0)
        parts.append(math.exp(np.mean([sum(p * np.log(p / q)) for p in rows])))
    assert inception_score(logits, splits=4) == pytest.approx(np.mean(parts), rel=1e-12)
    with pytest.raises(ValueError, match="10 splits need as many pictures, got 9"):
        inception_score(logits[:9])


def test_pairs_are_different_and_seeded() -> None:
    assert pairs(4, 100).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    some = pairs(50, 40)
    assert len({tuple(pair) for pair in some.tolist()}) == 40 and (some[:, 0] < some[:, 1]).all()
    assert torch.equal(some, pairs(50, 40)) and not torch.equal(some, pairs(50, 40, seed=1))


# --- preprocessing, bit for bit ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 64), (51, 80), (300, 200), (24, 24)])
def test_clip_sees_what_transformers_processor_gives(height: int, width: int) -> None:
    from transformers import CLIPImageProcessor

    given = noisy(2, height, width)
    processor = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    pictures = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in given]
    expected = processor(pictures, return_tensors="pt").pixel_values
    seen = pixels.clip(given, 24)
    assert seen.shape == expected.shape == (2, 3, 24, 24)
    assert (seen - expected).abs().max() <= 5e-7, "the pixels are equal; NumPy divides in other steps"
    back = [(x * torch.tensor(pixels.CLIP[1])[:, None, None] + torch.tensor(pixels.CLIP[0])[:, None, None]) * 255
            for x in (seen, expected)]  # fmt: skip
    assert torch.equal(back[0].round(), back[1].round())


def test_dinov2_sees_pillows_square() -> None:
    given = noisy(2, 50, 80)
    for picture, seen in zip(given, pixels.squashed(given, 28), strict=True):
        square = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((28, 28), Image.Resampling.BICUBIC)
        plain = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in pixels.IMAGENET)
        assert torch.equal(seen, (plain - mean) / std)


def cubic(old: int, new: int) -> Tensor:
    """(new, old) weights of an antialiased bicubic resize, Keys' kernel with a = -1/2."""
    scale = old / new
    wide = max(scale, 1.0)
    weights = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        centre = (i + 0.5) * scale
        for j in range(old):
            x = abs((j + 0.5 - centre) / wide)
            if x < 1:
                weights[i, j] = 1.5 * x**3 - 2.5 * x**2 + 1
            elif x < 2:
                weights[i, j] = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return weights / weights.sum(1, keepdim=True)


def test_hps_resizes_floats_pads_with_black_and_clamps_nothing() -> None:
    given = noisy(1, 40, 60)
    seen = pixels.hps(given, 30)
    plain = cubic(40, 20) @ (given.double() / 255) @ cubic(60, 30).T
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in pixels.CLIP)
    assert seen.shape == (1, 3, 30, 30)
    assert torch.allclose(seen[:, :, 5:25].double(), (plain - mean) / std, atol=2e-5)
    black = (-mean / std).float().expand(3, 5, 30)
    assert torch.allclose(seen[0, :, :5], black) and torch.allclose(seen[0, :, 25:], black)
    edge = torch.zeros(1, 3, 60, 60, dtype=torch.uint8)
    edge[..., 30:] = 255
    back = pixels.hps(edge, 20).double() * std + mean
    assert back.max() > 1.01 and back.min() < -0.01, "bicubic overshoots at an edge"


# --- networks ---------------------------------------------------------------------------------------------------


def random_inception(path: Path | None = None) -> Inception:
    """Random weights of a size that leaves pictures apart, under the published names; written to ``path``."""
    network, draw = Inception().eval(), torch.Generator().manual_seed(1)
    state = network.state_dict()
    for name in sorted(state):
        shape = state[name].shape
        if name.endswith("conv.weight"):
            state[name] = torch.randn(shape, generator=draw) * (2 / state[name][0].numel()) ** 0.5
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(shape, generator=draw)
        elif name.startswith("fc") or name.endswith(("running_mean", "bias")):
            state[name] = torch.randn(shape, generator=draw) * (0.3 if name.startswith("fc") else 0.05)
    if path is not None:
        published = {n.replace(".a.", "a.").replace(".b.", "b."): value for n, value in state.items()}
        torch.save(published, path)
    network.load_state_dict(state)
    return network


#: What torch-fidelity 0.4.0 (torch 2.13.0, a CPU) gives of the same weights and pictures, its 2048 and logits_unbiased:
#: the first four of each picture, and the norm of all.
FIDELITY: dict[str, Any] = {
    "features": {
        "first": [0.137252, 2.171098, 1.049443, 2.307309, 0.153175, 2.135359, 1.056002, 2.211231],
        "norm": [93.11205, 92.87243],
    },
    "logits": {
        "first": [-33.095608, 1.731733, 23.312263, -3.779396, -33.626816, 2.387636, 23.480169, -3.298787],
        "norm": [903.66681, 900.45105],
    },
}


def test_inception_against_torch_fidelity() -> None:
    network = random_inception()
    with torch.no_grad():
        features, logits = network(noisy(2, 37, 53, seed=5))
    for name, found in (("features", features), ("logits", logits)):
        told = FIDELITY[name]
        assert found[:, :4].flatten().tolist() == pytest.approx(told["first"], rel=1e-4, abs=1e-5)
        assert found.norm(dim=1).tolist() == pytest.approx(told["norm"], rel=1e-5)


def test_tensorflows_resize_by_hand() -> None:
    x = torch.tensor([[[[0.0, 10.0, 20.0]]]]).expand(1, 1, 3, 3)
    assert resized(x, 2)[0, 0, 0].tolist() == [0.0, 15.0], "pixel 1 lies at 1 * 3 / 2"
    assert resized(x, 6)[0, 0, 0].tolist() == [0.0, 5.0, 10.0, 15.0, 20.0, 20.0], "the last repeats"


def random_alexnet(path: Path) -> None:
    draw = torch.Generator().manual_seed(2)
    held = {}
    for n, i, o, k in (
        (0, 3, 64, 11),
        (3, 64, 192, 5),
        (6, 192, 384, 3),
        (8, 384, 256, 3),
        (10, 256, 256, 3),
    ):
        held[f"features.{n}.weight"] = torch.randn(o, i, k, k, generator=draw) * (2 / (i * k * k)) ** 0.5
        held[f"features.{n}.bias"] = 0.1 * torch.randn(o, generator=draw)
    held["classifier.1.weight"] = torch.zeros(2, 2)
    torch.save(held, path)


def real_heads() -> dict[str, Tensor]:
    file = Path(str(metadata.distribution("torchmetrics").locate_file("torchmetrics")))
    held: dict[str, Tensor] = torch.load(
        file / "functional/image/lpips_models/alex.pth", map_location="cpu", weights_only=True
    )
    return held


def test_lpips_with_its_real_heads(tmp_path: Path) -> None:
    random_alexnet(tmp_path / "alexnet.pth")
    network, heads = torch.load(tmp_path / "alexnet.pth", weights_only=True), real_heads()
    model = Lpips()
    model.load(network, heads)
    assert all((head >= 0).all() and head.sum() > 0 for head in model.heads), (
        "as published: no negative weight"
    )
    one, other = noisy(2, 64, 64), noisy(2, 64, 64, seed=1)
    with torch.no_grad():
        found = model.distance(model.features(one), model.features(other))
        assert model.distance(model.features(one), model.features(one)).tolist() == [0, 0]

    layers = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(),
        nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
    )  # fmt: skip
    layers.load_state_dict({k.removeprefix("features."): v for k, v in network.items() if "features" in k})
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total = torch.zeros(2)
    for n in range(2):
        x, y = (((p[n].float() / 255 * 2 - 1).permute(1, 2, 0) - shift) / scale for p in (one, other))
        x, y, number = x.permute(2, 0, 1)[None], y.permute(2, 0, 1)[None], 0
        with torch.no_grad():
            for layer in layers:
                x, y = layer(x), layer(y)
                if isinstance(layer, nn.ReLU):
                    a, b = F.normalize(x, dim=1, eps=1e-10), F.normalize(y, dim=1, eps=1e-10)
                    total[n] += F.conv2d((a - b) ** 2, heads[f"lin{number}.model.1.weight"]).mean()
                    number += 1
    assert number == 5 and torch.allclose(found, total, rtol=1e-5)
    assert found.min() > 0.01


# --- CLIP -------------------------------------------------------------------------------------------------------


def tiny_clip(path: Path, seed: int = 0) -> Path:
    """A CLIP of two layers with the miniature's tokenizer, in transformers' layout."""
    from transformers import CLIPConfig, CLIPModel

    text = json.loads((sd_path() / "text_encoder" / "config.json").read_text())
    kept = {
        key: text[key] for key in ("vocab_size", "max_position_embeddings", "eos_token_id", "bos_token_id")
    }
    size = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
    config = CLIPConfig(
        text_config={**size, **kept, "hidden_size": 16},
        vision_config={**size, "hidden_size": 24, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(seed)
    model = CLIPModel(config)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
        model.logit_scale.fill_(math.log(100))
    shutil.copytree(sd_path() / "tokenizer", path)
    model.save_pretrained(path)
    return path


class Layer(nn.Module):
    """A layer as open_clip has it."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, inner), gelu=nn.GELU(), c_proj=nn.Linear(inner, width))
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Layer(width, 2, 48) for _ in range(2)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.resblocks:
            x = layer(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 8, 8, bias=False)
        self.class_embedding, self.positional_embedding = nn.Parameter(drawn(24)), nn.Parameter(drawn(17, 24))
        self.ln_pre, self.ln_post, self.transformer = nn.LayerNorm(24), nn.LayerNorm(24), Tower(24)
        self.proj = nn.Parameter(drawn(24, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, 24), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """open_clip's model, of the sizes of :func:`tiny_clip`, in float64."""

    def __init__(self, words: int, length: int) -> None:
        super().__init__()
        self.visual, self.transformer, self.ln_final = Visual(), Tower(16), nn.LayerNorm(16)
        self.token_embedding = nn.Embedding(words, 16)
        self.positional_embedding = nn.Parameter(drawn(length, 16))
        self.text_projection, self.logit_scale = nn.Parameter(drawn(16, 12)), nn.Parameter(torch.ones(()))
        self.double()
        draw = torch.Generator().manual_seed(9)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)

    def text(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        mask = torch.full((length, length), -math.inf, dtype=torch.float64).triu(1)
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding[:length], mask)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(1)] @ self.text_projection


@torch.no_grad()
def test_open_clips_weights_in_transformers_class(tmp_path: Path) -> None:
    """HPSv2's files have open_clip's names; the score is the cosine that open_clip's own arithmetic gives."""
    base = tiny_clip(tmp_path / "clip")
    held = json.loads((base / "config.json").read_text())["text_config"]
    reference = OpenClip(held["vocab_size"], held["max_position_embeddings"])
    state = {name: value.float() for name, value in reference.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "HPS_v2.1_compressed.pt")
    paths = {"hpsv2.1": tmp_path / "HPS_v2.1_compressed.pt", "clip-h": base}
    scorer = scorers.KINDS["hpsv2.1"].load(paths, torch.device("cpu"))
    prompts, given = ["a handwritten three", "a handwritten nine"], noisy(2, 40, 60)
    images = reference.visual(pixels.hps(given, 32).double())
    ids = Clip(base).tokenizer(prompts, padding="max_length", max_length=16, return_tensors="pt").input_ids
    told = F.cosine_similarity(images, reference.text(ids))
    assert scorer(given, prompts).tolist() == pytest.approx(told.tolist(), abs=1e-5)
    assert abs(told[0] - told[1]) > 1e-3
    with pytest.raises(ValueError, match="other is in no CLIP"):
        from_open_clip({"other": torch.zeros(1)})


@torch.no_grad()
def test_clipscore_and_pickscore(tmp_path: Path) -> None:
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    base = tiny_clip(tmp_path / "clip")
    prompts, given = ["a handwritten three", "a handwritten nine", "a handwritten three"], noisy(3, 64, 64)
    clip = Clip(base)
    model, tokenizer = CLIPModel.from_pretrained(base), CLIPTokenizer.from_pretrained(base)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    seen = processor([Image.fromarray(p.permute(1, 2, 0).numpy()) for p in given], return_tensors="pt")
    output = model(**seen, **tokenizer(prompts, padding=True, return_tensors="pt"))
    scaled = output.logits_per_image.diagonal()
    assert clip.pick(given, prompts).tolist() == pytest.approx(scaled.tolist(), abs=1e-3)
    assert clip.cosine(given, prompts).tolist() == pytest.approx((scaled / 100).tolist(), abs=1e-5)


@torch.no_grad()
def test_the_aesthetic_head(tmp_path: Path) -> None:
    clip = Clip(tiny_clip(tmp_path / "clip"))
    widths = (12, 8, 6, 5, 4, 1)
    names = (0, 2, 4, 6, 7)
    head = {}
    for n, (number, i, o) in enumerate(zip(names, widths[:-1], widths[1:], strict=True)):
        head[f"layers.{number}.weight"], head[f"layers.{number}.bias"] = (
            drawn(o, i, seed=n).float(),
            drawn(o, seed=n + 9).float(),
        )
    x = clip.images(noisy(3, 64, 64))
    assert torch.allclose(x.norm(dim=1), torch.ones(3))
    for number in names:
        x = x @ head[f"layers.{number}.weight"].T + head[f"layers.{number}.bias"]
    assert torch.allclose(Aesthetic(clip, head)(noisy(3, 64, 64), [""] * 3), x[:, 0], atol=1e-5)


@pytest.mark.upstream("ddpo-pytorch")
def test_the_real_aesthetic_head_is_read(ddpo_pristine: Path, tmp_path: Path) -> None:
    file = ddpo_pristine / "ddpo_pytorch" / "assets" / scorers.WEIGHTS["aesthetic"].what
    scorer = Aesthetic(Clip(tiny_clip(tmp_path / "clip")), scorers.tensors(file))
    assert [tuple(next(layer.parameters()).shape) for layer in scorer.layers] == [
        (1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16)
    ]  # fmt: skip


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of every scorer, tiny or random, and two folders of six pictures: the base's and a tuned one's."""
    from policies import whole_unet
    from transformers import Dinov2Config, Dinov2Model

    base = tmp_path_factory.mktemp("scores")
    torch.set_num_threads(1)  # as in the tests themselves: bits are compared with what is drawn there
    clip = tiny_clip(base / "clip")
    for name in ("pickscore", "clip-h", "clip-l"):
        shutil.copytree(clip, base / name)
    random_inception(base / "inception.pth")
    random_alexnet(base / "alexnet.pth")
    torch.manual_seed(4)
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(**size, image_size=224, patch_size=56)).save_pretrained(base / "dinov2")
    head = {f"layers.0.{kind}": value for kind, value in (("weight", drawn(1, 12)), ("bias", drawn(1)))}
    torch.save({k: v.float() for k, v in head.items()}, base / "aesthetic.pth")
    text = json.loads((clip / "config.json").read_text())["text_config"]
    for name in ("hpsv2", "hpsv2.1"):
        state = OpenClip(text["vocab_size"], text["max_position_embeddings"]).state_dict()
        torch.save({"state_dict": {k: v.float() for k, v in state.items()}}, base / f"{name}.pt")
    whole_unet(base / "checkpoint")
    common: tuple[object, ...] = ("--limit", 2, "--seeds", "0-2")
    assert sample(base / "base", *common) == 0
    assert sample(base / "tuned", *common, "--checkpoint", base / "checkpoint") == 0
    return base


GIVEN = {
    "inception": "inception.pth", "dinov2": "dinov2", "alexnet": "alexnet.pth", "clip": "clip",
    "pickscore": "pickscore", "clip-h": "clip-h", "hpsv2": "hpsv2.pt", "hpsv2.1": "hpsv2.1.pt", "clip-l": "clip-l",
    "aesthetic": "aesthetic.pth",
}  # fmt: skip


def score(held: Path, *folders: Path, metrics: str, more: tuple[object, ...] = ()) -> int:
    given = [word for name, path in GIVEN.items() for word in ("--weights", f"{name}={held / path}")]
    words = ["score", *map(str, folders), "--metrics", metrics, *given, *map(str, more)]
    return main(words)


def sets(path: Path) -> dict[str, Any]:
    return {line["metric"]: line for line in map(json.loads, (path / run.SETS).read_text().splitlines())}


def copied(held: Path, tmp_path: Path) -> tuple[Path, Path]:
    return tuple(Path(shutil.copytree(held / name, tmp_path / name)) for name in ("base", "tuned"))  # type: ignore[return-value]


EVERY = "clipscore,pickscore,hpsv2,hpsv2.1,aesthetic,fid,is,fd-dinov2,lpips"


def test_every_metric_of_two_folders(held: Path, tmp_path: Path, capsys: Capture) -> None:
    base, tuned = copied(held, tmp_path)
    assert (
        score(held, base, tuned, metrics=EVERY, more=("--reference", base, "--splits", 2, "--batch", 2)) == 0
    )
    told = sets(tuned)
    assert set(told) == set(EVERY.split(","))
    assert {line["pictures"] for line in told.values()} == {6}
    assert all(len(line["prompts"]) == 2 for line in told.values())

    opened = folder.load(tuned)
    pictures = opened.pictures()
    images = torch.stack([opened.read(p) for p in pictures])
    others = torch.stack([folder.load(base).read(p) for p in folder.load(base).pictures()])
    network = random_inception()
    with torch.no_grad():
        features, logits = network(images)
        before, _ = network(others)
    assert told["fid"]["overall"] == pytest.approx(frechet(gaussian(features), gaussian(before)), rel=1e-3)
    assert told["fid"]["overall"] > 0 == sets(base)["fid"]["overall"]
    first = frechet(gaussian(features[:3]), gaussian(before[:3]))
    assert told["fid"]["prompts"][0]["value"] == pytest.approx(first, rel=1e-3)
    assert told["is"]["overall"] == pytest.approx(inception_score(logits, 2), rel=1e-4)

    texts = [p.text for p in pictures]
    cosines = Clip(held / "clip").cosine(images, texts)
    lines = [json.loads(line) for line in (tuned / run.SCORES).read_text().splitlines()]
    assert [line["scores"]["clipscore"] for line in lines] == pytest.approx(cosines.tolist(), abs=1e-5)
    assert told["clipscore"]["overall"] == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert told["clipscore"]["prompts"][1]["value"] == pytest.approx(float(cosines[3:].mean()), abs=1e-5)

    model = Lpips()
    model.load(torch.load(held / "alexnet.pth", weights_only=True), real_heads())
    with torch.no_grad():
        of = model.features(images)
        distances = [
            float(model.distance(*([layer[n : n + 1] for layer in of] for n in pair)))
            for start in (0, 3)
            for pair in ((start, start + 1), (start, start + 2), (start + 1, start + 2))
        ]
    assert told["lpips"]["overall"] == pytest.approx(np.mean(distances), rel=1e-4)
    weights = hashlib.sha256((held / "inception.pth").read_bytes()).hexdigest()
    assert told["fid"]["weights_sha256"] == {"inception": weights}
    assert told["fid"]["reference"] == folder.load(base).settings and told["is"]["reference"] is None
    assert "TensorFlow 1" in told["fid"]["preprocessing"] and "torch" in told["fid"]["versions"]
    assert "tuned: fid" in capsys.readouterr().out


def test_the_miniatures_classifier_needs_no_weights(tmp_path: Path, capsys: Capture) -> None:
    base, other = tmp_path / "base", tmp_path / "other"
    assert sample(base, "--limit", 2, "--seeds", "0-2") == sample(other, "--limit", 2, "--seeds", "3-5") == 0
    assert main(["score", str(other), "--metrics", "digit,fd-digit", "--reference", str(base)]) == 0
    network, features = load_classifier(), []
    for opened in map(folder.load, (base, other)):
        images = torch.stack([opened.read(picture) for picture in opened.pictures()]) / 255
        features.append(network.features(images))
    told = sets(other)
    odds = network.head(features[1]).softmax(1)
    by_hand = [float(odds[:3, 0].mean()), float(odds[3:, 1].mean())]
    assert [prompt["value"] for prompt in told["digit"]["prompts"]] == pytest.approx(by_hand, rel=1e-6)
    apart = frechet(gaussian(features[1]), gaussian(features[0]))
    assert told["fd-digit"]["overall"] == pytest.approx(apart, rel=1e-6) and apart > 0
    weights = hashlib.sha256(classifier_path().read_bytes()).hexdigest()
    assert told["digit"]["weights_sha256"] == told["fd-digit"]["weights_sha256"] == {"classifier": weights}

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    assert sample(tmp_path / "cat", "--prompts", prompts) == 0
    assert main(["score", str(tmp_path / "cat"), "--metrics", "digit"]) == 1
    said = "pcpo score: the miniatures' classifier reads their digits alone: the digit reward knows no prompt 'a cat'"
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)


def test_what_is_scored_is_not_scored_again(
    held: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tuned = copied(held, tmp_path)
    monkeypatch.setattr(run, "PIECE", 2)
    seen: list[int] = []
    original, stop = Clip.cosine, [2]

    def counted(self: Clip, pictures: Tensor, prompts: Any) -> Tensor:
        seen.append(len(pictures))
        if len(seen) == stop[0]:
            raise KeyboardInterrupt
        return original(self, pictures, prompts)

    monkeypatch.setattr(Clip, "cosine", counted)
    assert score(held, tuned, metrics="clipscore") == 130
    stop[0] = 99
    assert score(held, tuned, metrics="clipscore") == 0
    assert seen == [2, 2, 2, 2], "the first piece was kept, the second was not done"
    first = (tuned / run.SCORES).read_text()
    assert score(held, tuned, metrics="clipscore") == 0 and len(seen) == 4
    assert (tuned / run.SCORES).read_text() == first

    # a picture that was drawn anew is scored anew, and other metrics keep their numbers
    assert score(held, tuned, metrics="aesthetic") == 0
    (tuned / "00001" / "2.png").unlink()
    assert sample(tuned, "--limit", 2, "--seeds", "0-2", "--checkpoint", held / "checkpoint") == 0
    assert score(held, tuned, metrics="clipscore") == 0 and len(seen) == 4, (
        "the same picture has the same score"
    )
    lines = [json.loads(line) for line in (tuned / run.SCORES).read_text().splitlines()]
    assert all(set(line["scores"]) == {"clipscore", "aesthetic"} for line in lines)
    assert set(sets(tuned)) == {"clipscore", "aesthetic"}


def test_too_few_pictures_have_no_number(held: Path, tmp_path: Path) -> None:
    assert sample(tmp_path / "one", "--limit", 2) == 0
    more = ("--reference", tmp_path / "one", "--splits", 3)
    assert score(held, tmp_path / "one", metrics="fid,is,lpips", more=more) == 0
    told = sets(tmp_path / "one")
    assert told["fid"]["overall"] == 0 and [p["value"] for p in told["fid"]["prompts"]] == [None, None]
    assert told["is"]["overall"] is None and told["lpips"]["overall"] is None


@pytest.mark.parametrize(
    ("metrics", "more", "code", "told"),
    [
        ("fid", (), 1, "fid needs the base model's folder"),
        ("clipscore", ("--reference", "base"), 2, "--reference is for fid, fd-dinov2, fd-digit, and none"),
        ("clipscore", ("--weights", "wings=x"), 2, "no weights 'wings'; there are inception, dinov2"),
        ("pickscore", ("--weights", "pickscore=nowhere.pt"), 1, "pickscore needs yuvalkirstain/PickScore_v1, 3.9 GB"),
        ("is", ("--weights", "inception=clip/config.json"), 1, "clip/config.json cannot be read as weights"),
        ("clipscore", ("--weights", "clip=dinov2"), 1, "clipscore cannot be loaded from clip=dinov2"),
        ("lpips", ("--weights", "alexnet=inception.pth"), 1, "holds other weights"),
        ("is", ("--device", "wings"), 2, "--device 'wings' is none that torch knows"),
    ],
)  # fmt: skip
def test_refuses_in_one_line(
    held: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch,
    metrics: str, more: tuple[str, ...], code: int, told: str,
) -> None:  # fmt: skip
    _, tuned = copied(held, tmp_path)
    monkeypatch.chdir(held)
    before = sorted(p for p in tuned.rglob("*") if p.name != run.LOCK)
    assert score(held, tuned, metrics=metrics, more=more) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("pcpo score: ") and told in err, err
    assert sorted(p for p in tuned.rglob("*") if p.name != run.LOCK) == before


def test_missing_weights_are_named_with_size_and_place(held: Path, tmp_path: Path, capsys: Capture) -> None:
    _, tuned = copied(held, tmp_path)
    for metric, told in (
        (
            "is",
            "inception needs weights-inception-2015-12-05-6726825d.pth, 91 MB, from github.com/toshas/torch-fid",
        ),
        (
            "hpsv2",
            "hpsv2 needs HPS_v2_compressed.pt, 1.9 GB, from xswu/HPSv2 on the hub; give it with --weights hps",
        ),
        ("clipscore", "clip needs apple/DFN5B-CLIP-ViT-H-14-378, 3.9 GB, from the Hugging Face hub"),
    ):
        assert main(["score", str(tuned), "--metrics", metric]) == 1
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1


def test_weights_by_their_name_on_the_hub(
    held: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name, weights in (("new", "model.safetensors"), ("old", "pytorch_model.bin"), ("none", "other.bin")):
        repository = tmp_path / f"models--someone--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("a" * 40)
        (repository / "snapshots" / ("a" * 40)).mkdir(parents=True)
        (repository / "snapshots" / ("a" * 40) / weights).write_text("")
    for name in ("new", "old"):
        found = scorers.find("clip", {"clip": f"someone/{name}"})
        assert found.parent.parent.name == f"models--someone--{name}"
    with pytest.raises(scorers.ScoreError, match="someone/none is not here"):
        scorers.find("clip", {"clip": "someone/none"})


def test_folders_of_other_prompts_are_not_compared(held: Path, tmp_path: Path, capsys: Capture) -> None:
    assert sample(tmp_path / "other", "--limit", 1, "--seeds", "0-2") == 0
    _, tuned = copied(held, tmp_path)
    assert score(held, tuned, metrics="fid", more=("--reference", tmp_path / "other")) == 1
    assert "are not of the same prompts with as many pictures each" in capsys.readouterr().err


def test_a_damaged_picture_or_piece(held: Path, tmp_path: Path, capsys: Capture) -> None:
    _, tuned = copied(held, tmp_path)
    assert score(held, tuned, metrics="clipscore") == 0
    before = (tuned / run.SCORES).read_text()
    piece = tuned / run.PIECES / "clipscore.00000.safetensors"
    piece.write_bytes(piece.read_bytes()[:40])
    assert score(held, tuned, metrics="clipscore") == 0
    assert (tuned / run.SCORES).read_text() == before, "a piece that a kill cut short is made anew"
    image = Image.new("RGB", (32, 32))
    file = io.BytesIO()
    image.save(file, "PNG")
    (tuned / "00000" / "0.png").write_bytes(file.getvalue())
    piece.unlink()
    capsys.readouterr()
    assert score(held, tuned, metrics="clipscore") == 1
    assert "is not the picture that was drawn" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--metrics", "beauty"], [], ["--metrics", "is", "--weights", "clip"]])
def test_wrong_arguments(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["score", str(tmp_path), *words])
    assert stopped.value.code == 2
