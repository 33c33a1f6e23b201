"""The ratios before the first update as one figure: a row for each setting, in it the share outside by arm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring.ratios import Ratios, Setting
from benchmarks.measuring.study_data import from_plain
from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw as drawing
from pcpo_overlay.trainers import TRAINERS

#: The arms that are drawn, of those that are measured; ``match`` is exact where ``full`` is.
ARMS = ("observe", "full", "full,precision=match")


@dataclass(frozen=True)
class Measured:
    """One arm of one setting before its first update.

    Attributes:
        upstream, dtype, network: the setting.
        mode: the arm's label.
        largest: of ``|ratio - 1|``; 0 where every ratio is exactly 1.
        outside: share of sample-timesteps.
    """

    upstream: str
    dtype: str
    network: str
    mode: str
    largest: float
    outside: float


@dataclass(frozen=True)
class Machine:
    """What was measured on one machine.

    Attributes:
        name: in a word: ``CPU``, or the GPU's.
        source: the command, the date and the machine.
        note: what a reader of the figure has to know of these numbers alone; empty where there is nothing.
    """

    name: str
    source: str
    measured: list[Measured]
    note: str


@dataclass(frozen=True)
class OnPolicy:
    """The numbers behind the figure, machine by machine: the first is drawn filled, a second hollow."""

    machines: list[Machine]

    @staticmethod
    def read(path: Path) -> OnPolicy:
        """What :meth:`write` wrote."""
        return from_plain(OnPolicy, json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def beside(self, others: OnPolicy) -> OnPolicy:
        """With what ``others`` holds of other machines."""
        names = {machine.name for machine in self.machines}
        kept = [machine for machine in others.machines if machine.name not in names]
        return OnPolicy(sorted([*self.machines, *kept], key=lambda machine: machine.name != "CPU"))

    def figure(self) -> Any:
        """The figure."""
        rows = list(
            dict.fromkeys((m.upstream, m.dtype, m.network) for x in self.machines for m in x.measured)
        )
        figure = palette.new_figure(9, 1.9 + 0.4 * len(rows))
        axes = figure.subplots()
        for n, mode in enumerate(ARMS):
            look, offset = palette.look(mode), 0.27 * (n - (len(ARMS) - 1) / 2) - 0.05
            for hollow, machine in enumerate(self.machines):
                held = [m for m in machine.measured if m.mode == mode]
                y = [rows.index((m.upstream, m.dtype, m.network)) + offset + 0.1 * hollow for m in held]
                axes.plot(
                    [100 * m.outside for m in held], y, color=look.colour, marker=look.marker, linestyle="none",
                    markersize=6, markerfacecolor="white" if hollow else look.colour, clip_on=False, zorder=3,
                    label=f"{palette.name(mode)}, {machine.name}" if held else None,
                )  # fmt: skip
        for row in range(1, len(rows)):
            axes.axhline(row - 0.5, color="#dddddd", linewidth=0.8)
        told = [f"{TRAINERS[upstream].title}, {dtype}, {network}" for upstream, dtype, network in rows]
        axes.set_yticks(range(len(rows)), told)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-1.5, 101.5)
        palette.plain(axes, xlabel="outside the clip range of 1e-4 before anything was learned, %", grid="x")
        drawing.heading(
            figure,
            "Before the first update every policy ratio should be 1",
            " ".join(
                [
                    "share of sample-timesteps outside the clip range for their rounding alone; 0 is right.",
                    *(machine.note for machine in self.machines if machine.note),
                ]
            ),
        )
        palette.legend_below(figure, axes)
        return figure


def of(found: Mapping[Setting, Mapping[str, Ratios]], name: str, source: str) -> OnPolicy:
    """What one call measured.

    Args:
        found: by setting and mode.
        name, source: of the machine, as :class:`Machine` has them.
    """
    measured = [
        Measured(
            setting.upstream,
            setting.dtype,
            setting.network,
            mode,
            float(torch.expm1(ratios.log_rho).abs().max()),
            float(ratios.outside.double().mean()),
        )
        for setting, modes in found.items()
        for mode, ratios in modes.items()
    ]
    return OnPolicy([Machine(name, source, measured, note="")])
