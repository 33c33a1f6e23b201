"""Models of the architectures that DanceGRPO trains, as small as their code allows, with random weights.

Each function writes one model folder with diffusers' own ``save_pretrained``, in the layout that the trainer reads.
Weights come from fixed seeds, so two folders built by the same versions are equal.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[3]
MINIATURE = ROOT / "pcpo_overlay" / "tools" / "miniature" / "weights"


def save(model: Any, folder: Path, spread: float = 0.0) -> None:
    """Write a model; ``spread`` is the std of noise on all weights, which moves those initialized to zero off it.

    Several architectures begin with a last layer of zeros: their output would be zero, and so would be the gradient
    of all other weights.
    """
    if spread:
        random = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=random) * spread)
    model.save_pretrained(folder)


def image_vae(folder: Path, latent_channels: int, levels: int, **config: Any) -> None:
    """An ``AutoencoderKL`` that halves images ``levels - 1`` times."""
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        norm_num_groups=4,
        latent_channels=latent_channels,
        sample_size=64,
        **config,
    )
    save(vae, folder)


def stable_diffusion(folder: Path) -> None:
    """Stable Diffusion 1.x. The trainer hard-codes latents of 64x64: with one level the VAE makes 64x64 pixels.

    Tokenizer, text encoder and scheduler are the miniature's; its scheduler has ``clip_sample`` false as SD 1.4's has.
    """
    from diffusers import UNet2DConditionModel

    for part in ("scheduler", "text_encoder", "tokenizer"):
        shutil.copytree(MINIATURE / "sd" / part, folder / part)
    index = json.loads((MINIATURE / "sd" / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    text = json.loads((folder / "text_encoder" / "config.json").read_text())
    torch.manual_seed(2)
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=text["hidden_size"],
    )
    save(unet, folder / "unet")
    image_vae(folder / "vae", latent_channels=4, levels=1)


def flux(folder: Path) -> None:
    """A Flux pipeline. The Flux trainers read its transformer and VAE, SkyReels' draws first frames with all of it."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    torch.manual_seed(3)
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    save(transformer, folder / "transformer")
    image_vae(folder / "vae", latent_channels=16, levels=4, scaling_factor=0.3611, shift_factor=0.1159)
    shutil.copytree(MINIATURE / "sd" / "tokenizer", folder / "tokenizer")
    clip = json.loads((MINIATURE / "sd" / "text_encoder" / "config.json").read_text())
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    CLIPTextModel(CLIPTextConfig(**{**clip, **sizes})).save_pretrained(folder / "text_encoder")
    vocabulary = bytes_tokenizer(folder / "tokenizer_2")
    t5 = T5Config(vocab_size=vocabulary, d_model=32, d_kv=16, d_ff=32, num_heads=2, num_layers=1)
    T5EncoderModel(t5).save_pretrained(folder / "text_encoder_2")
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def bytes_tokenizer(folder: Path) -> int:
    """A T5 tokenizer whose words are single letters; its number of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import T5TokenizerFast

    words = ["<pad>", "</s>", "<unk>", *map(chr, range(33, 127))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0).save_pretrained(folder)
    return len(words)


def hunyuan(folder: Path, image_channels: int = 0) -> None:
    """HunyuanVideo's transformer and VAE. Upstream loads them into a class of its own, with the same weights by name.

    Args:
        folder: where to write.
        image_channels: channels of a first frame beside the latents' 16; SkyReels has 16.
    """
    from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel

    torch.manual_seed(4)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=16 + image_channels,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=32,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    save(transformer, folder / "transformer")
    torch.manual_seed(5)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=16, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    save(vae, folder / "vae")


def skyreels(folder: Path) -> None:
    """SkyReels' image-to-video is HunyuanVideo with the first frame in 16 more channels."""
    hunyuan(folder, image_channels=16)


def wan(folder: Path) -> None:
    """Wan 2.1's transformer and VAE."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    torch.manual_seed(6)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=32,
    )
    save(transformer, folder / "transformer")
    torch.manual_seed(7)
    save(AutoencoderKLWan(base_dim=8, num_res_blocks=1), folder / "vae")


def qwen_image(folder: Path) -> None:
    """Qwen-Image's transformer and VAE; the editing model has the same, and more tokens."""
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    torch.manual_seed(8)
    transformer = QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    save(transformer, folder / "transformer")
    torch.manual_seed(9)
    save(AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1), folder / "vae")
