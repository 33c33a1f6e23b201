"""DanceGRPO's trainers on the miniatures: the three of the paper, ``sd``, ``flux`` and ``flux_lora``.

``run``        starts a trainer's script with what it needs on the miniature, on a CPU or a GPU
``data``       what the trainers read: models, prompts, embedded prompts, the reward's weights
``hps``        a package that goes by the name of HPSv2 and scores digits or animals
``sd_config``  a file for ``--config`` of the SD trainer
``flux.sh``, ``flux_lora.sh``  launch scripts like upstream's own, with settings for the miniature
"""

from __future__ import annotations

from pathlib import Path

#: Where the SD trainer looks for its model and prompts, and either for the weights of its reward.
SD = Path("data") / "stable-diffusion-v1-4"
PROMPTS_FILE = Path("assets") / "prompts.txt"
HPS_WEIGHTS = Path("hps_ckpt") / "HPS_v2.1_compressed.pt"
