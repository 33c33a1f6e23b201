"""What PCPO keeps of a rollout, in bytes, beside the model's own training state.

    python -m benchmarks.tape_memory

Fills a tape with tensors of each trainer's real shapes and asks it for its size; needs torch alone and some hundred
megabytes of memory. The training state is 16 bytes a parameter (float32 weights, gradients and two Adam moments), over
eight ranks where the trainer shards it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pcpo_overlay.tape import Tape

BYTES_A_PARAMETER = 16


@dataclass(frozen=True)
class Rollout:
    """One iteration of one rank, as the trainer's own launch script sets it up.

    Attributes:
        shape: of one sample's latents, as the network predicts them.
        steps: recorded ones: those that can be trained.
        samples: of one rank.
        pred: dtype of the prediction; the noise is float32.
        parameters: of the trained network.
        ranks: over which the training state is sharded.
    """

    name: str
    shape: tuple[int, ...]
    steps: int
    samples: int
    pred: torch.dtype
    parameters: float
    ranks: int


ROLLOUTS = (
    Rollout("DDPO, SD 1.5, 512x512, 50 steps, 8 samples", (4, 64, 64), 50, 8, torch.float16, 0.86e9, 1),
    Rollout(
        "Flow-GRPO, SD3.5-M, 512x512, 10 steps, 18 samples", (16, 64, 64), 9, 18, torch.float32, 2.5e9, 1
    ),
    Rollout("DanceGRPO, FLUX, 720x720, 16 steps, 12 samples", (2025, 64), 15, 12, torch.bfloat16, 11.9e9, 8),
)


def main() -> None:
    print("| rollout | by hand | tape | training state of a rank | share |")
    print("|---|---|---|---|---|")
    for r in ROLLOUTS:
        tape = Tape()
        for _ in range(r.steps):
            pred = torch.zeros(r.samples, *r.shape, dtype=r.pred)
            tape.record(pred, torch.zeros(r.samples, *r.shape), torch.zeros(r.samples))
        tape.close_rollout()
        values = torch.Size(r.shape).numel()
        by_hand = r.samples * r.steps * (values * (r.pred.itemsize + 4) + 4)
        assert tape.nbytes == by_hand
        state = r.parameters * BYTES_A_PARAMETER / r.ranks
        formula = f"{r.samples} x {r.steps} x {values} x ({r.pred.itemsize} + 4) B"
        print(
            f"| {r.name} | {formula} | {by_hand / 2**20:.0f} MiB | {state / 2**30:.1f} GiB | {by_hand / state:.2%} |"
        )


if __name__ == "__main__":
    main()
