"""A folder in which DanceGRPO's trainers train on a reward of ``pcpo score``, untouched.

They read at relative paths: reward, prompts and, of Stable Diffusion, the model. The folder has links to all of a
clone, and these of its own:

- ``hpsv2``: a package that they take for HPSv2, with ``.`` on PYTHONPATH, and that gives the reward;
- ``hps_ckpt``: which reward with which weights, and a file of weights without any, which they load;
- ``assets/prompts.txt`` and ``data/stable-diffusion-v1-4``, of the SD trainer, where prompts and a model are given;
- what they write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pcpo_overlay.tools.ab.workplace import WRITTEN, readable
from pcpo_overlay.tools.folders import written
from pcpo_overlay.tools.rewards.scored import RewardError, check

#: As the folder's marker names it.
COMMAND = "pcpo reward"
HPS = Path(__file__).resolve().parent / "hps" / "hpsv2"
#: In ``hps_ckpt``.
SETTINGS = "reward.json"
#: Where the SD trainer looks for its model and its prompts.
MODEL, PROMPTS = Path("data") / "stable-diffusion-v1-4", Path("assets") / "prompts.txt"


def prepare(
    folder: Path,
    clone: Path,
    reward: str,
    given: Mapping[str, str],
    model: Path | None = None,
    prompts: Sequence[str] = (),
) -> Path:
    """Write the folder.

    Args:
        folder: where.
        clone: of DanceGRPO.
        reward: by the name that ``pcpo score`` has.
        given: by the name of weights, a path or the hub's name.
        model: the folder of the pipeline that the SD trainer is to train; None leaves what the clone has.
        prompts: of the SD trainer, which makes one pass over them; none leaves what the clone has.

    Returns:
        `folder`.

    Raises:
        Fault: no such reward or weights, no clone, or ``folder`` holds what this command did not make.
    """
    weights = check(reward, given)
    clone = clone.resolve()
    if not (clone / "fastvideo").is_dir():
        raise RewardError(
            f"there is no clone of DanceGRPO in {clone}; make it with: python apply.py DanceGRPO"
        )
    with written(folder, COMMAND) as scratch:
        own = {MODEL: model, PROMPTS: prompts}
        mixed = {path.parts[0] for path in own}
        for entry in readable(clone):
            if entry.name not in (*mixed, "hps_ckpt", HPS.name):
                (scratch / entry.name).symlink_to(entry)
        for name in mixed:
            (scratch / name).mkdir()
            for entry in sorted((clone / name).glob("*")):
                if not own.get(Path(name) / entry.name):
                    (scratch / name / entry.name).symlink_to(entry)
        if model is not None:
            (scratch / MODEL).symlink_to(model.resolve())
        if prompts:
            (scratch / PROMPTS).write_text("\n".join(prompts) + "\n", encoding="utf-8")
        (scratch / HPS.name).symlink_to(HPS)
        (scratch / "hps_ckpt").mkdir()
        told = {"reward": reward, "weights": weights}
        (scratch / "hps_ckpt" / SETTINGS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        torch.save({"state_dict": {}}, scratch / "hps_ckpt" / "HPS_v2.1_compressed.pt")
        for name in WRITTEN:
            (scratch / name).mkdir()
    return folder
