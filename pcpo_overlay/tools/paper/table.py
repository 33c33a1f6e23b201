"""Tables 6, 7 and 8 of the paper: what each of its ten configurations is, and how that is known.

The text of the paper lost cells: of some rows every value, of others the empty cells, which moved the rest to the left,
and the names of two rows. A lost value stays lost here. What was put into a column, or taken from elsewhere in the
paper, says by what reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Value = str | int | float | tuple[int, int]

#: How a cell is known.
TABLE = "Table 7"
PLACED = "Table 7, its column inferred"
ELSEWHERE = "elsewhere in the paper"
BOUND = "at least, from elsewhere in the paper"
EMPTY = "empty in Table 7"
LOST = "lost in the text of the paper"
UNSTATED = "not stated in the paper"

NUMBERS = tuple(range(1, 11))


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        value: what it says; None where there is nothing to say or it was lost.
        origin: one of the constants above.
        why: the reasoning, or what an empty cell means; empty where the cell can simply be read.
    """

    value: Value | None
    origin: str
    why: str = ""


@dataclass(frozen=True)
class Configuration:
    """One of the ten.

    Attributes:
        number: 1 to 10.
        description: Table 6's.
        figures, tables: where the paper uses it, by Table 6.
        hardware: Table 8's, which names experiments and no configuration.
        gpus: how many of them train.
        cells: by the keys of :data:`ROWS`.
    """

    number: int
    description: str
    figures: str
    tables: str
    hardware: str
    gpus: int
    cells: Mapping[str, Cell]

    def __getitem__(self, row: str) -> Value | None:
        return self.cells[row].value

    def whole(self, row: str) -> int:
        """A cell that is a whole number."""
        value = self.cells[row].value
        if not isinstance(value, int):
            raise TypeError(f"{row} of configuration {self.number} is {value!r}, no whole number")
        return value


#: Keys and names of the rows, in the paper's order, and of two more that the table does not have.
ROWS = {
    "algorithm": "baseline algorithm",
    "kind": "diffusion or flow",
    "model": "base model",
    "prompts": "prompts",
    "reward": "reward",
    "noise": "noise level (SDE)",
    "timesteps": "timestep subsampling",
    "steps": "sampling steps",
    "guidance": "guidance scale (name lost)",
    "kl": "KL coefficient (name lost)",
    "learning_rate": "learning rate",
    "max_grad_norm": "max grad norm",
    "prompts_per_iteration": "prompts per iteration",
    "images_per_prompt": "images per prompt",
    "images_per_iteration": "images per iteration",
    "updates": "gradient updates",
    "clip_range": "clip range",
    "lora": "LoRA (rank, alpha)",
    "checkpoint": "checkpoint freq.",
    "length": "epochs",
    "precision": "precision",
}

_GUIDANCE = "told by its values, which are upstream's guidance scales"
_KL = "told by the legend, whose name for it is lost too"
_GROUPS = (
    "six values for ten columns; by the legend DDPO has none, and for each of the others prompts times images per "
    "prompt is the images per iteration"
)
_LORA = (
    "seven values for ten columns, in order: the first four are DDPO's, (128, 256) is FLUX's as in the official LoRA "
    "script (B.2.2), the last two Flow-GRPO's"
)
_FULL_BY_ORDER = (
    "full fine-tuning (legend); that this is an empty cell is inferred from the order of the seven values"
)
_KL_PLACED = "two values for ten columns; only Flow-GRPO has a KL penalty (3.1, B.2.3)"
_STOPPED = "B.2.2: training was terminated at 240 epochs"


def _stated(*values: Value, why: str = "") -> tuple[Cell, ...]:
    assert len(values) == len(NUMBERS)
    return tuple(Cell(value, TABLE, why) for value in values)


def _columns(default: Cell, placed: Mapping[int, Cell]) -> tuple[Cell, ...]:
    return tuple(placed.get(number, default) for number in NUMBERS)


def _placed(values: Mapping[int, Value], why: str) -> dict[int, Cell]:
    return {number: Cell(value, PLACED, why) for number, value in values.items()}


_NO_GROUP = Cell(None, EMPTY, "legend: as many random prompts as images, no groups")
_SUBSAMPLED = Cell(0.6, ELSEWHERE, "legend: by default DanceGRPO trains FLUX on 60% of the timesteps")
_COLUMNS: dict[str, tuple[Cell, ...]] = {
    "algorithm": _stated(*["DDPO"] * 4, *["DanceGRPO"] * 3, *["Flow-GRPO"] * 2, "DanceGRPO"),
    "kind": _stated(*"DDDDDFDFFF"),
    "model": _stated(*["SD1.5"] * 4, "SD1.4", "FLUX.1-dev", "SD1.5", "SD3.5-M", "SD3.5-M", "FLUX.1-dev"),
    "prompts": _stated(
        "animal", "animal", "activity", "activity", "HPD", "HPD", "Pick", "OCR", "Pick-SFW", "HPD"
    ),
    "reward": _stated("Aes", "Aes", "BERT", "BERT", "HPS", "HPS", "Pick", "OCR", "Pick", "HPS"),
    "noise": _columns(Cell(None, LOST), {}),
    "timesteps": _columns(Cell(None, LOST), {6: _SUBSAMPLED, 10: _SUBSAMPLED}),
    "steps": _stated(50, 50, 50, 50, 50, 12, 50, 10, 10, 16),
    "guidance": _stated(5.0, 5.0, 5.0, 5.0, 5.0, 1.0, 5.0, 4.5, 4.5, 1.0, why=_GUIDANCE),
    "kl": _columns(
        Cell(None, EMPTY, f"{_KL}: no penalty"), _placed({8: 0.04, 9: 0.01}, f"{_KL}; {_KL_PLACED}")
    ),
    "learning_rate": _stated(1e-4, 1e-4, 1e-4, 1e-4, 1e-5, 3e-4, 1e-5, 3e-4, 3e-4, 1e-5),
    "max_grad_norm": _stated(*[1.0] * 10),
    "prompts_per_iteration": _columns(
        _NO_GROUP, _placed({5: 32, 6: 32, 7: 32, 8: 8, 9: 32, 10: 32}, _GROUPS)
    ),
    "images_per_prompt": _columns(_NO_GROUP, _placed({5: 16, 6: 12, 7: 16, 8: 8, 9: 16, 10: 12}, _GROUPS)),
    "images_per_iteration": _stated(256, 512, 288, 576, 512, 384, 512, 64, 512, 384),
    "updates": _stated(2, 2, 2, 2, 2, 4, 2, 2, 2, 4),
    "clip_range": _stated(*[1e-4] * 10),
    "lora": _columns(
        Cell(None, EMPTY, _FULL_BY_ORDER),
        {
            **_placed(
                {1: (4, 4), 2: (4, 4), 3: (4, 4), 4: (4, 4), 6: (128, 256), 8: (32, 64), 9: (32, 64)}, _LORA
            ),
            10: Cell(None, EMPTY, "full fine-tuning (legend, B.2.2)"),
        },
    ),
    "checkpoint": _stated(1, 1, 1, 1, 50, 60, 50, 20, 20, 60),
    "length": _columns(
        Cell(None, UNSTATED),
        {
            **{
                number: Cell(epoch, BOUND, f"no number is stated; Table 10 counts to epoch {epoch}")
                for number, epoch in {1: 260, 2: 147, 3: 246, 4: 191}.items()
            },
            **{number: Cell(240, ELSEWHERE, _STOPPED) for number in (5, 6, 7, 10)},
        },
    ),
    "precision": _columns(Cell(None, UNSTATED), {}),
}

# description, figures, tables (Table 6), hardware (Table 8), GPUs that train. "(?)" stands for a symbol the text lost.
_USES: dict[int, tuple[str, str, str, str, int]] = {
    1: (
        "DDPO Aes, Half Batch Size",
        "6, 7(a, b), 9(a)",
        "2(a), 3, 10",
        "2x NVIDIA RTX 4090 (24GB); the ablations, Figures 6 and 7, 2x NVIDIA RTX 3090 (24GB)",
        2,
    ),
    2: (
        "DDPO Aes",
        "1(a), 3(a), 10(a), 11(a), 14, 15, 16, 17(?)",
        "1, 2(a), 3, 10",
        "2x NVIDIA RTX 4090 (24GB)",
        2,
    ),
    3: (
        "DDPO BERT, Half Batch Size",
        "9(b)",
        "2(a), 3, 10",
        "3x NVIDIA RTX 4090 + 1x VLM GPU",
        3,
    ),
    4: ("DDPO BERT", "3(b), 14, 17(?)", "1, 2(a), 3, 10", "3x NVIDIA RTX 4090 + 1x VLM GPU", 3),
    5: ("DanceGRPO SD1.4", "3(c), 13(?), 18", "1, 2(b), 4, 5, 10", "8x NVIDIA A100 (40GB)", 8),
    6: (
        "DanceGRPO FLUX",
        "1(b), 3(d), 4, 9(b), 10(b), 11(b), 13(?), 19, 20",
        "1, 2(b), 4, 5, 10",
        "8x NVIDIA A5000 (24GB)",
        8,
    ),
    # The "9" stands in the column of the figures; Appendix C says that it is Table 9.
    7: ("DanceGRPO, DPO Comparison", "none", "9", "8x NVIDIA A40 (48GB)", 8),
    8: ("FlowGRPO SD3.5, OCR", "5(a, c)", "none", "1x NVIDIA RTX3090", 1),
    9: ("FlowGRPO SD3.5, PickScore", "5(b, d)", "none", "4x NVIDIA RTX3090", 4),
    10: ("DanceGRPO FLUX, Naive Acc.", "7(d)", "none", "8x NVIDIA H100 (80GB)", 8),
}

CONFIGURATIONS: dict[int, Configuration] = {
    number: Configuration(number, *_USES[number], {row: _COLUMNS[row][number - 1] for row in ROWS})
    for number in NUMBERS
}
