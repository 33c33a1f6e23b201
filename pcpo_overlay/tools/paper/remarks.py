"""What to know of a configuration besides its numbers: what upstream lacks, and what was read into the paper."""

from __future__ import annotations

_DDPO = (
    "B.1 calls learning rate and LoRA the paper's deviations from the original code. The learning rate is one "
    "(lowered; from and to are lost, the table has 1e-4, upstream 3e-4); rank and alpha of (4, 4) are what "
    "upstream's code comes to, whose LoRA has rank 4 and no alpha, that is a scale of 1.",
    "runwayml/stable-diffusion-v1-5, upstream's name of SD 1.5 on the hub, was taken down by its publisher; the "
    "command names the copy.",
    "With LoRA in half precision upstream's ratios are not exactly 1 before the first update, and PCPO=full leaves "
    "some of that; the zero on-policy clipping of Figure 6 takes full,precision=match (README, Half precision).",
    "The paper used a memory-efficient reimplementation of its own (B.1). Whether upstream's code fits the same "
    "GPUs was not tried. If not, halve sample.batch_size and train.batch_size, and double "
    "sample.num_batches_per_epoch and train.gradient_accumulation_steps: images and updates stay as they are.",
)
_DDPO_LENGTH = (
    "Upstream ends after 200 epochs, before what Table 10 counts to, and numbers them from 0; so one more than "
    "that.",
)
_BERT = (
    "Upstream asks a server at http://127.0.0.1:8085 for BERTScore's recall, the LLaVA-server that its README "
    "names; it has to be up first, and takes the further GPU. The paper asked Qwen2.5-VL-3B-Instruct instead "
    "(B.2.1), which upstream does not offer: that takes a server of your own that answers in the same form.",
)
_HPS = (
    "Upstream's launch script also installs HPSv2 and sets wandb's variables. Its README says which checkpoints go "
    "to data/ and hps_ckpt/."
)
_STOPPED = "B.2.2 does not say of which trainings it speaks; its 240 epochs are taken for all of DanceGRPO."
_SCRIPT_BATCH = (
    "B.2.2 says that the official scripts were used. At the pin this one makes 192 images of 16 prompts and 2 "
    "updates an iteration on 8 GPUs, not the table's 384, 32 and 4; with twice the prompts per GPU it makes the "
    "table's."
)
_FLUX = (
    _STOPPED,
    _HPS,
    "The prompts (HPD, upstream's assets/prompts.txt) have to be embedded first: bash "
    "scripts/preprocess/preprocess_flux_rl_embeddings.sh",
    "--cfg is no guidance scale but the share of prompts that the trainer's data loader drops.",
    "The checkpoint of a step is saved before that step is trained.",
)
_FLOW = (
    "unique_prompts=true stands in both arms: the paper changed the prompt sampler so that the prompts of an "
    "iteration are distinct (B.2.3). But for that the baseline is upstream's.",
    "How many epochs is not stated, and upstream's loop is endless: stop it by hand, or wrap the config so that it "
    "ends (README, Troubleshooting).",
    "The paper used a memory-efficient reimplementation of its own (B.1, B.2.3). Whether upstream's code fits 24 "
    "GB was not tried. Its batches cannot simply be made smaller: those of all GPUs together have to hold whole "
    "groups.",
)

NOTES: dict[int, tuple[str, ...]] = {
    1: (
        *_DDPO,
        *_DDPO_LENGTH,
        "That Figure 7(b) belongs to this configuration, with half of the timesteps (3.3), is Table 6's word.",
    ),
    2: _DDPO,
    3: (*_DDPO, *_DDPO_LENGTH, *_BERT),
    4: (*_DDPO, *_BERT),
    5: (
        _STOPPED,
        "Upstream ends after the epoch numbered num_epochs, counting from 0, so it trains one more.",
        _HPS,
        "Model and prompts (HPD) are read from fixed places, data/stable-diffusion-v1-4 and assets/prompts.txt, "
        "and checkpoints written to one; so each arm's are moved away.",
    ),
    6: (_SCRIPT_BATCH, *_FLUX),
    7: (_STOPPED,),
    8: (*_FLOW, "The paper validates on 1024 prompts (B.3.4), upstream on the 1018 of dataset/ocr/test.txt."),
    9: (
        *_FLOW,
        "The paper ran upstream's pickscore_sd3_4gpu (B.2.3). At the pin that makes 256 images of 16 prompts an "
        "iteration, not the table's 512 of 32; with twice the batches it makes the table's.",
        "Pick-SFW, in the legend a subset from the Flow-GRPO codebase, is not in it at the pin. The command trains "
        "on upstream's dataset/pickscore, which is not the paper's; with the subset's train.txt and test.txt in a "
        "folder, add --config.dataset=FOLDER.",
        "The paper validates on 1024 prompts (B.3.4), upstream on the 2048 of dataset/pickscore/test.txt.",
    ),
    10: (
        "weights=uniform gives every step the mean of the native weights: the heuristic of Figure 7(d), not PCPO.",
        _SCRIPT_BATCH,
        "The script averages weights (--use_ema), of which the paper says nothing. Its max_grad_norm is 0.01; the "
        "table's 1.0 is that of upstream's script for 16 GPUs.",
        *_FLUX,
    ),
}

#: Why upstream as it is cannot run a configuration at all; there is then no command.
OBSTACLES: dict[int, tuple[str, ...]] = {
    7: (
        "reward: fastvideo/train_grpo_sd.py computes hpsv2 and hpsv3 and has no PickScore (--use_pickscore is the "
        "FLUX and Qwen-Image trainers'); under any other name it computes none and fails in the first iteration",
        "prompts: it reads assets/prompts.txt, which is HPD; Pick-a-Pic's are not in the clone",
        "model: it loads data/stable-diffusion-v1-4, whatever --config.pretrained.model says; SD 1.5 would have to "
        "lie in that folder",
    ),
}
