"""How the animals' miniature is trained: packages of icons, drawings, resumable training, what is written."""

from __future__ import annotations

import colorsys
import hashlib
import io
import json
import shutil
import signal
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.miniatures.animals import drawings, icons, model, nearest, packages
from benchmarks.miniatures.animals.__main__ import main
from benchmarks.miniatures.animals.autoencoder import (
    LATENT_NOISE,
    fold_latents,
    psnr,
    reconstruction,
    train_decoder,
    whitening,
)
from benchmarks.miniatures.animals.denoiser import Latents, encode
from benchmarks.miniatures.animals.drawings import Artist, backgrounds, hsv
from benchmarks.miniatures.animals.reader import worn
from benchmarks.miniatures.animals.resumable import Plan, Report, fit, graphed
from pcpo_overlay.tools.miniature.animals import ANIMALS, STYLES, sd

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")

DISC = '<circle cx="8" cy="8" r="4" fill="#f00"/>'


@pytest.fixture
def few_icons() -> icons.Icons:
    """Two icons of every animal: a square of one colour, whole and left half, in a ring of nothing."""
    n = len(ANIMALS)
    rgba = torch.zeros(2 * n, 4, 128, 128, dtype=torch.uint8)
    rgba[:, 3, 32:96, 32:96] = 255
    rgba[n:, 3, :, 64:] = 0
    colors = (255 * hsv(torch.arange(n) / n, torch.ones(n), torch.ones(n))).round().byte()
    rgba[:, :3] = torch.cat([colors, colors])[:, :, None, None]
    labels = torch.cat([torch.arange(n), torch.arange(n)])
    styles = torch.arange(2 * n) % len(STYLES)
    return icons.Icons(rgba, labels, styles, tuple(f"icon {i}" for i in range(2 * n)))


# --- packages and icons -------------------------------------------------------------------------------


def archive(path: Path, content: dict[str, Any]) -> packages.Package:
    """A package of one file, and its entry."""
    data = json.dumps(content).encode()
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("package/icons.json")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return packages.Package("noto", "1.2.3", hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_package_is_what_was_trained_on_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "iconify-json-noto-1.2.3.tgz"
    package = archive(path, {"icons": {"cat": {"body": DISC}}, "width": 16, "height": 16})
    assert package.name == "@iconify-json/noto" and package.archive == path.name
    monkeypatch.setattr(packages, "PACKAGES", (package,))
    monkeypatch.setattr(shutil, "which", lambda name: None)  # what is there is not fetched
    assert packages.fetch(tmp_path) == [path]
    assert packages.read_icons(path)["icons"]["cat"]["body"] == DISC
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(packages.PackageError, match=rf"{path} has sha256 .* move it away"):
        packages.fetch(tmp_path)


def test_a_package_that_cannot_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["icons", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "npm is not here to fetch @iconify-json/noto@1.2.9" in said and "by hand" in said
    npm = tmp_path / "npm-that-fails"
    npm.write_text("#!/bin/sh\necho no such version >&2\nexit 3\n")
    npm.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(npm))
    assert main(["icons", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "exit code 3" in said and "no such version" in said


def test_icons_of_an_animal_are_chosen_by_name() -> None:
    assert len(ANIMALS) == 45 and list(ANIMALS) == sorted(set(ANIMALS))
    assert set(icons.NAMES) <= set(ANIMALS)
    assert tuple(package.style for package in packages.PACKAGES) == STYLES
    found: dict[str, Any] = {name: {} for name in ("honeybee", "cat-face", "turkey", "hot-dog", "cat")}
    noto, streamline = (
        next(p for p in packages.PACKAGES if p.style == s) for s in ("noto", "streamline-emojis")
    )
    assert icons.chosen(noto, found) == [
        ("bee", "honeybee"), ("cat", "cat"), ("cat", "cat-face"), ("turkey", "turkey"),
    ]  # fmt: skip
    assert ("turkey", "turkey") not in icons.chosen(streamline, found)


def test_an_icon_is_rendered_with_its_transparency() -> None:
    picture = icons.render(icons.svg({"body": DISC}, {"width": 16, "height": 16}))
    assert picture.shape == (4, 128, 128) and picture.dtype == torch.uint8
    assert picture[:, 64, 64].tolist() == [255, 0, 0, 255]
    assert picture[3, 0, 0] == 0
    inside = float((picture[3] > 127).float().mean())
    assert inside == pytest.approx(torch.pi * 4**2 / 16**2, abs=0.01)
    wide = icons.svg({"body": DISC, "width": 32, "height": 32}, {"width": 16, "height": 16})
    assert float((icons.render(wide)[3] > 127).float().mean()) == pytest.approx(inside / 4, abs=0.01)


# --- drawings -----------------------------------------------------------------------------------------


def test_drawings_are_of_the_icons_and_repeat_with_their_seed(few_icons: icons.Icons) -> None:
    drawn = Artist(few_icons, 3).draw(90)
    assert drawn.images.shape == (90, 3, 64, 64) and drawn.images.dtype == torch.float32
    assert drawn.images.min() >= 0 and drawn.images.max() <= 1
    assert torch.equal(drawn.animals, few_icons.animals[drawn.icons])
    assert torch.equal(drawn.styles, few_icons.styles[drawn.icons])
    assert torch.equal(drawn.images, Artist(few_icons, 3).draw(90).images)
    assert not torch.equal(drawn.images, Artist(few_icons, 4).draw(90).images)


def test_each_animal_and_of_it_each_icon_is_drawn_equally_often(few_icons: icons.Icons) -> None:
    artist = Artist(few_icons, 0)
    drawn = artist.draw(450)
    often = drawn.animals.bincount(minlength=45)
    assert often.min() >= 2 and often.max() <= 25  # 10 on average
    assert float((drawn.icons < 45).double().mean()) == pytest.approx(0.5, abs=0.08)
    assert artist.draw_animals(torch.tensor([7, 7, 7])).animals.tolist() == [7, 7, 7]


def test_an_icon_is_placed_as_it_is_told(few_icons: icons.Icons) -> None:
    figure = drawings.premultiplied(few_icons.rgba[45:46])  # the left half
    still = {"angle": torch.zeros(1), "size": torch.ones(1), "shift": torch.zeros(1, 2)}
    as_it_is = drawings.placed(figure, mirrored=torch.ones(1), **still)[0, 3]
    assert as_it_is.shape == (64, 64)
    assert as_it_is[32, 24] == 1 and as_it_is[32, 40] == 0
    mirrored = drawings.placed(figure, mirrored=-torch.ones(1), **still)[0, 3]
    assert torch.allclose(mirrored, as_it_is.flip(1), atol=1e-5)
    half = drawings.placed(figure, mirrored=torch.ones(1), **{**still, "size": torch.tensor([0.5])})[0, 3]
    assert half.sum() == pytest.approx(float(as_it_is.sum()) / 4, rel=0.1)
    shift = torch.tensor([[0.25, 0.0]])
    moved = drawings.placed(figure, mirrored=torch.ones(1), **{**still, "shift": shift})[0, 3]
    assert torch.allclose(moved[:, :40], as_it_is[:, 8:48], atol=1e-5)


def test_backgrounds_are_of_four_kinds_and_some_have_a_horizon() -> None:
    made = backgrounds(2000, torch.Generator().manual_seed(0))
    assert made.shape == (2000, 3, 64, 64)
    white = (made == 1).flatten(1).all(dim=1)
    assert float(white.double().mean()) == pytest.approx(drawings.WHITE, abs=0.04)
    dark = made[:, :, 0, 0].max(dim=1).values < 0.3
    share = 1 - drawings.WHITE - drawings.PASTEL - drawings.SATURATED
    assert float(dark.double().mean()) == pytest.approx(share, abs=0.04)
    horizon = (made[:, :, 0] != made[:, :, -1]).flatten(1).any(dim=1)
    assert not (horizon & white).any()
    assert float(horizon[~white].double().mean()) == pytest.approx(drawings.HORIZON, abs=0.04)


def test_colours_are_pythons_own() -> None:
    values = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([colorsys.hsv_to_rgb(*row) for row in values.tolist()])
    assert torch.allclose(hsv(*values.unbind(dim=1)), wanted, atol=1e-5)


def test_worn_pictures_keep_their_colours_on_average() -> None:
    images = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    result = worn(images, torch.Generator().manual_seed(1))
    assert (result.mean(dim=(0, 2, 3)) - images.mean(dim=(0, 2, 3))).abs().max() < 0.01
    assert result.std() < images.std()  # blurred


# --- how near to an icon ------------------------------------------------------------------------------


def test_a_drawing_is_near_its_own_icon_and_far_from_another(few_icons: icons.Icons) -> None:
    rgba = few_icons.rgba.clone()
    rgba[:45, :3, 32:64] = 0  # the whole squares are black above, so that no half is one of them
    ours = replace(few_icons, rgba=rgba)
    drawn = Artist(ours, 1).draw_icons(torch.arange(12))
    found = nearest.nearest(drawn.images, drawn.animals, ours)
    assert torch.equal(found.icons, drawn.icons)
    assert found.distances.max() < 0.25 and found.distances.median() < 0.1
    other = nearest.nearest(drawn.images, drawn.animals, ours, apart_from=drawn.icons)
    assert torch.equal(other.icons, drawn.icons + 45)
    assert other.distances.min() > found.distances.max()


def test_the_background_does_not_count(few_icons: icons.Icons) -> None:
    figure = drawings.premultiplied(few_icons.rgba[:1])[0]
    placed = nearest.templates(figure)[4]
    white, black = placed[:3] + 1 - placed[3:], placed[:3]
    found = nearest.distance(torch.stack([white, black]), figure)
    assert found.max() < 0.02


# --- training -----------------------------------------------------------------------------------------


def trained(folder: Path, plan: Plan, stop_at: int | None = None) -> tuple[Tensor, int]:
    """A line fitted to points, its average weight, and the steps done."""
    torch.manual_seed(0)
    line, averages = nn.Linear(1, 1), nn.Linear(1, 1)
    generator = torch.Generator().manual_seed(0)

    def loss(step: int) -> Tensor:
        x = torch.rand(8, 1, generator=generator)
        error: Tensor = line(x) - 3 * x - 1
        return error.square().mean()

    def report(step: int, loss: Tensor) -> None:
        if step == stop_at:
            signal.raise_signal(signal.SIGTERM)

    done = fit(line, averages, loss, generator, plan, folder / "line.pt", report)
    assert done.complete == (done.steps == plan.steps)
    return torch.cat([p.flatten() for p in done.average.parameters()]), done.steps


def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path) -> None:
    plan = Plan(steps=400, lr=0.05, ema=0.9)
    whole, steps = trained(tmp_path / "whole", plan)
    assert steps == 400 and torch.allclose(whole, torch.tensor([3.0, 1.0]), atol=0.1)
    before = signal.getsignal(signal.SIGTERM)
    _, steps = trained(tmp_path / "parts", plan, stop_at=150)
    assert steps == 150 and signal.getsignal(signal.SIGTERM) is before
    _, steps = trained(tmp_path / "parts", replace(plan, minutes=0))
    assert steps == 151
    parts, steps = trained(tmp_path / "parts", plan)
    assert steps == 400 and torch.equal(parts, whole)
    again, steps = trained(tmp_path / "parts", plan)  # nothing is left to do
    assert steps == 400 and torch.equal(again, whole)


def test_a_network_on_a_cpu_is_no_graph() -> None:
    line = nn.Linear(1, 1)
    assert graphed(line, (torch.zeros(1, 1),)) is line


def test_a_device_that_is_not_here_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["denoiser", "--folder", str(tmp_path), "--device", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--device nowhere is no device here" in said


def test_the_learning_rate_rises_stays_and_falls() -> None:
    plan = Plan(steps=1000, lr=1.0)
    assert [plan.factor(step) for step in (0, 99, 199, 500, 800)] == pytest.approx([0.005, 0.5, 1, 1, 1])
    assert plan.factor(900) == pytest.approx(0.5)
    assert replace(plan, steps=5000).factor(900) == 1


def test_the_whole_way_in_a_few_steps(
    few_icons: icons.Icons,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every stage by its command, and a pipeline that loads in the end."""
    from benchmarks.miniatures.animals import __main__ as command

    monkeypatch.setattr(command, "DRAWINGS", 90)
    monkeypatch.setattr(command, "TESTED", 90)
    torch.save(vars(few_icons), tmp_path / "icons.pt")
    assert main(["all", "--folder", str(tmp_path), "--steps", "2", "--batch", "4"]) == 0, capsys.readouterr()
    weights = tmp_path / "weights"
    files = [path for path in weights.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6
    assert {path.suffix for path in files} == {".json", ".txt", ".safetensors"}
    capsys.readouterr()
    monkeypatch.setattr(sd, "SETTINGS", ({"steps": 1, "guidance": 1.0, "eta": 1.0},))
    assert main(["check", "--folder", str(tmp_path)]) == 0
    assert "below the bar" in capsys.readouterr().out  # it has learnt nothing in two steps
    assert main(["nearest", "--folder", str(tmp_path)]) == 0
    assert "their own left out" in capsys.readouterr().out
    assert main(["grid", "--folder", str(tmp_path)]) == 0
    assert (tmp_path / "grid.png").is_file()
    pipeline = sd.load_pipeline(weights / "sd")
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {value.dtype for value in part.parameters()} == {torch.float32}
    images = sd.sample(pipeline, ["cat", "dog"], steps=2)
    assert images.shape == (2, 3, 64, 64)


def test_no_stage_begins_after_one_that_was_stopped(
    few_icons: icons.Icons,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from benchmarks.miniatures.animals import __main__ as command

    def stopping(stage: str) -> Report:
        return lambda step, loss: signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(command, "_printer", stopping)
    torch.save(vars(few_icons), tmp_path / "icons.pt")
    assert main(["all", "--folder", str(tmp_path), "--steps", "2", "--batch", "4"]) == 130
    assert "autoencoder stopped after 1 of 2 steps; the same command goes on" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"icons.pt", "autoencoder.pt"}


def test_a_stage_out_of_turn_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["denoiser", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "latents.pt" in said


def test_latents_are_folded_and_the_decoder_alone_is_trained_further(
    few_icons: icons.Icons, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    vae = model.build_vae().eval().requires_grad_(False)
    fold_latents(vae, Artist(few_icons, 0), count=64)
    latents = encode(vae, Artist(few_icons, 1), 90)
    assert latents.means.shape == (90, 4, 16, 16) and latents.means.dtype == torch.float16
    assert (latents.means.float().std(dim=(0, 2, 3)) - 1).abs().max() < 0.25
    assert latents.std == pytest.approx(LATENT_NOISE, rel=0.02)
    images = Artist(few_icons, 2).draw(16).images
    encoder = {name: value.clone() for name, value in vae.encoder.state_dict().items()}
    before = psnr(vae, images)
    plan = Plan(steps=30, lr=2e-3, ema=0.5)
    train_decoder(vae, Artist(few_icons, 3), plan, tmp_path / "decoder.pt", batch=4)
    assert psnr(vae, images) > before
    assert all(torch.equal(value, vae.encoder.state_dict()[name]) for name, value in encoder.items())


def test_latents_are_drawn_with_their_noise() -> None:
    latents = Latents(torch.zeros(10, 4, 16, 16, dtype=torch.float16), 0.1, torch.arange(10))
    clean, labels = latents.draw(200, torch.Generator().manual_seed(0))
    assert clean.std() == pytest.approx(0.1, rel=0.02)
    assert set(labels.tolist()) == set(range(10))


def test_reconstruction_asks_for_colours_and_edges() -> None:
    images = torch.zeros(1, 3, 64, 64)
    grain = 0.1 * (torch.randint(0, 2, images.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1)
    off = torch.full_like(images, 0.1)
    white = torch.eye(3)
    assert reconstruction(images, images, white) == 0
    # of pixels and their squares, pooled by 8 and by 32
    assert float(reconstruction(images + off, images, white)) == pytest.approx(0.31, rel=1e-4)
    # of pixels and their squares, of two differences, and a little of pooled ones
    assert float(reconstruction(images + grain, images, white)) == pytest.approx(0.22, rel=0.05)
    assert float(reconstruction(images + off, images, 2 * white)) == pytest.approx(0.64, rel=1e-4)


def test_whitened_colours_are_uncorrelated(few_icons: icons.Icons) -> None:
    images = Artist(few_icons, 0).draw(64).images
    pixels = whitening(images) @ (2 * images - 1).permute(1, 0, 2, 3).flatten(1)
    assert torch.allclose(pixels @ pixels.T / pixels.shape[1], torch.eye(3), atol=1e-3)
