"""Train the autoencoder on drawings; then its decoder alone, longer, which leaves the latents as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.miniatures.animals import model
from benchmarks.miniatures.animals.drawings import Artist
from benchmarks.miniatures.animals.resumable import Plan, Report, Training, fit, graphed
from benchmarks.miniatures.train_sd import fold

LATENT_NOISE = 0.05
"""Std of a latent's noise, in units of the latents' own std."""

PROBED = 2000
"""Steps over which the probe's weight falls to nothing: then colours are found, and latents are free for detail."""


def whitening(images: Tensor) -> Tensor:
    """The matrix (3, 3) that takes colours in [-1, 1] to uncorrelated ones of mean square 1.

    Most of what differs between pixels is brightness, least is green against magenta. An autoencoder that is judged by
    pixels finds brightness first, orange against blue later, and greens not in thousands of steps.
    """
    pixels = (2 * images - 1).permute(1, 0, 2, 3).flatten(1).double()
    values, vectors = torch.linalg.eigh(pixels @ pixels.T / pixels.shape[1])
    return (vectors @ values.rsqrt().diag() @ vectors.T).float()


def reconstruction(decoded: Tensor, images: Tensor, colors: Tensor) -> Tensor:
    """Errors of pixels, absolute and squared, of their differences to right and lower neighbours, and of pooled ones.

    Absolute, because most of a drawing is flat: there it asks for the very colour; squared, because where colours are
    far off the absolute error asks for their median alone. The differences keep edges sharp; the picture pooled to 8x8
    and 2x2 keeps colours that single pixels miss by little from being off everywhere.

    Args:
        decoded, images: (N, 3, 64, 64) in [-1, 1].
        colors: (3, 3), in which colours the errors are taken; see :func:`whitening`.
    """
    error = F.conv2d(decoded.float() - images, colors[:, :, None, None])
    down, right = error.diff(dim=2).abs().mean(), error.diff(dim=3).abs().mean()
    pooled = sum(F.avg_pool2d(error, size).abs().mean() for size in (8, 32))
    return error.abs().mean() + error.square().mean() + 0.5 * (down + right) + pooled


def _half(device: torch.device) -> torch.autocast:
    """Computes in bfloat16 on a CPU; on a GPU TF32 is as fast at this size, with fewer kernels to launch."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cpu")


class _WithProbe(nn.Module):
    """An autoencoder whose first and last layers begin in white colours, and a linear probe.

    The probe has to find the colours of 4x4 pixels in each latent.
    """

    @torch.no_grad()
    def __init__(self, colors: Tensor) -> None:
        super().__init__()
        self.vae = model.build_vae()
        self.probe = nn.Conv2d(model.LATENT_CHANNELS, 3, 1)
        first, last = self.vae.encoder.conv_in, self.vae.decoder.conv_out
        first.weight.copy_(torch.einsum("ockl,ci->oikl", first.weight, colors))
        last.weight.copy_(torch.einsum("oc,cikl->oikl", colors.inverse(), last.weight))

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Decoded images, and the latents that they were decoded from, with their noise."""
        means = self.vae.encode(images).latent_dist.mean.float()
        latents = F.batch_norm(means, None, None, training=True) + noise
        return self.vae.decode(latents).sample, latents

    def color_error(self, latents: Tensor, images: Tensor, colors: Tensor) -> Tensor:
        """Mean squared error of the probe."""
        pooled = F.avg_pool2d(images, images.shape[-1] // latents.shape[-1])
        return F.mse_loss(self.probe(latents), F.conv2d(pooled, colors[:, :, None, None]))


def train(
    artist: Artist, plan: Plan, checkpoint: Path, *, batch: int = 64, report: Report | None = None
) -> Training:
    """Train encoder and decoder together; ``average.vae`` is the AutoencoderKL, its latents not folded yet.

    As for the digits, every channel of the latents is brought to mean 0 and variance 1 and gets noise of a fixed std.
    """
    torch.manual_seed(artist.generator.initial_seed())
    device = artist.generator.device
    colors = whitening(artist.draw(512).images)
    models, averages = (_WithProbe(colors.cpu()).to(device) for _ in range(2))

    def draw() -> tuple[Tensor, Tensor]:
        """Images, and what is added to their latents."""
        images = 2 * artist.draw(batch).images - 1
        shape = (batch, model.LATENT_CHANNELS, model.LATENT_SIZE, model.LATENT_SIZE)
        return images, LATENT_NOISE * torch.randn(shape, generator=artist.generator, device=device)

    network = graphed(models.train(), draw())

    def loss(step: int) -> Tensor:
        images, noise = draw()
        with _half(device):
            decoded, latents = network(images, noise)
        probe = max(0.0, 1 - step / PROBED) * models.color_error(latents, images, colors)
        return reconstruction(decoded, images, colors) + probe

    return fit(models, averages, loss, artist.generator, plan, checkpoint, report)


def fold_latents(vae: Any, artist: Artist, count: int) -> None:
    """Fold the statistics of `count` drawings' latents into the autoencoder; see :func:`fold`."""
    fold(vae, artist.draw(count).images, LATENT_NOISE)


class _Decoder(nn.Module):
    """What of a folded autoencoder may be trained further."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(self.post_quant_conv(latents))
        return decoded


def train_decoder(
    vae: Any, artist: Artist, plan: Plan, checkpoint: Path, *, batch: int = 64, report: Report | None = None
) -> Training:
    """Train the decoder of a folded autoencoder further; `vae` takes the averaged weights."""
    device = artist.generator.device
    vae.requires_grad_(False).to(device)
    decoder = _Decoder(vae).requires_grad_(True).train()
    averages = _Decoder(model.build_vae()).to(device)
    colors = whitening(artist.draw(512).images)

    def draw() -> tuple[Tensor, Tensor]:
        """Images and latents of theirs."""
        images = 2 * artist.draw(batch).images - 1
        with torch.no_grad(), _half(device):
            posterior = vae.encode(images).latent_dist
        means = posterior.mean.float()
        noise = torch.randn(means.shape, generator=artist.generator, device=device)
        return images, means + posterior.std.float() * noise

    network = graphed(decoder, draw()[1:])

    def loss(step: int) -> Tensor:
        images, latents = draw()
        with _half(device):
            decoded = network(latents)
        return reconstruction(decoded, images, colors)

    done = fit(decoder, averages, loss, artist.generator, plan, checkpoint, report)
    decoder.load_state_dict(done.average.state_dict())
    decoder.requires_grad_(False).eval()
    return done


@torch.no_grad()
def psnr(vae: Any, images: Tensor) -> float:
    """Peak signal to noise in dB of images (N, 3, 64, 64) in [0, 1], encoded to the posterior's mean and decoded.

    Of a folded autoencoder: until then the decoder takes latents of mean 0 and variance 1.
    """
    error = torch.cat(
        [
            (vae.decode(vae.encode(2 * chunk - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1) - chunk
            for chunk in images.split(64)
        ]
    )
    return float(-10 * error.square().mean().log10())
