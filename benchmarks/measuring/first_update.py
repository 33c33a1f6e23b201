"""Run a training script in this process up to its first optimizer step, and keep what its ratios were before it.

    python first_update.py OUT.json scripts/train.py [ARGS...]

Until then the policy that is trained is the one that sampled. OUT.json has each sample-timestep of the step, as PCPO's
own metrics collected them: nothing of upstream is touched, and nothing of what PCPO computes.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import torch

from pcpo_overlay.losses import clip_statistics
from pcpo_overlay.record.metrics import Samples, StepMetrics
from pcpo_overlay.tools.launch import without_cuda


def columns(samples: Samples) -> dict[str, list[Any]]:
    """Timestep, log ratio, ratio, and whether it is outside or masked, of each sample-timestep."""
    stats = clip_statistics(samples.log_rho, samples.credit, samples.advantages, samples.clip_range)
    return {
        "timestep": samples.timestep.tolist(),
        "log_rho": samples.log_rho.tolist(),
        "ratio": stats.ratio.tolist(),
        "outside": stats.outside.tolist(),
        "masked": stats.masked.tolist(),
    }


def stop_after_first(out: Path) -> None:
    """Let the first reduction of the metrics, which follows the first optimizer step, be the end of the script."""
    reduce = StepMetrics.reduce

    def keep(self: StepMetrics, *args: Any) -> Samples:
        out.write_text(json.dumps(columns(reduce(self, *args))), encoding="utf-8")
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        raise SystemExit(0)

    StepMetrics.reduce = keep  # type: ignore[assignment, method-assign]


def main() -> None:
    out, script = Path(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(script).resolve().parent)  # as Python has it for a script
    stop_after_first(out)
    if not torch.cuda.is_available():
        without_cuda.float16()
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
