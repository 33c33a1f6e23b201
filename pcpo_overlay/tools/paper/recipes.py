"""How each upstream itself starts the training that a configuration is a variation of, and where it sets what.

These are facts about the clones at the pins in ``vendor.lock``; ``tests/upstream/test_experiments_flags.py`` holds them
against the clones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pcpo_overlay.tools.paper import batches
from pcpo_overlay.tools.paper.batches import Arithmetic, Flags


@dataclass(frozen=True)
class Knob:
    """Where upstream sets what a row of Table 7 names.

    Attributes:
        own: upstream's own value, as on the command line; where there is no flag, what its code does.
        flag: the flag; empty where only the code decides.
        words: upstream's name for each of the paper's words; numbers need none.
        where: for a row without a flag: the file of the clone that decides; empty for what upstream has nothing of.
    """

    own: str
    flag: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class Recipe:
    """Upstream's own launch.

    Attributes:
        clone: name in ``vendor.lock``, and of the folder in ``vendor/``.
        trainer: short name of the trainer, as in ``run.json``.
        origin: what in the clone starts this training and has the own values.
        launcher: words before the training script; ``{gpus}`` stands for their number, and one GPU needs no
            ``--multi_gpu``.
        script: the training script.
        config: value of its ``--config``; empty where it takes plain flags.
        flags: where there is no config: every flag of the launch script, with its value, empty for a switch.
        knobs: by row of Table 7.
        batch_own: upstream's own value of each batch flag.
        arithmetic: how they come to a batch.
        prepare: shell lines of the launch script that the trainer relies on.
        output: the flag that names where checkpoints go and its own value, which both arms would share; or None.
        leaves: a folder that the trainer writes checkpoints to, whatever it is told; empty if there is none.
    """

    clone: str
    trainer: str
    origin: str
    launcher: tuple[str, ...]
    script: str
    knobs: Mapping[str, Knob]
    batch_own: Flags
    arithmetic: Arithmetic
    config: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    prepare: tuple[str, ...] = ()
    output: tuple[str, str] | None = None
    leaves: str = ""


def _ddpo(name: str, prompts: str, reward: str, batches_own: int, accumulated_own: int) -> Recipe:
    return Recipe(
        clone="ddpo-pytorch",
        trainer="ddpo",
        origin=f"config/dgx.py:{name}, started as in its README",
        launcher=("accelerate", "launch", "--multi_gpu", "--num_processes={gpus}"),
        script="scripts/train.py",
        config=f"config/dgx.py:{name}",
        knobs={
            "model": Knob(
                "CompVis/stable-diffusion-v1-4",
                "--config.pretrained.model",
                {"SD1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5"},
            ),
            "prompts": Knob(
                prompts, "--config.prompt_fn", {"animal": "simple_animals", "activity": "nouns_activities"}
            ),
            "reward": Knob(
                reward, "--config.reward_fn", {"Aes": "aesthetic_score", "BERT": "llava_bertscore"}
            ),
            "noise": Knob("1.0", "--config.sample.eta"),
            "timesteps": Knob("1.0", "--config.train.timestep_fraction"),
            "steps": Knob("50", "--config.sample.num_steps"),
            "guidance": Knob("5.0", "--config.sample.guidance_scale"),
            "kl": Knob("no KL term"),
            "learning_rate": Knob("3e-4", "--config.train.learning_rate"),
            "max_grad_norm": Knob("1.0", "--config.train.max_grad_norm"),
            "clip_range": Knob("1e-4", "--config.train.clip_range"),
            "lora": Knob("rank 4, no alpha", where="scripts/train.py"),
            "checkpoint": Knob("1", "--config.save_freq"),
            "length": Knob("200", "--config.num_epochs"),
            "precision": Knob("fp16", "--config.mixed_precision"),
        },
        batch_own={
            "--config.sample.batch_size": 8,
            "--config.sample.num_batches_per_epoch": batches_own,
            "--config.train.batch_size": 4,
            "--config.train.gradient_accumulation_steps": accumulated_own,
        },
        arithmetic=batches.DDPO,
    )


_AESTHETIC = _ddpo("aesthetic", "simple_animals", "aesthetic_score", 4, 4)
_ALIGNMENT = _ddpo("prompt_image_alignment", "nouns_activities", "llava_bertscore", 6, 6)

_DANCE_SD = Recipe(
    clone="DanceGRPO",
    trainer="dancegrpo_sd",
    origin="scripts/finetune/finetune_sd_grpo.sh",
    launcher=("torchrun", "--nproc_per_node={gpus}", "--master_port", "19001"),
    script="fastvideo/train_grpo_sd.py",
    config="fastvideo/config_sd/dgx.py:hpsv2",
    knobs={
        "model": Knob("./data/stable-diffusion-v1-4", where="fastvideo/train_grpo_sd.py"),
        "prompts": Knob("./assets/prompts.txt", where="fastvideo/train_grpo_sd.py"),
        "reward": Knob("hpsv2", "--config.reward_fn", {"HPS": "hpsv2"}),
        "noise": Knob("1.0", "--config.sample.eta"),
        "timesteps": Knob("1.0", "--config.train.timestep_fraction"),
        "steps": Knob("50", "--config.sample.num_steps"),
        "guidance": Knob("5.0", "--config.sample.guidance_scale"),
        "kl": Knob("no KL term"),
        "learning_rate": Knob("1e-5", "--config.train.learning_rate"),
        "max_grad_norm": Knob("1.0", "--config.train.max_grad_norm"),
        "clip_range": Knob("1e-4", "--config.train.clip_range"),
        "lora": Knob("False", "--config.use_lora"),
        "checkpoint": Knob("50", "--config.save_freq"),
        "length": Knob("300", "--config.num_epochs"),
        "precision": Knob("bf16", "--config.mixed_precision"),
    },
    batch_own={
        "--config.sample.batch_size": 4,
        "--config.num_generations": 16,
        "--config.train.batch_size": 4,
        "--config.train.gradient_accumulation_steps": 8,
    },
    arithmetic=batches.DANCE_SD,
    prepare=("mkdir -p images_same",),
    leaves="my_checkpoints",
)

_FLUX_FLAGS = {
    "--seed": "42",
    "--pretrained_model_name_or_path": "data/flux",
    "--vae_model_path": "data/flux",
    "--cache_dir": "data/.cache",
    "--data_json_path": "data/rl_embeddings/videos2caption.json",
    "--gradient_checkpointing": "",
    "--train_batch_size": "2",
    "--num_latent_t": "1",
    "--sp_size": "1",
    "--train_sp_batch_size": "2",
    "--dataloader_num_workers": "4",
    "--gradient_accumulation_steps": "12",
    "--max_train_steps": "300",
    "--learning_rate": "1e-5",
    "--mixed_precision": "bf16",
    "--checkpointing_steps": "40",
    "--allow_tf32": "",
    "--cfg": "0.0",
    "--output_dir": "data/outputs/grpo",
    "--h": "720",
    "--w": "720",
    "--t": "1",
    "--sampling_steps": "16",
    "--eta": "0.3",
    "--lr_warmup_steps": "0",
    "--sampler_seed": "1223627",
    "--max_grad_norm": "0.01",
    "--weight_decay": "0.0001",
    "--use_hpsv2": "",
    "--num_generations": "12",
    "--shift": "3",
    "--use_group": "",
    "--ignore_last": "",
    "--timestep_fraction": "0.6",
    "--init_same_noise": "",
    "--clip_range": "1e-4",
    "--adv_clip_max": "5.0",
}
_FULL_FLAGS = {**_FLUX_FLAGS, "--use_ema": "", "--ema_decay": "0.995"}
_LORA_FLAGS = {
    **_FLUX_FLAGS,
    "--max_train_steps": "301",
    "--learning_rate": "3e-4",
    "--checkpointing_steps": "60",
    "--sampling_steps": "12",
    "--max_grad_norm": "1.0",
    "--lora_alpha": "256",
    "--lora_rank": "128",
}


def _flux(name: str, flags: Mapping[str, str], lora: Knob) -> Recipe:
    script = f"fastvideo/train_grpo_{name}.py"
    own = {
        "timesteps": "--timestep_fraction",
        "noise": "--eta",
        "steps": "--sampling_steps",
        "learning_rate": "--learning_rate",
        "max_grad_norm": "--max_grad_norm",
        "clip_range": "--clip_range",
        "checkpoint": "--checkpointing_steps",
        "length": "--max_train_steps",
        "precision": "--mixed_precision",
    }
    batch = (
        "--train_batch_size",
        "--train_sp_batch_size",
        "--num_generations",
        "--gradient_accumulation_steps",
    )
    lora_script = "_lora" if name.endswith("_lora") else ""
    return Recipe(
        clone="DanceGRPO",
        trainer=f"dancegrpo_{name}",
        origin=f"scripts/finetune/finetune_flux_grpo_8gpus{lora_script}.sh",
        launcher=("torchrun", "--nproc_per_node={gpus}", "--master_port", "19002"),
        script=script,
        flags=flags,
        knobs={
            "model": Knob("data/flux", "--pretrained_model_name_or_path", {"FLUX.1-dev": "data/flux"}),
            "prompts": Knob(
                "data/rl_embeddings/videos2caption.json",
                "--data_json_path",
                {"HPD": "data/rl_embeddings/videos2caption.json"},
            ),
            "reward": Knob("", "--use_hpsv2", {"HPS": ""}),
            "guidance": Knob("none (one pass), embedded 3.5", where=script),
            "kl": Knob("no KL term"),
            "lora": lora,
            **{row: Knob(flags[flag], flag) for row, flag in own.items()},
        },
        batch_own={flag: int(flags[flag]) for flag in batch},
        arithmetic=batches.DANCE_FLUX,
        prepare=("mkdir -p images",),
        output=("--output_dir", "data/outputs/grpo"),
    )


_FLUX_LORA = _flux("flux_lora", _LORA_FLAGS, Knob("128 256", "--lora_rank --lora_alpha"))
_FLUX_FULL = _flux("flux", _FULL_FLAGS, Knob("full fine-tuning", where="fastvideo/train_grpo_flux.py"))


def _flow(name: str, reward: str, kl: str, save_dir: str, dataset: str, group: int) -> Recipe:
    return Recipe(
        clone="flow_grpo",
        trainer="flow_grpo",
        origin=f"config/grpo.py:{name}, started as in scripts/single_node/grpo.sh",
        launcher=(
            *("accelerate", "launch", "--config_file", "scripts/accelerate_configs/multi_gpu.yaml"),
            *("--num_processes={gpus}", "--main_process_port", "29501"),
        ),
        script="scripts/train_sd3.py",
        config=f"config/grpo.py:{name}",
        knobs={
            "model": Knob(
                "stabilityai/stable-diffusion-3.5-medium",
                "--config.pretrained.model",
                {"SD3.5-M": "stabilityai/stable-diffusion-3.5-medium"},
            ),
            # upstream writes it absolute, from the folder it is started in
            "prompts": Knob(dataset, "--config.dataset", {"OCR": "dataset/ocr"}),
            "reward": Knob(f"{{'{reward}': 1.0}}", where="config/grpo.py"),
            "noise": Knob("0.7", "--config.sample.noise_level"),
            "timesteps": Knob("0.99", "--config.train.timestep_fraction"),
            "steps": Knob("10", "--config.sample.num_steps"),
            "guidance": Knob("4.5", "--config.sample.guidance_scale"),
            "kl": Knob(kl, "--config.train.beta"),
            "learning_rate": Knob("3e-4", "--config.train.learning_rate"),
            "max_grad_norm": Knob("1.0", "--config.train.max_grad_norm"),
            "clip_range": Knob("1e-4", "--config.train.clip_range"),
            "lora": Knob("rank 32, alpha 64", where="scripts/train_sd3.py"),
            "checkpoint": Knob("60", "--config.save_freq"),
            "length": Knob("endless", where="scripts/train_sd3.py"),
            "precision": Knob("fp16", "--config.mixed_precision"),
        },
        batch_own={
            "--config.sample.train_batch_size": 8,
            "--config.sample.num_image_per_prompt": group,
            "--config.sample.num_batches_per_epoch": 8,
            "--config.train.batch_size": 8,
            "--config.train.gradient_accumulation_steps": 4,
        },
        arithmetic=batches.FLOW,
        output=("--config.save_dir", save_dir),
    )


_FLOW_OCR = _flow("general_ocr_sd3_1gpu", "ocr", "0.04", "logs/ocr/sd3.5-M", "dataset/ocr", 8)
_FLOW_PICKSCORE = _flow(
    "pickscore_sd3_4gpu", "pickscore", "0.01", "logs/pickscore/sd3.5-M", "dataset/pickscore", 16
)

#: By the number of the configuration. 7 is 5's as far as upstream goes.
RECIPES: dict[int, Recipe] = {
    1: _AESTHETIC,
    2: _AESTHETIC,
    3: _ALIGNMENT,
    4: _ALIGNMENT,
    5: _DANCE_SD,
    6: _FLUX_LORA,
    7: _DANCE_SD,
    8: _FLOW_OCR,
    9: _FLOW_PICKSCORE,
    10: _FLUX_FULL,
}
