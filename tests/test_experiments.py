"""``python -m pcpo_overlay experiments``: its values against the paper's text, its script run, its wrong arguments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pcpo_overlay.__main__ import main
from pcpo_overlay.config import parse
from pcpo_overlay.tools.paper.experiments import (
    BOUND,
    CONFIGURATIONS,
    ELSEWHERE,
    EMPTY,
    LOST,
    PLACED,
    RECIPES,
    ROWS,
    TABLE,
    UNSTATED,
    Batch,
    ExperimentError,
    Value,
    as_word,
    plan,
    possible_gpus,
)

Capture = pytest.CaptureFixture[str]

ROOT = Path(__file__).resolve().parents[1]

# Table 7 as the text of the paper has it, row by row: the cells that are there, without those that are not.
PAPER_ROWS = {
    "algorithm": "DDPO | DDPO | DDPO | DDPO | DanceGRPO | DanceGRPO | DanceGRPO | Flow-GRPO | Flow-GRPO | DanceGRPO",
    "kind": "D | D | D | D | D | F | D | F | F | F",
    "model": "SD1.5 | SD1.5 | SD1.5 | SD1.5 | SD1.4 | FLUX.1-dev | SD1.5 | SD3.5-M | SD3.5-M | FLUX.1-dev",
    "prompts": "animal | animal | activity | activity | HPD | HPD | Pick | OCR | Pick-SFW | HPD",
    "reward": "Aes | Aes | BERT | BERT | HPS | HPS | Pick | OCR | Pick | HPS",
    "noise": "",
    "timesteps": "",
    "steps": "50 | 50 | 50 | 50 | 50 | 12 | 50 | 10 | 10 | 16",
    "guidance": "5.0 | 5.0 | 5.0 | 5.0 | 5.0 | 1.0 | 5.0 | 4.5 | 4.5 | 1.0",
    "kl": "0.04 | 0.01",
    "learning_rate": "1e-4 | 1e-4 | 1e-4 | 1e-4 | 1e-5 | 3e-4 | 1e-5 | 3e-4 | 3e-4 | 1e-5",
    "max_grad_norm": "1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0",
    "prompts_per_iteration": "32 | 32 | 32 | 8 | 32 | 32",
    "images_per_prompt": "16 | 12 | 16 | 8 | 16 | 12",
    "images_per_iteration": "256 | 512 | 288 | 576 | 512 | 384 | 512 | 64 | 512 | 384",
    "updates": "2 | 2 | 2 | 2 | 2 | 4 | 2 | 2 | 2 | 4",
    "clip_range": "1e-4 | 1e-4 | 1e-4 | 1e-4 | 1e-4 | 1e-4 | 1e-4 | 1e-4 | 1e-4 | 1e-4",
    "lora": "(4,4) | (4,4) | (4,4) | (4,4) | (128,256) | (32,64) | (32,64)",
    "checkpoint": "1 | 1 | 1 | 1 | 50 | 60 | 50 | 20 | 20 | 60",
}
# Table 8, the GPUs that train, by the experiment it names.
HARDWARE = {
    1: (2, "2x NVIDIA RTX 4090 (24GB)"),
    2: (2, "2x NVIDIA RTX 4090 (24GB)"),
    3: (3, "3x NVIDIA RTX 4090 + 1x VLM GPU"),
    4: (3, "3x NVIDIA RTX 4090 + 1x VLM GPU"),
    5: (8, "8x NVIDIA A100 (40GB)"),
    6: (8, "8x NVIDIA A5000 (24GB)"),
    7: (8, "8x NVIDIA A40 (48GB)"),
    8: (1, "1x NVIDIA RTX3090"),
    9: (4, "4x NVIDIA RTX3090"),
    10: (8, "8x NVIDIA H100 (80GB)"),
}
#: What configuration 7 begins with: the folder in which its trainer finds PickScore, SD 1.5 and its prompts.
REWARD = (
    "pcpo reward pickscore --model stable-diffusion-v1-5/stable-diffusion-v1-5 --prompts "
    "vendor/flow_grpo/dataset/pickscore/train.txt --out pcpo_work/config7"
)
EMBED = "pcpo embed flux --model data/flux --prompts assets/prompts.txt --out data/rl_embeddings"


def run(capsys: Capture, *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``pcpo experiments ...``."""
    try:
        code = main(["experiments", *argv])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys: Capture, *argv: str) -> list[dict[str, Any]]:
    code, out, err = run(capsys, *argv, "--json")
    assert (code, err) == (0, "")
    result: list[dict[str, Any]] = json.loads(out)
    return result


def as_in_the_paper(value: Value) -> str:
    return f"({value[0]},{value[1]})" if isinstance(value, tuple) else as_word(value)


# --------------------------------------------------------------- the table


@pytest.mark.parametrize("row", PAPER_ROWS)
def test_a_row_holds_the_cells_of_the_text_in_order(row: str) -> None:
    cells = [paper.cells[row] for paper in CONFIGURATIONS.values()]
    told = [cell.value for cell in cells if cell.origin in (TABLE, PLACED) and cell.value is not None]
    assert " | ".join(map(as_in_the_paper, told)) == PAPER_ROWS[row]
    complete = len(PAPER_ROWS[row].split(" | ")) == len(CONFIGURATIONS)
    assert {cell.origin for cell in cells} == {TABLE} if complete else TABLE not in {c.origin for c in cells}


def test_nothing_is_made_up() -> None:
    for paper in CONFIGURATIONS.values():
        assert list(paper.cells) == list(ROWS)
        for row, cell in paper.cells.items():
            assert (cell.value is None) == (cell.origin in (EMPTY, LOST, UNSTATED)), (paper.number, row)
            if cell.origin in (PLACED, ELSEWHERE, BOUND, EMPTY):
                assert cell.why, (paper.number, row)


def test_what_is_lost_or_taken_from_elsewhere() -> None:
    origins = {
        row: [n for n, paper in CONFIGURATIONS.items() if paper.cells[row].origin == LOST] for row in ROWS
    }
    assert {row: numbers for row, numbers in origins.items() if numbers} == {
        "noise": list(range(1, 11)),
        "timesteps": [1, 2, 3, 4, 5, 7, 8, 9],
    }
    elsewhere = {
        row: {n: paper[row] for n, paper in CONFIGURATIONS.items() if paper.cells[row].origin == ELSEWHERE}
        for row in ROWS
    }
    assert {row: values for row, values in elsewhere.items() if values} == {
        "timesteps": {6: 0.6, 10: 0.6},  # B.1.1
        "length": {5: 240, 6: 240, 7: 240, 10: 240},  # B.2.2
    }
    bounds = {n: p["length"] for n, p in CONFIGURATIONS.items() if p.cells["length"].origin == BOUND}
    assert bounds == {1: 260, 2: 147, 3: 246, 4: 191}  # Table 10


def test_cells_stand_where_the_paper_puts_them() -> None:
    assert {n: paper["kl"] for n, paper in CONFIGURATIONS.items() if paper["kl"]} == {8: 0.04, 9: 0.01}
    assert {n for n, paper in CONFIGURATIONS.items() if paper["lora"] is None} == {5, 7, 10}
    for number in range(5, 11):
        paper = CONFIGURATIONS[number]
        product = paper["prompts_per_iteration"] * paper["images_per_prompt"]
        assert product == paper["images_per_iteration"]


@pytest.mark.parametrize("number", HARDWARE)
def test_hardware(number: int) -> None:
    paper = CONFIGURATIONS[number]
    gpus, told = HARDWARE[number]
    assert paper.gpus == gpus
    assert paper.hardware.startswith(told)


# ------------------------------------------------------------ the commands


@pytest.mark.parametrize("number", CONFIGURATIONS)
def test_the_batch_is_the_tables_on_every_possible_number_of_gpus(number: int) -> None:
    paper = CONFIGURATIONS[number]
    assert paper.gpus in possible_gpus(number)
    for gpus in possible_gpus(number):
        batch = plan(number, gpus).batch
        assert (batch.images, batch.updates, batch.prompts) == (
            paper["images_per_iteration"],
            paper["updates"],
            paper["prompts_per_iteration"],
        )


def test_the_batch_on_the_papers_gpus() -> None:
    assert plan(3).batch == Batch(
        288,
        2,
        None,
        "3 GPUs x 8 images x 12 batches = 288",
        "288 / (3 GPUs x 4 images x 12 accumulated) = 2",
    )
    flags = {
        number: {c.flag.rpartition(".")[2].lstrip("-"): c.value for c in plan(number).changes}
        for number in (4, 9)
    }
    assert flags[4]["num_batches_per_epoch"] == flags[4]["gradient_accumulation_steps"] == "24"
    assert (flags[9]["num_batches_per_epoch"], flags[9]["gradient_accumulation_steps"]) == ("16", "8")


@pytest.mark.parametrize("number", CONFIGURATIONS)
def test_the_arms(number: int) -> None:
    experiment = plan(number)
    baseline, patched, *_ = experiment.arms
    assert (baseline.name, baseline.pcpo.split(",")[0]) == ("baseline", "observe")
    assert patched.pcpo.split(",")[0] == "full"
    for arm in experiment.arms:
        config = parse(arm.pcpo).on(experiment.recipe.trainer)
        assert config.recording
        assert config.unique_prompts == (experiment.recipe.clone == "flow_grpo")
    assert parse(patched.pcpo).weights == ("uniform" if number == 10 else "proportional")


def test_configuration_1_has_the_ablations_arms() -> None:
    arms = {arm.name: arm for arm in plan(1).arms}
    assert {name: arm.pcpo for name, arm in arms.items()} == {
        "baseline": "observe",
        "pcpo": "full",
        "log": "log",
        "match": "match",
        "exact": "full,precision=match",
        "half": "observe",
    }
    assert "--config.train.timestep_fraction=0.5" in plan(1).command(arms["half"])
    assert not any("timestep_fraction" in word for word in plan(1).command(arms["baseline"]))


@pytest.mark.parametrize("number", CONFIGURATIONS)
def test_a_change_is_one_and_said_once(number: int) -> None:
    experiment = plan(number)
    for arm in experiment.arms or [None]:
        changes = [*experiment.changes, *(arm.changes if arm else ())]
        assert all(change.value != change.own and change.why for change in changes)
        assert len({change.flag for change in changes}) == len(changes)


@pytest.mark.parametrize("number", CONFIGURATIONS)
def test_arms_do_not_write_over_each_other(number: int) -> None:
    experiment = plan(number)
    output = experiment.recipe.output
    folders = [c.value for arm in experiment.arms for c in arm.changes if output and c.flag == output[0]]
    moved = [line for arm in experiment.arms for line in experiment.afterwards(arm)]
    assert len(set(folders)) == (len(experiment.arms) if output else 0)
    assert len(set(moved)) == (len(experiment.arms) if experiment.recipe.leaves else 0)


def test_what_upstream_does_not_have_is_only_what_the_remarks_name() -> None:
    missing = {
        (number, row)
        for number, recipe in RECIPES.items()
        for row, knob in recipe.knobs.items()
        if knob.flag and isinstance(CONFIGURATIONS[number][row], str)
        if CONFIGURATIONS[number][row] not in knob.words
    }
    assert missing == {(7, "reward")}
    assert any("yuvalkirstain/PickScore_v1 on the hub, 3.9 GB" in note for note in plan(7).notes)
    assert any("Pick-SFW" in note for note in plan(9).notes)


def test_one_gpu_is_launched_as_one() -> None:
    one, two = plan(1, 1), plan(1, 2)
    assert "--multi_gpu" not in one.command(one.arms[0])
    assert "--multi_gpu" in two.command(two.arms[0])


def test_numbers_as_the_paper_writes_them() -> None:
    values: list[Value] = [1e-4, 1e-5, 3e-4, 0.04, 5.0, 50, "SD1.5", (4, 4)]
    assert [as_word(value) for value in values] == [
        *("1e-4", "1e-5", "3e-4", "0.04", "5.0", "50", "SD1.5", "4 4"),
    ]


@pytest.mark.parametrize("number", [8, 9])
def test_flow_grpos_endless_loop_is_wrapped(number: int) -> None:
    wrapper = ROOT / "pcpo_overlay" / "tools" / "launch" / "flow_grpo.py"
    for epochs in (None, 300):
        experiment = plan(number, epochs=epochs)
        for arm in experiment.arms:
            words = experiment.command(arm)
            file, _, inner = words[words.index("--config") + 1].partition(":")
            assert (ROOT / "vendor" / "flow_grpo" / file).resolve() == wrapper
            assert inner == experiment.recipe.config
            assert [w for w in words if "num_epochs" in w] == [f"--config.num_epochs={epochs or 0}"]
    assert any("endless" in note for note in plan(number).notes)


def test_so_many_epochs_as_were_asked_for() -> None:
    """DanceGRPO's SD trainer counts from 0 to the number and includes it."""
    told = {
        n: {c.flag.rpartition(".")[2].lstrip("-"): c.value for c in plan(n, epochs=30).changes}
        for n in (1, 5, 6)
    }
    assert told[1]["num_epochs"] == "30" and told[5]["num_epochs"] == "29"
    assert told[6]["max_train_steps"] == "30"
    assert not [c for c in plan(6, epochs=301).changes if c.flag == "--max_train_steps"]  # upstream's own


@pytest.mark.parametrize("number", CONFIGURATIONS)
def test_what_to_run_afterwards_is_a_report_at_table_10s_rewards(number: int) -> None:
    from pcpo_overlay.tools.cli.arguments import thresholds

    report = plan(number).report
    assert report[:3] == ("pcpo", "report", f"{RECIPES[number].directory}/pcpo_runs")
    levels = dict(zip(report[3::2], report[4::2], strict=True)).get("--thresholds")
    table_10 = {
        1: [6.0, 6.3, 6.6, 6.9], 2: [6.0, 6.3, 6.6, 6.9], 3: [0.49, 0.5, 0.51, 0.52], 4: [0.49, 0.5, 0.51, 0.52],
        5: [0.34, 0.35, 0.36, 0.37], 6: [0.33, 0.34, 0.35, 0.36],
    }  # fmt: skip
    assert (thresholds(levels) if levels else None) == table_10.get(number)


def test_what_has_to_be_known_before_a_run() -> None:
    assert any("halve sample.batch_size" in note and "Twice at most" not in note for note in plan(1).notes)
    assert any("halve sample.batch_size" in note and "Twice at most" in note for note in plan(3).notes)
    for number, gpus in ((3, 3), (4, 2)):
        line = f"CUDA_VISIBLE_DEVICES={gpus} pcpo serve vlm-bertscore"
        assert any(line in note for note in plan(number, gpus=gpus).notes)
    assert any("PaddleOCR" in note for note in plan(8).notes)
    assert not any("PaddleOCR" in note for note in plan(9).notes)


# -------------------------------------------------------- the command line


def test_all_ten_by_default(capsys: Capture) -> None:
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    titles = [line for line in out.splitlines() if line.startswith("# ==== Configuration ")]
    assert [int(title.split()[3].rstrip(":")) for title in titles] == list(range(1, 11))
    assert [item["configuration"] for item in run_json(capsys)] == list(range(1, 11))


def test_some_in_the_order_asked_for(capsys: Capture) -> None:
    assert [item["configuration"] for item in run_json(capsys, "9", "2", "9")] == [9, 2]


@pytest.mark.parametrize("number", CONFIGURATIONS)
def test_the_text_says_what_the_paper_lost_and_what_upstream_has(capsys: Capture, number: int) -> None:
    _, out, _ = run(capsys, str(number))
    paper, recipe = CONFIGURATIONS[number], RECIPES[number]
    assert f"the paper's hardware: {paper.hardware}" in out
    rows = {line[4:].strip(): line for line in out.splitlines() if line.startswith("#   ")}
    (noise,) = [line for line in rows if line.startswith("noise level (SDE)")]
    assert LOST in noise and noise.endswith(f"{recipe.knobs['noise'].own}  {recipe.knobs['noise'].flag}")
    for row, name in ROWS.items():
        (line,) = [line for line in rows if line.startswith(f"{name}  ")]
        value = paper[row]
        if value is not None and not isinstance(value, tuple):
            assert as_word(value) in line


def test_json_has_the_whole_of_it(capsys: Capture) -> None:
    (item,) = run_json(capsys, "6")
    assert item["directory"] == "vendor/DanceGRPO"
    assert item["origin"] == "scripts/finetune/finetune_flux_grpo_8gpus_lora.sh"
    assert item["paper"]["lora"]["value"] == [128, 256]
    assert item["paper"]["noise"] == {
        "value": None,
        "origin": LOST,
        "why": "",
        "flag": "--eta",
        "upstream": "0.3",
    }
    assert item["batch"]["images"] == 384 and item["batch"]["updates"] == 4
    changed = {change["flag"]: (change["value"], change["upstream"]) for change in item["changes"]}
    assert changed == {
        "--train_batch_size": ("4", "2"),
        "--train_sp_batch_size": ("4", "2"),
        "--max_train_steps": ("240", "301"),
    }
    baseline, patched = item["arms"]
    assert baseline["environment"] == {"PCPO": "observe"} and patched["environment"] == {"PCPO": "full"}
    assert baseline["command"][:2] == ["torchrun", "--nproc_per_node=8"]


def test_nothing_in_it_is_of_one_machine(capsys: Capture) -> None:
    _, out, _ = run(capsys)
    assert str(Path.home()) not in out and str(Path.cwd()) not in out
    assert not [line for line in out.splitlines() if " /" in line.replace(" / ", "")]


@pytest.mark.skipif(shutil.which("bash") is None, reason="runs the printed script with bash")
def test_the_printed_script_runs_what_the_json_says(capsys: Capture, tmp_path: Path) -> None:
    _, script, _ = run(capsys)
    items = run_json(capsys)
    shims = tmp_path / "bin"
    shims.mkdir()
    log = tmp_path / "calls.jsonl"
    # it leaves the folder that DanceGRPO's trainer leaves, for the line after it
    body = (
        f"#!{sys.executable}\nimport json, os, sys\n"
        "call = [os.path.basename(os.getcwd()), os.environ.get('PCPO'), os.path.basename(sys.argv[0]), *sys.argv[1:]]\n"
        "assert os.environ['WANDB_MODE'] == 'offline'\n"
        f"open({str(log)!r}, 'a').write(json.dumps(call) + '\\n')\n"
        "os.makedirs(sys.argv[-1] if sys.argv[1] == 'reward' else 'my_checkpoints', exist_ok=True)\n"
    )
    for name in ("torchrun", "accelerate", "pcpo"):
        (shims / name).write_text(body)
        (shims / name).chmod(0o755)
    # the reward server of configurations 3 and 4 is there the second time it is asked
    asked = tmp_path / "asked"
    shell = "#!/bin/sh\n"
    is_it = f'case "$*" in *:8085/health) [ -e {asked} ] || {{ touch {asked}; exit 7; }};; *) exit 2;; esac\n'
    for name, lines in {"curl": shell + is_it, "sleep": shell}.items():
        (shims / name).write_text(lines)
        (shims / name).chmod(0o755)
    for clone in ("ddpo-pytorch", "DanceGRPO", "flow_grpo"):
        (tmp_path / "vendor" / clone).mkdir(parents=True)
    process = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=tmp_path,
        env={"PATH": f"{shims}{os.pathsep}/usr/bin{os.pathsep}/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (process.returncode, process.stderr) == (0, "")
    expected: list[list[str | None]] = []
    for item in items:
        if item["configuration"] in (6, 10):  # as many GPUs as there are, not the eight of upstream's script
            expected.append(["DanceGRPO", None, *EMBED.split()])
        if item["configuration"] == 7:
            assert item["make"] == [f"test -e pcpo_work/config7/hps_ckpt/reward.json || {REWARD}"]
            expected.append([tmp_path.name, None, *REWARD.split()])
        for arm in item["arms"]:
            expected.append([Path(item["directory"]).name, arm["environment"]["PCPO"], *arm["command"]])
        expected.append([tmp_path.name, None, *item["report"]])
    assert [json.loads(line) for line in log.read_text().splitlines()] == expected
    left = {path.name for path in (tmp_path / "vendor" / "DanceGRPO").iterdir()}
    left |= {path.name for path in (tmp_path / "pcpo_work" / "config7").iterdir()}
    assert {"my_checkpoints-config7-baseline", "my_checkpoints-config7-pcpo"} <= left
    assert {"my_checkpoints-config5-baseline", "my_checkpoints-config5-pcpo", "images", "images_same"} <= left


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("11", "no configuration 11; choose from 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
        ("0", "no configuration 0; choose from 1, 2,"),
        ("1 -3", "no configuration -3; choose from"),
        ("six", "expected a whole number, got 'six'"),
        ("1.5", "expected a whole number, got '1.5'"),
        (
            "3 --gpus 8",
            "configuration 3 does not divide among 8 GPUs; possible: 1, 2, 3, 4, 6, 9, 12, 18, 36",
        ),
        ("8 --gpus 8", "configuration 8 does not divide among 8 GPUs; possible: 1, 2, 4"),
        ("9 --gpus 1", "configuration 9 does not divide among 1 GPU; possible: 2, 4, 8, 16, 32"),
        ("2 --gpus 0", "configuration 2 does not divide among 0 GPUs; possible: 1, 2, 4, 8, 16, 32, 64"),
        ("--gpus 3", "configuration 1 does not divide among 3 GPUs"),
        ("2 --gpus many", "argument --gpus: expected a whole number, got 'many'"),
        ("2 --gpu 4", "unrecognized arguments: --gpu"),
        ("8 --epochs 0", "argument --epochs: expected a whole number, 1 or more, got '0'"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    capsys: Capture, arguments: str, text: str, as_json: bool
) -> None:
    code, out, err = run(capsys, *arguments.split(), *(["--json"] if as_json else []))
    assert (code, out) == (2, "")
    assert err.startswith("pcpo experiments: error: ") and err.count("\n") == 1
    assert text in err


def test_in_code_the_error_has_a_type() -> None:
    with pytest.raises(ExperimentError, match="no configuration 12"):
        plan(12)


def test_the_modules_need_the_standard_library_alone() -> None:
    code = (
        "import sys\n"
        "from pcpo_overlay.tools.paper import experiments, script\n"
        "script.render(experiments.plan(n) for n in range(1, 11))\n"
        "known = {*sys.stdlib_module_names, 'pcpo_overlay', '__main__'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} - known))\n"
    )
    command = [sys.executable, "-S", "-c", code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (process.stdout, process.stderr) == ("[]\n", "")
