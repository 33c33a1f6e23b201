"""What the check found, for a reader: what is wrong first, then a table a part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import machine
from benchmarks.measuring.tables import mib, seconds, table

#: Of an optimizer step in time, and of the peak in memory.
GOAL_TIME, GOAL_TAPE = 1.0, 0.01
#: The arms whose memory is told.
HELD = ("off", "observe", "full", "tape=cpu")


def page(folder: Path, parts: Sequence[str]) -> tuple[str, list[str]]:
    """The page, and what is wrong.

    Args:
        folder: the check's.
        parts: those that were asked for.
    """
    found = {name: _read(folder / f"{name}.jsonl") for name in parts}
    wrong = [line for name in parts for line in _wrong(name, found[name])]
    lines = [
        "## On a GPU\n",
        machine.header(json.loads((folder / "machine.json").read_text(encoding="utf-8"))),
        "",
    ]
    lines += [f"- **Wrong:** {line}" for line in wrong] or ["Nothing is wrong in what was measured."]
    for name in parts:
        lines += ["", f"### {name.capitalize()}", "", _TABLES[name](found[name])]
        lines += [f"- left out: {_what(row)}: {row['skipped']}" for row in found[name] if "skipped" in row]
        lines += [f"- took {row['seconds']} s" for row in found[name] if "part" in row]
    return "\n".join(lines) + "\n", wrong


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _what(row: Mapping[str, Any]) -> str:
    named = ("trainer", "network", "dtype", "mode", "how", "what")
    return ", ".join(str(row[name]) for name in named if name in row)


def _wrong(name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    for row in rows:
        if "error" in row:
            said.append(f"{_what(row)}: {row['error'].splitlines()[0]}")
        elif "part" in row and row["exit_code"] != 0:
            how = (
                "was stopped, for its time was up"
                if row["exit_code"] is None
                else f"ended with exit code {row['exit_code']}"
            )
            said.append(f"the part {name} {how}; its log is {name}.log")
        elif row.get("exit_code") and "trainer" in row:
            said.append(f"{_what(row)}: exit code {row['exit_code']}; the end of its log is in {name}.jsonl")
        elif row.get("nan_losses"):
            said.append(
                f"{_what(row)}: {row['nan_losses']} losses are NaN; the end of its log is in {name}.jsonl"
            )
        elif row.get("wrong"):
            said.append(
                f"{_what(row)}: {'not every ratio is 1' if 'largest' in row else 'more forward passes'}"
            )
        elif "peak_bytes" in row and (peak := row["peak_bytes"]["full"]):
            share = row["tape_bytes"]["full"] / peak
            said += [f"{row['network']}: the tape is {share:.1%} of the peak"] * (share > GOAL_TAPE)
        elif row.get("what") == "optimizer step" and not row.get("tiny"):
            low = float(row["ratios"]["full"].split("[")[1].split(",")[0])
            if low > GOAL_TIME:
                said.append(f"{row['network']}: an optimizer step under full takes {row['ratios']['full']}")
    return said


def _faults(rows: Sequence[Mapping[str, Any]]) -> str:
    ran = [row for row in rows if "exit_code" in row and "trainer" in row]
    return table(
        ("trainer", "mode", "how", "exit code", "losses that are NaN", "seconds"),
        [
            (
                r["trainer"],
                f"`{r['mode']}`",
                r["how"],
                str(r["exit_code"]),
                str(r["nan_losses"]),
                f"{r['seconds']}",
            )
            for r in ran
        ],
    )


def _ratios(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("trainer", "dtype", "trained", "mode", "largest `abs(ratio - 1)`", "outside", "masked"),
        [
            (r["trainer"], r["dtype"], r["network"], f"`{r['mode']}`", f"{r['largest']:.1e}", f"{r['outside']:.1%}",
             f"{r['masked']:.1%}")
            for r in rows if "largest" in r
        ],
    )  # fmt: skip


def _sizes(rows: Sequence[Mapping[str, Any]]) -> str:
    timed = [row for row in rows if "ratios" in row]
    held = [row for row in rows if "peak_bytes" in row]
    times = table(
        ("network", "what", "`off`", "`full`", "`full,tape=cpu`", "`observe`", "`off` again"),
        [
            (r["network"], r["what"], seconds(r["off"]), r["ratios"]["full"], r["ratios"]["tape=cpu"],
             r["ratios"]["observe"], r["ratios"]["again"])
            for r in timed
        ],
    )  # fmt: skip
    memory = table(
        (
            "network",
            *(f"peak, `{name}`" for name in HELD),
            "tape",
            "waits, `off` / `full`",
        ),
        [
            (
                r["network"],
                *(_bytes(r["peak_bytes"][name]) for name in HELD),
                mib(r["tape_bytes"]["full"]),
                f"{_count(r['waits']['off'])} / {_count(r['waits']['full'])}",
            )
            for r in held
        ],
    )
    return f"{times}\n\n{memory}"


def _guidance(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("arm", "images a second", "seconds against the base", "forward passes, base and experts"),
        [
            (name, f"{rate:.2f}", r["ratios"].get(name, "1"), ", ".join(map(str, r["forwards"][name].values())))
            for r in rows if "images_a_second" in r
            for name, rate in r["images_a_second"].items()
        ],
    )  # fmt: skip


def _bytes(count: int | None) -> str:
    return "not told" if count is None else mib(count)


def _count(count: int | None) -> str:
    return "not told" if count is None else str(count)


_TABLES = {"faults": _faults, "ratios": _ratios, "sizes": _sizes, "guidance": _guidance}
