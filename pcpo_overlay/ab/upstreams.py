"""What the A/B command has to know about an upstream's training script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pcpo_overlay

#: The package's own folder; the miniatures' config files are in it.
PACKAGE = Path(pcpo_overlay.__file__).resolve().parent


@dataclass(frozen=True)
class Upstream:
    """One upstream as ``ab`` runs it.

    Attributes:
        name: short name, as on the command line and in ``run.json``.
        clone: its name in ``vendor.lock``, and of its folder in ``vendor/``.
        script: the training script, relative to the clone.
        config: the miniature's config file, used unless the user brings one.
        flags: the script's flags that ``ab`` sets itself: seed, number of epochs, log folder, checkpoint interval.
    """

    name: str
    clone: str
    script: str
    config: Path
    flags: dict[str, str]


UPSTREAMS = {
    "ddpo": Upstream(
        name="ddpo",
        clone="ddpo-pytorch",
        script="scripts/train.py",
        config=PACKAGE / "miniature" / "ddpo_config.py",
        flags={
            "seed": "--config.seed",
            "epochs": "--config.num_epochs",
            "logdir": "--config.logdir",
            "save_freq": "--config.save_freq",
        },
    )
}
