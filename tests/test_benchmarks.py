"""The benchmarks' arithmetic, tables and goals, without upstream's code and without a training run."""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import ROOT, on_policy, overhead, tape_memory
from benchmarks.measuring import clones, in_turn, loss_step, machine, ratios, tables, training
from benchmarks.measuring.miniature_run import Miniatures, RunFailed
from benchmarks.measuring.pairs import Ratio, alternate, interval_ranks, ratio_of
from benchmarks.measuring.turns import Laps, race
from pcpo_overlay import hooks
from pcpo_overlay.config import HookError, parse
from pcpo_overlay.tools.ab.arms import Arm
from pcpo_overlay.tools.ab.plan import Planned

# ------------------------------------------------------------------ statistics


def test_a_slow_spell_of_the_machine_does_not_move_the_ratio() -> None:
    rng = random.Random(0)
    spell = [1 + 9 * (n % 4 == 0) for n in range(40)]
    base = [s * rng.uniform(0.99, 1.01) for s in spell]
    ours = [0.8 * s * rng.uniform(0.99, 1.01) for s in spell]
    ratio = ratio_of(ours, base)
    assert ratio.median == pytest.approx(0.8, abs=0.01)
    assert 0.78 < ratio.low <= ratio.median <= ratio.high < 0.82
    assert str(Ratio(0.834, 0.81, 0.858, 9)) == "0.83x [0.81, 0.86]"


@pytest.mark.parametrize(
    ("n", "ranks"), [(1, (0, 0)), (5, (0, 4)), (6, (0, 5)), (9, (1, 7)), (15, (3, 11)), (100, (39, 60))]
)
def test_order_statistics_that_hold_the_median(n: int, ranks: tuple[int, int]) -> None:
    # as in the tables of the sign test
    assert interval_ranks(n) == ranks


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng = random.Random(1)
    held = 0
    for _ in range(2000):
        ratio = ratio_of([rng.lognormvariate(0, 0.5) for _ in range(15)], [1.0] * 15)
        held += ratio.low <= 1 <= ratio.high
    assert held / 2000 > 0.94


def test_times_that_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="2 and 1 times do not make pairs"):
        ratio_of([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="0 and 0"):
        ratio_of([], [])


def test_every_arm_once_a_round_and_not_always_in_one_order() -> None:
    order: list[str] = []

    def arm(name: str, value: float) -> Callable[[], float]:
        def timed() -> float:
            order.append(name)
            return value

        return timed

    times = alternate({"a": arm("a", 1.0), "b": arm("b", 2.0)}, 20, random.Random(0))
    assert times == {"a": [1.0] * 20, "b": [2.0] * 20}
    rounds = {tuple(order[n : n + 2]) for n in range(0, 40, 2)}
    assert rounds == {("a", "b"), ("b", "a")}


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (Ratio(0.9, 0.8, 1.1, 9), "met"),
        (Ratio(1.0, 1.0, 1.1, 9), "met"),
        (Ratio(1.01, 0.99, 1.1, 9), "within noise"),
        (Ratio(1.05, 1.01, 1.1, 9), "MISSED"),
    ],
)
def test_goals(ratio: Ratio, verdict: str) -> None:
    assert ratio.against(1.0) == verdict


# ----------------------------------------------------------------------- tables


def test_a_table() -> None:
    section = tables.Section("Title", ("a", "b"), rows=[("1", "2")], notes=["A note."])
    tables.judge(section, "case", {"full": Ratio(1.2, 1.1, 1.3, 9)}, {"full": 1.0})
    tables.judge(section, "other", {"full": Ratio(1.2, 0.9, 1.3, 9)}, {"full": 1.0})
    assert section.markdown().split("\n\n") == [
        "### Title",
        "| a | b |\n| --- | --- |\n| 1 | 2 |",
        "A note.",
        "Above its goal, but within noise: other, `full`: 1.20x [0.90, 1.30], goal 1.00x.",
        "**Goal missed:** case, `full`: 1.20x [1.10, 1.30], goal 1.00x",
    ]
    json.dumps(section.as_dict())
    with pytest.raises(ValueError, match="1 cells in a table of 2 columns"):
        tables.table(("a", "b"), [("1",)])


@pytest.mark.parametrize(
    ("value", "text"), [(12.34, "12.3 s"), (0.5, "500 ms"), (1.5e-3, "1.5 ms"), (2e-5, "20 µs")]
)
def test_seconds_in_the_unit_that_reads_best(value: float, text: str) -> None:
    assert tables.seconds(value) == text


def test_a_command_is_told_as_it_was_typed() -> None:
    code = "from benchmarks.measuring import machine; print(machine.command_line())"
    done = subprocess.run(
        [sys.executable, "-c", code, "a b"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['-c', 'a b']\n"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead", "loss", "--vendor", "nowhere"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "- command: `python -m benchmarks.overhead loss --vendor nowhere`, " in done.stdout


def test_the_head_says_what_was_measured_on() -> None:
    described = machine.describe(3)
    text = machine.header(described)
    device = "GPU, timed with CUDA events" if torch.cuda.is_available() else "CPU (no CUDA device)"
    assert device in text
    for part in (described["name"], described["date"], "seed 3", f"torch {torch.__version__}", "threads"):
        assert part in text


# -------------------------------------------------------------- upstream's code

SCRIPT = """
def step(x):
    return 2 * x * SCALE

def main():
    for i in range(3):
        with go():
            before = 1
            advantages = torch.clamp(sample["advantages"], -limit, limit)
            ratio = torch.exp(log_prob - sample["log_probs"][:, j])
            loss = (advantages * ratio).mean()
            loss = hook(loss)
            after = undefined
            loss.backward()
"""


def test_lines_from_the_ratio_to_the_loss() -> None:
    code = clones.Code(Path("train.py"), SCRIPT)
    scope = {"torch": torch, "limit": 1.0, "hook": lambda loss: loss + 100}
    lines = code.loss_lines("loss", ["log_prob", "j", "sample"], scope)
    sample = {"advantages": torch.tensor([5.0, -5.0]), "log_probs": torch.zeros(2, 3)}
    assert float(lines(torch.tensor([0.0, 0.0]), 1, sample)) == 100
    assert code.function("step", {"SCALE": 5})(3) == 30
    with pytest.raises(ValueError, match="no ratio and other"):
        code.loss_lines("other", [], {})
    with pytest.raises(ValueError, match="has no function other"):
        code.function("other", {})


def test_a_clone_that_is_not_there_or_not_patched(tmp_path: Path) -> None:
    with pytest.raises(clones.MissingClone, match=r"python apply\.py ddpo-pytorch --dest"):
        clones.Clone.find("ddpo-pytorch", tmp_path)
    (tmp_path / "ddpo-pytorch" / ".git").mkdir(parents=True)
    (tmp_path / "ddpo-pytorch" / "train.py").write_text("pass\n")
    clone = clones.Clone.find("ddpo-pytorch", tmp_path)
    with pytest.raises(clones.MissingClone, match="is not patched; patch it with"):
        clone.patched("train.py")


# ---------------------------------------------------------------- the loss step

#: DanceGRPO's trainers at a shape of a few bytes, with a step function and loss lines that stand in for upstream's.
TINY = loss_step.Case("tiny", loss_step._FLUX, (2, 3, 4), 4)
STAND_IN = """
def flux_step(pred, x, eta, sigmas, index, prev_sample, grpo, sde_solver):
    std = eta * math.sqrt(sigmas[index] - sigmas[index + 1])
    mean = x + (sigmas[index + 1] - sigmas[index]) * pred
    if prev_sample is None:
        prev_sample = mean + std * torch.randn_like(mean)
        {record}
    log_prob = -((prev_sample.detach() - mean) ** 2) / (2 * std**2)
    return prev_sample, None, log_prob.mean(dim=(1, 2))

def train():
    if True:
        advantages = torch.clamp(sample["advantages"], -adv_clip_max, adv_clip_max)
        ratio = torch.exp(new_log_probs - sample["log_probs"][:, _])
        loss = torch.mean(torch.maximum(-advantages * ratio, -advantages * torch.clamp(ratio, 0.9, 1.1)))
        {loss}
"""


class StandIn:
    """A clone whose files are the text above."""

    def as_upstream_wrote_it(self, file: str) -> clones.Code:
        return clones.Code(Path(file), STAND_IN.format(record="pass", loss="pass"))

    def patched(self, file: str) -> clones.Code:
        record = "pcpo.record_drawn_step(pred, prev_sample, mean, std, sigmas, index, eta)"
        loss = 'loss = pcpo.loss(loss, new_log_probs, sample["log_probs"][:, _], advantages)'
        return clones.Code(Path(file), STAND_IN.format(record=record, loss=loss))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clones.Clone, "find", lambda name, vendor: StandIn())
    monkeypatch.setattr("pcpo_overlay.compat.install", lambda upstream: None)


@pytest.mark.parametrize("dtype", loss_step.DTYPES.values(), ids=loss_step.DTYPES)
def test_arms_of_the_loss_step(stand_in: None, tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)  # the stand-in draws noise of torch's own; of two samples the hinge may mask both
    cpu = torch.device("cpu")
    before = hooks.current()
    arms = {
        mode: loss_step.Arm(TINY, dtype, mode, StandIn(), cpu, tmp_path)  # type: ignore[arg-type]
        for mode in (None, "observe", "full")
    }
    gradients = {}
    for mode, arm in arms.items():
        assert arm.block(5) > 0
        gradient = gradients[mode] = arm._pred.grad
        assert gradient is not None and gradient.abs().sum() > 0
    assert hooks.current() is before
    full = arms["full"].session
    assert full is not None and full.tape.nbytes > 0 and full.objective.was_computed
    # the stand-in's own step takes a number off its schedule; matching does not run it
    assert arms[None].waits() == arms["observe"].waits() == 1
    assert arms["full"].waits() == 0
    for arm in arms.values():
        arm.close()


def test_a_hook_that_does_not_fire_is_found_out(stand_in: None, tmp_path: Path) -> None:
    class Unpatched(StandIn):
        def patched(self, file: str) -> clones.Code:
            return self.as_upstream_wrote_it(file)

    with pytest.raises(HookError, match="recorded no step"):
        loss_step.Arm(TINY, torch.float32, "full", Unpatched(), torch.device("cpu"), tmp_path)  # type: ignore[arg-type]


def test_the_section_of_the_loss_step(stand_in: None) -> None:
    sections = loss_step.measure(
        Path("nowhere"), torch.device("cpu"), 3, 1e-4, random.Random(0), [TINY, TINY]
    )
    loss, metrics = sections
    assert len(loss.rows) == 4 and len(metrics.rows) == 4
    assert loss.rows[1][:3] == ("tiny", "(2,3,4)", "bf16")
    assert loss.rows[0][-1] == "1 / 0"
    assert len(loss.values[0]["seconds"]["full"]) == 3
    json.dumps([section.as_dict() for section in sections])


# ------------------------------------------------------------------- the race

TRAINING = """
import sys, torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(int(sys.argv[1])):
    model(torch.ones(2)).sum().backward()
    optimizer.step()
print("the last word")
raise SystemExit(int(sys.argv[2]))
"""


def plan_of(folder: Path, name: str, steps: int, code: int = 0) -> Planned:
    (folder / "train.py").write_text(TRAINING)
    command = [sys.executable, in_turn.__file__, str(folder / "train.py"), str(steps), str(code)]
    environment = {"OMP_NUM_THREADS": "1"}
    return Planned(Arm(parse("off"), name), 0, folder / name, command, folder, environment, {})


def test_a_race(tmp_path: Path) -> None:
    laps = race({name: plan_of(tmp_path, name, 4) for name in ("a", "b")}, random.Random(0))
    for name in ("a", "b"):
        assert len(laps[name].wall) == len(laps[name].process) == 4
        assert 0 < laps[name].wall[-1] < laps[name].wall[0]  # the first has the start in it
        assert laps[name].folder == tmp_path / name
        assert (peak := laps[name].peak) is None or peak > 0


@pytest.mark.parametrize(
    ("steps", "code", "says"),
    [
        (4, 3, r"the run of b failed: exit code 3[\s\S]*the last word"),
        (0, 0, "the run of b failed: it took no optimizer step"),
        (3, 0, "a took more optimizer steps than another run"),
    ],
)
def test_a_race_that_goes_wrong(tmp_path: Path, steps: int, code: int, says: str) -> None:
    plans = {"a": plan_of(tmp_path, "a", 4), "b": plan_of(tmp_path, "b", steps, code)}
    with pytest.raises(RunFailed, match=says):
        race(plans, random.Random(0))


def test_a_run_to_the_first_update_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Miniatures, "plan", lambda self, *args, **kwargs: plan_of(tmp_path, "a", 0, 1))
    with pytest.raises(RunFailed, match=r"the run of ddpo, fp32, whole network, observe failed: exit code 1"):
        ratios.measure(Miniatures(tmp_path, tmp_path), ratios.SETTINGS[:1], jobs=1)


# ------------------------------------------------------------------- training


def measured(full: float) -> training.Measured:
    """Three epochs of two optimizer steps; the second and third epoch take 3 + 1 seconds."""
    laps = {}
    for arm, factor in (("off", 1.0), ("again", 1.0), ("observe", 1.01), ("full", full)):
        times = [100.0, 50.0, *[factor * t for t in (3.0, 1.0, 3.0, 1.0)]]
        laps[arm] = Laps(Path(arm), times, times, 2**20)
    return training.Measured("ddpo", laps, 2)


def test_steps_and_epochs_of_a_training() -> None:
    assert measured(1.0).epochs("off", "wall") == [4.0, 4.0]
    assert measured(1.0).training_steps("off", "wall") == [1.0, 1.0]
    section = training.training_section([measured(0.9)], "wall")
    assert section.rows[1] == (
        "ddpo", "epoch", "2", "4 s", "0.90x [0.90, 0.90]", "1.01x [1.01, 1.01]", "1.00x [1.00, 1.00]",
    )  # fmt: skip
    assert not section.missed


def test_memory() -> None:
    peak = dict.fromkeys(training.ARMS, 3 * 2**20)
    row = {"upstream": "ddpo", "peak": peak | {"full": None}, "tape_bytes": 2**20, "samples": 2}
    (cells,) = training.memory_section([row], "cpu").rows
    assert cells == ("ddpo", "3.0 MiB", "3.0 MiB", "3.0 MiB", "unknown", "1.0 MiB", "2", "524,288 B")


def test_a_missed_goal_is_told_and_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for full, code, says in ((0.9, 0, "No goal missed."), (1.2, 1, "2 goals missed.")):
        monkeypatch.setattr(training, "run", lambda *args, full=full: ([measured(full)], []))
        assert overhead.main(["training", "--json", str(tmp_path / "out.json")]) == code
        out = capsys.readouterr().out
        assert says in out
        found = json.loads((tmp_path / "out.json").read_text())
        assert len(found["sections"][0]["missed"]) == out.count("**Goal missed:** ddpo, ") == 2 * code


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lost"], "no section lost; there are loss, training, memory, startup"),
        (["loss", "--upstreams", "ddpo,nobody"], "no upstream nobody; there are ddpo, "),
        (["training", "--epochs", "1"], "--epochs: expected a whole number, 2 or more, got '1'"),
    ],
)
def test_wrong_arguments_of_overhead(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        overhead.main(arguments)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_a_missing_clone_is_the_exit_code_3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert overhead.main(["training", "--vendor", str(tmp_path)]) == 3
    assert "make it with: python apply.py ddpo-pytorch" in capsys.readouterr().err


# -------------------------------------------------------------------- on-policy


def some_ratios(log_rho: float) -> ratios.Ratios:
    """Four sample-timesteps of two timesteps, the later ones further off."""
    x = torch.tensor([log_rho, -log_rho, 2 * log_rho, 0.0], dtype=torch.float64)
    outside = torch.expm1(x).abs() > 1e-4
    timestep = torch.tensor([901.0, 901.0, 1.0, 1.0], dtype=torch.float64)
    return ratios.Ratios(timestep, x, torch.exp(x), outside, torch.zeros(4, dtype=torch.bool))


def found(full: float, setting: ratios.Setting = ratios.SETTINGS[0]) -> dict:
    by_mode = {mode: some_ratios(0.0) for mode in setting.modes}
    return {setting: {**by_mode, "observe": some_ratios(1e-3), "full": some_ratios(full)}}


def test_every_trainer_of_the_issue_is_there() -> None:
    there = {(s.upstream, s.dtype, s.network) for s in ratios.SETTINGS}
    assert {s.upstream for s in ratios.SETTINGS} == {
        "ddpo", "flow_grpo", "dancegrpo_sd", "dancegrpo_flux", "dancegrpo_flux_lora",
    }  # fmt: skip
    for dtype in ("fp32", "bf16", "fp16"):
        assert {
            ("ddpo", dtype, "LoRA"),
            ("ddpo", dtype, "whole network"),
            ("flow_grpo", dtype, "LoRA"),
        } <= there
    for setting in ratios.SETTINGS:
        needs_match = (setting.upstream, setting.network) == ("ddpo", "LoRA") and setting.dtype != "fp32"
        assert setting.is_exact("full") == setting.is_exact("match") == (not needs_match)
        assert (ratios.MATCHED in setting.modes) == needs_match
        assert not setting.is_exact("observe")


def test_the_tables_of_ratios() -> None:
    ((setting, modes),) = found(0.0).items()
    section = ratios.by_timestep(setting, modes)
    assert section.header[:5] == (
        "timestep", "n", "`observe`: ratio - 1", "`observe`: outside", "`observe`: masked",
    )  # fmt: skip
    assert [row[0] for row in section.rows] == ["901", "1"]
    assert section.rows[0][2:5] == ["-1.0e-03 / -9.0e-04 / 5.0e-07 / 9.0e-04 / 1.0e-03", "100%", "0%"]
    assert section.rows[1][3] == "50%"
    assert section.rows[0][5:] == ["0", "0%", "0%"] * 2
    overall = ratios.summary(found(0.0))
    assert [row[-1] for row in overall.rows] == ["no", "yes", "yes"]
    json.dumps(overall.as_dict())


@pytest.mark.parametrize(("full", "code"), [(0.0, 0), (1e-12, 1)])
def test_a_ratio_that_is_not_exactly_one_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    full: float,
    code: int,
) -> None:
    monkeypatch.setattr(ratios, "measure", lambda make, settings, jobs: found(full))
    figure, data = tmp_path / "figures" / "on-policy.png", tmp_path / "data" / "on-policy.json"
    kept = ["--figure", str(figure), "--data", str(data)]
    assert on_policy.main([*kept, "--json", str(tmp_path / "out.json")]) == code
    out = capsys.readouterr().out
    assert ("**Goal missed:** ddpo, fp32, whole network, `full`: not every ratio is 1" in out) == bool(code)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert json.loads(data.read_text())["machines"][0]["measured"][0]["mode"] == "observe"
    assert json.loads((tmp_path / "out.json").read_text())["missed"] == [] or code


def test_lora_in_half_precision_need_not_be_exact_without_precision_match() -> None:
    setting = next(s for s in ratios.SETTINGS if s.resamples)
    assert not ratios.summary(found(1e-3, setting)).missed
    wrong = found(1e-3, setting)
    wrong[setting][ratios.MATCHED] = some_ratios(1e-3)
    assert len(ratios.summary(wrong).missed) == 1


def test_wrong_arguments_of_on_policy(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (["nobody"], "no upstream nobody; there are ddpo, flow_grpo"),
        (["--dtypes", "fp8"], "no dtype fp8; there are fp32, bf16, fp16"),
    ):
        with pytest.raises(SystemExit) as stop:
            on_policy.main(arguments)
        assert stop.value.code == 2
        assert says in capsys.readouterr().err


# ---------------------------------------------------------------- the tape's memory


def test_the_tapes_memory_is_measured_at_its_peak(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tape_memory.Rollout("small", (4, 64, 64), 5, 16, torch.float16, 1e6, 1)
    monkeypatch.setattr(tape_memory, "ROLLOUTS", (small,))
    tape_memory.main(["tape"])
    _, _, line = (line for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    name, by_hand, each, held, first, later, state, share = (
        cell.strip() for cell in line.strip("|").split("|")
    )
    assert (name, each, held) == ("small", "0.5 MiB", "7.5 MiB")
    assert by_hand == "16 x 5 x (16384 x (2 + 4) + 8) B"
    peaks = [float(peak.removesuffix(" MiB")) for peak in (first, later) if peak != "unknown"]
    assert all(peak > 7 for peak in peaks)  # never less than what is held
    assert all(peak < 14 for peak in peaks[1:])  # and from the second epoch on never twice that
    assert (state, share) == ("0.0 GiB", "49.16%")


def test_smaller_steps_have_the_same_gradient_and_a_smaller_peak(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tape_memory, "STEPS", (tape_memory.STEPS[0], tape_memory.STEPS[-1]))
    tape_memory.main(["steps"])
    lines = [
        line.strip("|").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")
    ]
    (_, plain, seconds, zero), (name, both, _, off) = [[cell.strip() for cell in row] for row in lines[2:]]
    assert name == "both" and float(seconds) > 0 and float(zero) == 0 and 0 < float(off) < 1e-5
    peaks = [float(peak.removesuffix(" MiB")) for peak in (plain, both) if peak != "unknown"]
    assert not peaks or peaks[1] < 0.8 * peaks[0]


# ---------------------------------------------------------------------- walls


def imported(file: Path) -> set[str]:
    """The top-level names that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_benchmarks_import_the_package_and_nothing_imports_them_but_tests() -> None:
    of_tests = {path.stem for path in (ROOT / "tests").rglob("*.py")} - sys.stdlib_module_names
    for file in (ROOT / "benchmarks").rglob("*.py"):
        assert not imported(file) & (of_tests - {"__init__"}), file
        text = file.read_text(encoding="utf-8")
        assert not any(edit in text for edit in ("sys.path.append", "sys.path.insert", "sys.path[:0]")), file
    for file in (ROOT / "pcpo_overlay").rglob("*.py"):
        assert "benchmarks" not in imported(file), file
