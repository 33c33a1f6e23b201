"""DanceGRPO's eight trainers at their smallest, and the command lines that start them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dance import data, models

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Trainer:
    """One training script, what it reads, and its smallest arguments."""

    script: str
    #: By path in the assets folder, what writes it there. Trainers that read the same share it.
    reads: dict[str, Callable[[Path], None]]
    #: Arguments by name without dashes; True for a flag.
    small: dict[str, Any]
    #: Arguments before all others.
    first: tuple[str, ...] = ()
    #: What stands before the name of an argument.
    prefix: str = "--"

    def arguments(self, overrides: dict[str, Any]) -> list[str]:
        """The command line; an override of None leaves an argument out, as False leaves out a flag."""
        settings = {k: v for k, v in {**self.small, **overrides}.items() if v is not None}
        if self.prefix != "--":
            return [*self.first, *(f"{self.prefix}{k}={v}" for k, v in settings.items())]
        given = {k: v for k, v in settings.items() if v is not False}
        return [
            *self.first,
            *(a for k, v in given.items() for a in ([f"--{k}"] if v is True else [f"--{k}", str(v)])),
        ]


#: What every launch script sets. 2 iterations of 4 samples of one prompt, 2 optimizer steps each, 4 sampling steps of
#: which 2 are trained.
GRPO: dict[str, Any] = {
    "seed": 7,
    "cache_dir": "cache",
    "train_batch_size": 1,
    "sp_size": 1,
    "train_sp_batch_size": 1,
    "dataloader_num_workers": 0,
    "gradient_accumulation_steps": 2,
    "max_train_steps": 2,
    "learning_rate": 1e-3,
    "lr_warmup_steps": 0,
    "mixed_precision": "bf16",
    "checkpointing_steps": 1000,
    "allow_tf32": True,
    "cfg": 0.0,
    "output_dir": "outputs",
    "h": 32,
    "w": 32,
    "t": 1,
    "sampling_steps": 4,
    "eta": 0.3,
    "sampler_seed": 1223627,
    "max_grad_norm": 1.0,
    "weight_decay": 1e-4,
    "num_generations": 4,
    "shift": 3,
    "use_group": True,
    "timestep_fraction": 0.7,
}
IMAGES = {
    "num_latent_t": 1,
    "use_hpsv2": True,
    "ignore_last": True,
    "init_same_noise": True,
    "clip_range": 1e-4,
    "adv_clip_max": 5.0,
}
HPS = {"hps_ckpt/HPS_v2.1_compressed.pt": data.reward_checkpoint}
_FLUX = {
    **GRPO,
    **IMAGES,
    "pretrained_model_name_or_path": "data/flux",
    "vae_model_path": "data/flux",
    "data_json_path": "data/rl_flux/list.json",
    "gradient_checkpointing": True,
}

#: 2 epochs of 2 prompts with 2 samples each, 2 optimizer steps an epoch, 4 DDIM steps of which 3 are trained.
SD = Trainer(
    script="train_grpo_sd.py",
    reads={"data/stable-diffusion-v1-4": models.stable_diffusion, "assets/prompts.txt": data.prompts, **HPS},
    first=("--config", "CLONE/fastvideo/config_sd/dgx.py:hpsv2"),
    prefix="--config.",
    small={
        "seed": 7,
        "num_epochs": 1,
        "num_generations": 2,
        "sample.num_steps": 4,
        "sample.batch_size": 2,
        "train.batch_size": 2,
        "train.gradient_accumulation_steps": 1,
        "train.learning_rate": 1e-3,
    },
)
FLUX = Trainer(
    script="train_grpo_flux.py",
    reads={"data/flux": models.flux, "data/rl_flux": data.flux, **HPS},
    small=_FLUX,
)
FLUX_LORA = Trainer(
    script="train_grpo_flux_lora.py", reads=FLUX.reads, small={**_FLUX, "lora_alpha": 8, "lora_rank": 4}
)
_VIDEO = {
    **GRPO,
    "model_type": "hunyuan_hf",
    "t": 5,
    "shift": 5,
    "use_videoalign": True,
    "gradient_checkpointing": True,
}
HUNYUAN = Trainer(
    script="train_grpo_hunyuan.py",
    reads={"data/HunyuanVideo": models.hunyuan, "data/rl_hunyuan": data.hunyuan},
    small={
        **_VIDEO,
        "pretrained_model_name_or_path": "data/HunyuanVideo",
        "vae_model_path": "data/HunyuanVideo",
        "data_json_path": "data/rl_hunyuan/list.json",
        "eta": 0.25,
        "use_same_noise": True,
        # The best and the worst of the samples are trained, so there are more of them; both rewards count.
        "num_generations": 5,
        "bestofn": 4,
        "vq_coef": 1.0,
        "mq_coef": 0.5,
    },
)
SKYREELS_I2V = Trainer(
    script="train_grpo_skyreels_i2v.py",
    reads={
        "data/SkyReels-I2V": models.skyreels,
        "data/flux": models.flux,
        "data/empty": data.empty_prompt,
        "data/rl_hunyuan": data.hunyuan,
    },
    small={
        **_VIDEO,
        "pretrained_model_name_or_path": "data/SkyReels-I2V",
        "reference_model_path": "data/flux",
        "vae_model_path": "data/SkyReels-I2V",
        "data_json_path": "data/rl_hunyuan/list.json",
        "shift": 7,
        "cfg_infer": 5.0,
        "init_same_noise": True,
    },
)
# Wan counts iterations from 0 to max_train_steps, Qwen to one more, and the editing trainer does so three times.
WAN_2_1 = Trainer(
    script="train_grpo_wan_2_1.py",
    reads={"data/Wan2.1-T2V-1.3B": models.wan, "data/rl_wan": data.wan, **HPS},
    small={
        **GRPO,
        **IMAGES,
        "pretrained_model_name_or_path": "data/Wan2.1-T2V-1.3B",
        "vae_model_path": "data/Wan2.1-T2V-1.3B",
        "data_json_path": "data/rl_wan/list.json",
        "gradient_checkpointing": True,
        "cfg_infer": 5.0,
        "max_train_steps": 1,
    },
)
QWENIMAGE = Trainer(
    script="train_grpo_qwenimage.py",
    reads={"data/qwenimage": models.qwen_image, "data/rl_qwenimage": data.qwen_image, **HPS},
    small={
        **GRPO,
        **IMAGES,
        "pretrained_model_name_or_path": "data/qwenimage",
        "vae_model_path": "data/qwenimage",
        "data_json_path": "data/rl_qwenimage/list.json",
        "selective_checkpointing": 1.0,
        "max_train_steps": 0,
    },
)
QWENIMAGE_EDIT = Trainer(
    script="train_grpo_qwenimage_edit.py",
    reads={"data/qwenimage": models.qwen_image, "data/rl_qwenimage_edit": data.qwen_image_edit, **HPS},
    small={**QWENIMAGE.small, "data_json_path": "data/rl_qwenimage_edit/list.json", "max_train_steps": -1},
)
TRAINERS = {
    "sd": SD,
    "flux": FLUX,
    "flux_lora": FLUX_LORA,
    "hunyuan": HUNYUAN,
    "skyreels_i2v": SKYREELS_I2V,
    "wan_2_1": WAN_2_1,
    "qwenimage": QWENIMAGE,
    "qwenimage_edit": QWENIMAGE_EDIT,
}


def command(
    trainer: Trainer, clone: Path, folder: Path, args: list[str] | None = None, **overrides: Any
) -> list[str]:
    """The recorder, the script, its arguments; ``args`` are added as they are."""
    return [
        str(HERE / "record.py"),
        str(folder / "record"),
        str(clone / "fastvideo" / trainer.script),
        *(a.replace("CLONE", str(clone)) for a in trainer.arguments(overrides)),
        *(args or []),
    ]
