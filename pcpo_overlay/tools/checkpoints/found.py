"""Where each trainer leaves its checkpoints, and what a file or folder is that the user names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from pcpo_overlay.tools.checkpoints import Checkpoint, CheckpointError
from pcpo_overlay.tools.checkpoints.weights import INDEX
from pcpo_overlay.tools.runs.files import is_number
from pcpo_overlay.tools.runs.run import MOST_EPOCHS, RUN, Run, load
from pcpo_overlay.tools.runs.settings import whole

NETWORK = "diffusion_pytorch_model"
LORA = ("adapter_model", "pytorch_lora_weights")
SUFFIXES = (".safetensors", ".bin", INDEX)
#: Folders within a checkpoint's own that hold the weights; flow_grpo's goes by ``lora`` for either kind.
WITHIN = ("", "unet", "transformer", "lora")


def named(path: Path) -> Checkpoint:
    """The checkpoint at a path that the user names: its folder, the file of its weights, or of a run the last.

    Raises:
        CheckpointError: there is none, or there are several.
        RunError: a run folder cannot be read.
    """
    if (path / RUN).is_file():
        return _last(load(path))
    if path.is_file():
        stem = path.name.partition(".")[0]
        if stem not in (NETWORK, *LORA):
            raise CheckpointError(f"{path} is no checkpoint's weights: {_told()}")
        return Checkpoint(path.parent.name, 0, path, stem in LORA)
    found = [
        Checkpoint(path.name, 0, weights, stem in LORA)
        for within in WITHIN
        for stem in (NETWORK, *LORA)
        for suffix in SUFFIXES
        if (weights := path / within / (stem + suffix)).is_file()
    ]
    if not found:
        several = sorted(p.name for p in _children(path) if "checkpoint" in p.name)
        more = f"; it holds checkpoints, {several[0]} for one" if several else ""
        raise CheckpointError(f"{path} is no checkpoint of a trainer's: {_told()}{more}")
    if len({checkpoint.weights.parent for checkpoint in found}) > 1:
        raise CheckpointError(
            f"{path} holds several: {', '.join(str(c.weights.relative_to(path)) for c in found)}; name one"
        )
    return found[0]


def _last(run: Run) -> Checkpoint:
    """The last checkpoint of a run, in the order of training."""
    of_run = OF_RUNS.get(run.upstream)
    if of_run is None:
        raise CheckpointError(f"{run.path} is a run of {run.upstream}; name the folder of a checkpoint of it")
    try:
        checkpoints = of_run(run)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{run.path}: run.json lacks the trainer's config, or part of it ({error!r:.200})"
        ) from None
    if not checkpoints:
        raise CheckpointError(f"{run.path} holds no checkpoints; name the folder of one that lies elsewhere")
    return checkpoints[-1]


def _told() -> str:
    return f"looked for {', '.join((NETWORK, *LORA))} in it and in {', '.join(WITHIN[1:])}"


def folders(run: Run, within: str, recorded: object, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    """The numbered folders that match ``pattern``, ascending: in the run folder, else where the trainer wrote.

    Args:
        run: which.
        within: the place below the run folder, as ``ab`` has it.
        recorded: the trainer's own setting of the place; counts where it is absolute.
        pattern: of a folder's name; its first group is the number.
    """
    places = [run.path / within]
    if isinstance(recorded, str) and Path(recorded).is_absolute():
        places.append(Path(recorded))
    for place in places:
        found = [(m, p) for p in _children(place) if (m := pattern.fullmatch(p.name)) and p.is_dir()]
        if found:
            return sorted((int(m[1]), p) for m, p in found)
    return []


def _children(place: Path) -> Iterable[Path]:
    return place.iterdir() if place.is_dir() else ()


def network_or_lora(folder: Path, epoch: int, network: Path, lora: Path) -> Checkpoint:
    """A checkpoint that is one of both kinds, in a safetensors file or in torch's older ``.bin``.

    Args:
        folder: the checkpoint's own.
        epoch: how many epochs the policy had been trained.
        network: the folder that would hold the whole network.
        lora: the file that would hold low-rank factors, without its suffix.

    Raises:
        CheckpointError: neither is there.
    """
    for stem, is_lora in ((network / NETWORK, False), (lora, True)):
        for suffix in SUFFIXES:
            weights = stem.with_name(stem.name + suffix)
            if weights.is_file():
                return Checkpoint(folder.name, epoch, weights, is_lora)
    raise CheckpointError(
        f"{folder} holds neither a whole network nor LoRA weights; was it cut short by a kill?"
    )


def _began_plain(run: Run, lora: object, setting: str) -> None:
    """Refuse a run whose trainer was given a LoRA to begin with.

    Raises:
        CheckpointError: it was.
    """
    if lora:
        raise CheckpointError(
            f"{run.path} began with a LoRA of its own ({setting}), and what is compared with here is the plain "
            "miniature"
        )


def of_ddpo(run: Run) -> list[Checkpoint]:
    """Those of accelerate's ``save_state``, which numbers them from 0.

    Upstream saves after the training of every epoch whose number, counted from 0, is a multiple of ``save_freq`` but 0,
    so checkpoint ``k`` is the policy after ``(k + 1) * save_freq + 1`` epochs.

    Raises:
        CheckpointError: a resumed run, of whose checkpoints the epoch cannot be told.
    """
    trainer = run.info["trainer"]
    name = str(trainer["run_name"])
    recorded = str(Path(str(trainer["logdir"])) / name / "checkpoints")
    found = folders(run, f"logs/{name}/checkpoints", recorded, re.compile(r"checkpoint_(\d+)"))
    if found and trainer.get("resume_from"):
        raise CheckpointError(
            f"{run.path} was resumed (config.resume_from): upstream then numbers checkpoints anew, so that the "
            "epochs of these cannot be told"
        )
    checkpoints = []
    for number, folder in found:
        epoch = (number + 1) * whole(trainer, "save_freq", 1, MOST_EPOCHS) + 1
        checkpoints.append(network_or_lora(folder, epoch, folder / "unet", folder / "pytorch_lora_weights"))
    return checkpoints


def of_flow_grpo(run: Run) -> list[Checkpoint]:
    """Those under ``checkpoints``, numbered by the optimizer steps taken before.

    With ``train.ema`` they hold upstream's averaged weights; there are no others.
    """
    trainer = run.info["trainer"]
    _began_plain(run, trainer["train"].get("lora_path"), "config.train.lora_path")
    recorded = str(Path(str(trainer["save_dir"])) / "checkpoints")
    checkpoints = []
    steps = [line["step"] for line in run.first_steps if is_number(line.get("step"))]
    for step, folder in folders(run, "checkpoints", recorded, re.compile(r"checkpoint-(\d+)")):
        if len(steps) < len(run.first_steps):
            raise CheckpointError(f"{run.path}: a step of metrics.jsonl has no number, which tells its epoch")
        epoch = sum(before < step for before in steps)
        inner = folder / "lora"  # upstream's name for either kind
        checkpoints.append(network_or_lora(folder, epoch, inner, inner / "adapter_model"))
    return checkpoints


def of_dancegrpo_sd(run: Run) -> list[Checkpoint]:
    """Those that the SD trainer writes where it runs, named by the epoch, from 0, after which it did."""
    checkpoints = []
    for number, folder in folders(run, "work/my_checkpoints", None, re.compile(r"checkpoint_epoch_(\d+)")):
        checkpoints.append(Checkpoint(folder.name, number + 1, folder / f"{NETWORK}.safetensors", lora=False))
    return checkpoints


def of_dancegrpo_flux(run: Run) -> list[Checkpoint]:
    """Those of the whole network."""
    return _flux_saved(run, "checkpoint", NETWORK, lora=False)


def of_dancegrpo_flux_lora(run: Run) -> list[Checkpoint]:
    """Those of the low-rank factors."""
    began = run.info["trainer"].get("resume_from_lora_checkpoint")
    _began_plain(run, began, "--resume_from_lora_checkpoint")
    return _flux_saved(run, "lora-checkpoint", "pytorch_lora_weights", lora=True)


def _flux_saved(run: Run, name: str, weights: str, lora: bool) -> list[Checkpoint]:
    """Checkpoints ``NAME-ITERATION-EPOCH``: saved *before* the training of that iteration, which counts from 1."""
    recorded = run.info["trainer"].get("output_dir")
    return [
        Checkpoint(folder.name, number - 1, folder / f"{weights}.safetensors", lora)
        for number, folder in folders(run, "checkpoints", recorded, re.compile(rf"{name}-(\d+)-\d+"))
    ]


#: By the trainer's name in ``run.json``, what finds the checkpoints of its run.
OF_RUNS: dict[str, Callable[[Run], list[Checkpoint]]] = {
    "ddpo": of_ddpo,
    "flow_grpo": of_flow_grpo,
    "flow_grpo_sd3_fast": of_flow_grpo,
    "flow_grpo_sd3_guard": of_flow_grpo,
    "flow_grpo_flux": of_flow_grpo,
    "flow_grpo_flux_fast": of_flow_grpo,
    "flow_grpo_flux_kontext": of_flow_grpo,
    "dancegrpo_sd": of_dancegrpo_sd,
    "dancegrpo_flux": of_dancegrpo_flux,
    "dancegrpo_flux_lora": of_dancegrpo_flux_lora,
}
