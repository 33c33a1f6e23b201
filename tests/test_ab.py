"""The A/B command on a stand-in clone, whose training script is ours and only writes a run folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import pytest

from pcpo_overlay.__main__ import main
from pcpo_overlay.config import PCPOError, parse
from pcpo_overlay.tools.ab import ABError, plan, runner, state
from pcpo_overlay.tools.ab.arms import OFF_NOTE, arms_of, split_modes
from pcpo_overlay.tools.ab.upstreams import FLOW_GRPO, NAMES, PACKAGE, PORT, UPSTREAMS, Upstream
from pcpo_overlay.tools.report import build
from pcpo_overlay.tools.runs.tail import MetricsTail

ROOT = Path(__file__).resolve().parents[1]

# A training script of ours: it takes upstream's flags and leaves a run folder as the hooks do (pcpo_overlay.hooks).
# fail=MODE in the overrides makes that mode fail, hang=MODE makes it wait to be stopped.
SCRIPT = """
import json, os, sys, time
from pathlib import Path

flags = {}
for word in sys.argv[1:]:
    name, _, value = word.lstrip("-").partition("=")
    flags[name] = value
folder = Path(os.environ["PCPO_RUN_DIR"])
folder.mkdir(parents=True, exist_ok=True)
assert not (folder / "metrics.jsonl").exists()
mode, _, options = os.environ["PCPO"].partition(",")
epochs, seed = int(flags.get("config.num_epochs", 3)), int(flags["config.seed"])
pcpo = {"mode": mode, **dict(o.split("=") for o in options.split(",") if o)}
upstream = {"train.py": "ddpo", "train_sd3.py": "flow_grpo"}[Path(sys.argv[0]).name]
run = {"format": 1, "upstream": upstream, "mode": mode, "pcpo": pcpo, "seed": seed, "status": "running",
       "trainer": {"num_epochs": epochs, "seed": seed}, "clip_range": 1e-4}
(folder / "run.json").write_text(json.dumps(run))
print("progress  50%\\rprogress 100%")
print("cwd", os.getcwd())
metrics = open(folder / "metrics.jsonl", "a")
for epoch in range(epochs):
    slope = {"observe": 1, "full": 2}.get(mode, 1)
    record = {"kind": "epoch", "epoch": epoch, "reward_mean": slope * epoch + seed, "seconds_total": 1.0}
    print(json.dumps(record), file=metrics, flush=True)
    if flags.get("hang") in (mode, "all"):
        (folder / "hanging").write_text(f"{os.getpid()}\\n")
        time.sleep(600)
if flags.get("meet"):  # end only once as many runs stand here as are to meet
    (Path(os.environ["PCPO_RUN_DIR"]).parent / f"here-{mode}-{seed}").touch()
    until = time.monotonic() + 20
    while len(list(folder.parent.glob("here-*"))) < int(flags["meet"]):
        if time.monotonic() > until:
            sys.exit("the others never came")
        time.sleep(0.02)
if flags.get("fail") == mode:
    sys.exit("a fault made on purpose")
if flags.get("silent") == mode:
    sys.exit(0)
run["status"] = "finished"
(folder / "run.json").write_text(json.dumps(run))
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return make_clone(tmp_path, "ddpo")


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    folder = make_clone(tmp_path, "flow_grpo")
    options = folder / "scripts" / "accelerate_configs" / "multi_gpu.yaml"
    options.parent.mkdir()
    options.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nmixed_precision: fp16\n"
        "num_machines: 1\nnum_processes: 8\n"
    )
    return folder


def make_clone(tmp_path: Path, name: str) -> Path:
    upstream = UPSTREAMS[name]
    folder = tmp_path / "vendor" / upstream.clone
    (folder / "scripts").mkdir(parents=True)
    (folder / "config").mkdir()
    (folder / "config" / "ours.py").write_text("# a config\n")
    (folder / upstream.script).write_text("# stands for a script that calls pcpo_overlay's hooks\n" + SCRIPT)
    return folder


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the script without accelerate, and draw nothing: both take seconds."""
    monkeypatch.setattr(build, "draw_all", lambda *args: {})
    monkeypatch.setattr(plan, "launch_command", lambda *_: [])
    monkeypatch.setattr(runner, "POLL_S", 0.02)


def command(clone: Path, *argv: object) -> int:
    """Run ``pcpo ab`` in this process, into ``out`` beside the clone's vendor folder."""
    words = [
        "ab",
        upstream_of(clone).name,
        "--clone",
        str(clone),
        "--config",
        "config/ours.py",
        "--out",
        str(out_of(clone)),
    ]
    return main([*words, *map(str, argv)])


def upstream_of(clone: Path) -> Upstream:
    return next(upstream for upstream in UPSTREAMS.values() if upstream.clone == clone.name)


def out_of(clone: Path) -> Path:
    return clone.parent.parent / "out"


def runs_of(clone: Path) -> set[str]:
    return {p.name for p in out_of(clone).iterdir() if p.is_dir() and p.name != "report"}


# --- modes ------------------------------------------------------------------------------------------------------


def test_a_piece_with_an_equals_sign_belongs_to_the_mode_before_it() -> None:
    assert split_modes("observe,full,full,variance=native") == ["observe", "full", "full,variance=native"]
    assert split_modes("full,variance=native,weights=uniform,match") == [
        "full,variance=native,weights=uniform",
        "match",
    ]
    assert split_modes("full, w_star=5 ,log") == ["full,w_star=5", "log"]


def test_modes_and_mode_together_in_the_order_given() -> None:
    arms, notes = arms_of("observe,full", ["full,variance=native", "full"], "ddpo")
    assert [arm.label for arm in arms] == ["observe", "full", "full,variance=native"]
    assert [arm.slug for arm in arms] == ["observe", "full", "full_variance-native"]
    assert len(notes) == 1 and "full is asked for more than once" in notes[0]
    assert [parse(arm.label) for arm in arms] == [arm.config for arm in arms]


def test_default_is_the_baseline_against_full() -> None:
    assert [arm.label for arm in arms_of(None, [], "ddpo")[0]] == ["observe", "full"]
    assert [arm.label for arm in arms_of(None, ["match"], "ddpo")[0]] == ["match"]


def test_options_are_those_of_the_upstream() -> None:
    arms, notes = arms_of("observe,unique_prompts=true,full,unique_prompts=true", [], "flow_grpo")
    assert [arm.label for arm in arms] == ["observe,unique_prompts=true", "full,unique_prompts=true"]
    assert arms[0].slug == "observe_unique_prompts-true" and notes == []
    with pytest.raises(PCPOError, match="unique_prompts changes nothing on ddpo"):
        arms_of("full,unique_prompts=true", [], "ddpo")
    # a flow sampler keeps its own noise, so both are one arm, whose label says nothing of it
    arms, notes = arms_of("full,full,variance=native", [], "flow_grpo")
    assert [arm.label for arm in arms] == ["full"] and "more than once" in notes[0]
    assert arms[0].config == parse("full").on("flow_grpo") != parse("full")


def test_off_runs_as_observe_and_says_so() -> None:
    arms, notes = arms_of("off,full", [], "ddpo")
    assert [arm.label for arm in arms] == ["observe", "full"]
    assert notes == [OFF_NOTE]


@pytest.mark.parametrize(
    "modes", ["observe,ful", "variance=native", "observe,variance=native", "full,variance=none", ""]
)
def test_a_wrong_mode_exits_2_before_anything_is_written(
    clone: Path, modes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if modes == "":
        assert [arm.label for arm in arms_of("", [], "ddpo")[0]] == ["observe"]  # the empty string is off
        return
    with pytest.raises(PCPOError):
        arms_of(modes, [], "ddpo")
    assert command(clone, "--modes", modes) == 2
    assert "--modes" in capsys.readouterr().err
    assert not out_of(clone).exists()


# --- the plan ---------------------------------------------------------------------------------------------------


def request(clone: Path, **changes: Any) -> plan.Request:
    fields: dict[str, Any] = {
        "upstream": upstream_of(clone),
        "clone": clone,
        "arms": arms_of(None, [], upstream_of(clone).name)[0],
        "seeds": [0, 1],
        "epochs": 4,
        "out": out_of(clone),
        "config": str(clone / "config" / "ours.py"),
        "config_file": clone / "config" / "ours.py",
        "miniature": False,
        "accelerate_args": None,
        "overrides": [],
    }
    return plan.Request(**(fields | changes))


def test_every_seed_runs_every_arm_before_the_next_seed(clone: Path) -> None:
    names = [planned.folder.name for planned in plan.make_plan(request(clone), {})]
    assert names == ["observe-seed0", "full-seed0", "observe-seed1", "full-seed1"]


def test_the_command_is_upstreams_launch_path(clone: Path) -> None:
    planned = plan.make_plan(request(clone, overrides=["--config.train.learning_rate=1e-4"]), {})[1]
    words = planned.command
    assert words[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert words[words.index("scripts/train.py") :] == [
        "scripts/train.py",
        "--config",
        str(clone / "config" / "ours.py"),
        "--config.seed=0",
        "--config.num_epochs=4",
        f"--config.logdir={planned.folder / 'logs'}",
        "--config.save_freq=1000000",
        "--config.train.learning_rate=1e-4",
    ]
    assert planned.cwd == clone
    assert planned.environment["PCPO"] == "full"
    assert planned.environment["PCPO_RUN_DIR"] == str(planned.folder)
    assert planned.environment["PYTHONPATH"].split(os.pathsep)[0] == str(clone)
    assert planned.environment["WANDB_MODE"] == "disabled"
    assert "HF_HUB_OFFLINE" not in planned.environment


def test_the_callers_environment_and_choices_win_where_they_may(clone: Path) -> None:
    mine = {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "3", "PYTHONPATH": "/mine", "PCPO": "off"}
    asked = request(clone, miniature=True, epochs=None, accelerate_args=["--num_processes", "2"],
                    overrides=["--config.save_freq=5"])  # fmt: skip
    planned = plan.make_plan(asked, mine)[0]
    assert planned.environment["WANDB_MODE"] == "offline"
    assert planned.environment["OMP_NUM_THREADS"] == "3"
    assert planned.environment["PYTHONPATH"].endswith(os.pathsep + "/mine")
    assert planned.environment["PCPO"] == "observe"
    assert planned.environment["HF_HUB_OFFLINE"] == "1"
    assert planned.command[3:6] == ["--num_processes", "2", "scripts/train.py"]
    assert not any("num_epochs" in word or "save_freq=1000000" in word for word in planned.command)


def test_without_cuda_the_launcher_is_told_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ddpo = UPSTREAMS["ddpo"]
    monkeypatch.setattr(plan, "_has_cuda", lambda: False)
    assert plan.launch_command(ddpo, None)[-1] == "--cpu"
    monkeypatch.setattr(plan, "_has_cuda", lambda: True)
    assert "--cpu" not in plan.launch_command(ddpo, None)
    assert plan.launch_command(ddpo, []) == [*ddpo.launcher]


def test_the_digest_follows_all_that_a_config_file_is_told(clone: Path) -> None:
    """A reward's name stands before the path of the config that it is for."""
    file = clone / "config" / "ours.py"

    def told(rest: str) -> Any:
        return plan.make_plan(request(clone, config=f"{file}{rest}"), {})[0].settings["config"]

    assert told("") == "ours.py" and told(":name") == "ours.py:name"
    assert told(":pickscore:config/dgx.py:aesthetic") == "ours.py:pickscore:config/dgx.py:aesthetic"


def test_the_digest_follows_what_decides_the_result(clone: Path) -> None:
    digest = plan.make_plan(request(clone), {})[0].digest
    assert plan.make_plan(request(clone, out=clone / "x"), {"OMP_NUM_THREADS": "1"})[0].digest == digest
    changes: list[dict[str, Any]] = [
        {"epochs": 5}, {"overrides": ["--config.use_lora=False"]}, {"accelerate_args": []},
    ]  # fmt: skip
    for change in changes:
        assert plan.make_plan(request(clone, **change), {})[0].digest != digest
    (clone / "config" / "ours.py").write_text("# another config\n")
    assert plan.make_plan(request(clone), {})[0].digest != digest


def test_flow_grpos_command_is_its_own_launch_path(flow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_has_cuda", lambda: False)
    planned = plan.make_plan(request(flow), {})[0]
    assert planned.command == [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", "scripts/accelerate_configs/multi_gpu.yaml", "--num_processes=1",
        "--main_process_port", PORT,
        "scripts/train_sd3.py",
        "--config", str(flow / "config" / "ours.py"),
        "--config.seed=0",
        "--config.num_epochs=4",
        f"--config.save_dir={planned.folder}",
        f"--config.logdir={planned.folder / 'logs'}",
        "--config.save_freq=1000000",
    ]  # fmt: skip
    assert planned.cwd == flow
    assert planned.environment["PYTHONPATH"].split(os.pathsep)[0] == str(flow)
    assert planned.environment["ACCELERATE_USE_CPU"] == "true"
    assert planned.environment["WANDB_MODE"] == "disabled"


def test_flow_grpo_is_told_cpu_only_where_nothing_else_was_asked_for(
    flow: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(at: Path, environ: dict[str, str], **changes: Any) -> str | None:
        return plan.make_plan(request(at, **changes), environ)[0].environment.get("ACCELERATE_USE_CPU")

    monkeypatch.setattr(plan, "_has_cuda", lambda: True)
    assert told(flow, {}) is None
    monkeypatch.setattr(plan, "_has_cuda", lambda: False)
    assert told(flow, {}, accelerate_args=[]) is None
    assert told(flow, {"ACCELERATE_USE_CPU": "no"}) == "no"
    assert told(clone, {}) is None


def test_the_port_is_chosen_late_and_is_no_setting(flow: Path, clone: Path) -> None:
    planned = plan.make_plan(request(flow), {})[0]
    assert planned.needs_port and planned.port is None
    first, second = planned.at_port(4001), planned.at_port(4002)
    assert [first.port, second.port] == [4001, 4002] and "4001" in first.command
    assert not first.needs_port and first.at_port(5) is first
    assert first.digest == second.digest == planned.digest
    asked = request(flow, accelerate_args=["--multi_gpu", "--main_process_port", PORT])
    assert plan.make_plan(asked, {})[0].at_port(4003).command[3:6] == [
        "--multi_gpu",
        "--main_process_port",
        "4003",
    ]
    assert not plan.make_plan(request(clone), {})[0].needs_port
    assert plan.free_port() > 0


def test_free_ports_are_free_and_not_those_handed_out_before(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = iter([7001, 7001, 7002])

    class Probe:
        def __enter__(self) -> Probe:
            self.port = next(offered)
            return self

        def __exit__(self, *args: object) -> None: ...

        def bind(self, address: tuple[str, int]) -> None:
            assert address[1] == 0

        def getsockname(self) -> tuple[str, int]:
            return "", self.port

    monkeypatch.setattr(plan.socket, "socket", lambda *args: Probe())
    assert plan.free_port({None, 7001}) == 7002


@pytest.mark.parametrize("name", NAMES)
def test_every_upstream_is_offered(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ab", "--help"])
    printed = capsys.readouterr().out
    assert f"  {name} " in printed and name in printed.splitlines()[0] and f"pcpo ab {name}" in printed


@pytest.mark.parametrize(
    "override", ["--config.seed=3", "--config.num_epochs=9", "--config=x.py", "--pcpo=full"]
)
def test_overrides_of_what_the_command_sets_are_refused(
    clone: Path, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(clone, "--", override) == 1
    assert f"{override} after --" in capsys.readouterr().err


@pytest.mark.parametrize("override", ["--config.save_dir=x", "--config.logdir", "--config.num_epochs=9"])
def test_flow_grpos_folders_and_end_are_the_commands_to_set(
    flow: Path, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(flow, "--epochs", "2", "--", override) == 1
    assert f"{override} after --" in capsys.readouterr().err


def test_a_config_of_the_users_needs_an_end_in_flow_grpo(
    flow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(flow) == 2
    told = capsys.readouterr().err
    assert "endless" in told and "--epochs N" in told and not out_of(flow).exists()
    # and is given it by the config file that wraps it
    assert command(flow, "--config", "config/ours.py:some_name", "--epochs", "3", "--dry-run") == 0
    printed = capsys.readouterr().out
    wrapper = PACKAGE / "tools" / "launch" / "flow_grpo.py"
    assert f"--config {wrapper}:{flow / 'config' / 'ours.py'}:some_name --config.seed=0" in printed
    assert "--config.num_epochs=3" in printed and "HF_HUB_OFFLINE" not in printed


@pytest.mark.parametrize("name", ["", ":digit_probability"])
def test_the_miniatures_config_has_an_end_and_is_not_wrapped(
    flow: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = UPSTREAMS["flow_grpo"].config
    assert command(flow, "--config", f"{own}{name}", "--modes", "observe", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert f" --config {own}{name} --config.seed=0 --config.save_dir=" in printed
    assert "HF_HUB_OFFLINE=1" in printed


# --- running ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("direct")
def test_runs_then_reports_then_repeats_nothing(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(clone, "--seeds", "0,1", "--epochs", "3") == 0
    printed = capsys.readouterr().out
    assert "[1/4] observe, seed 0: epoch 3/3, reward 2, 1.0 s" in printed
    assert "| reward" in printed
    assert runs_of(clone) == {"observe-seed0", "full-seed0", "observe-seed1", "full-seed1"}
    report = json.loads((out_of(clone) / "report" / "report.json").read_text())
    assert [arm["label"] for arm in report["comparisons"][0]["arms"]] == ["observe", "full"]
    assert f"cwd {clone}" in (out_of(clone) / "full-seed1" / "output.log").read_text()

    before = {p: p.stat().st_mtime_ns for p in out_of(clone).glob("*/*.json*") if p.parent.name != "report"}
    assert command(clone, "--seeds", "0,1", "--epochs", "3") == 0
    assert capsys.readouterr().out.count("finished already") == 4
    assert before == {
        p: p.stat().st_mtime_ns for p in out_of(clone).glob("*/*.json*") if p.parent.name != "report"
    }


@pytest.mark.usefixtures("direct")
def test_jobs_run_side_by_side(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(clone, "--jobs", "2", "--", "--meet=2") == 0
    assert capsys.readouterr().out.count("finished") >= 2


def test_jobs_share_the_cores(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "cores", lambda: 4)
    threads = [
        plan.make_plan(request(clone, jobs=n), {})[0].environment["OMP_NUM_THREADS"] for n in (1, 2, 3, 9)
    ]
    assert threads == ["4", "2", "1", "1"]


@pytest.mark.usefixtures("direct")
def test_a_new_arm_joins_what_is_finished(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(clone, "--modes", "observe") == 0
    assert command(clone, "--modes", "off,full,variance=native", "--epochs", "3") == 1
    assert "epochs: None there, 3 asked for" in capsys.readouterr().err
    assert command(clone, "--modes", "off,full,variance=native") == 0
    printed = capsys.readouterr().out
    assert f"note: {OFF_NOTE}" in printed and printed.count("finished already") == 1
    assert runs_of(clone) == {"observe-seed0", "full_variance-native-seed0"}


@pytest.mark.usefixtures("direct")
def test_other_settings_in_the_same_folder_are_refused_before_anything_runs(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(clone, "--modes", "observe") == 0
    assert command(clone, "--modes", "full,observe", "--", "--config.train.clip_range=1e-3") == 1
    assert "other settings (overrides: [] there, ['--config.train.clip_range=1e-3'] asked for)" in (
        capsys.readouterr().err
    )
    assert runs_of(clone) == {"observe-seed0"}


@pytest.mark.usefixtures("direct")
def test_a_failing_run_is_told_with_its_log_and_the_others_go_on(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 'full' is listed first: what comes after it has to run all the same
    fault = ("--modes", "full,observe", "--", "--fail=full")
    assert command(clone, *fault) == 1
    captured = capsys.readouterr()
    assert "full, seed 0 failed: exit code 1" in captured.out
    assert "    a fault made on purpose" in captured.out and "output.log" in captured.out
    assert "    progress 100%" in captured.out and "progress  50%" not in captured.out
    assert "[2/2] observe, seed 0: finished" in captured.out
    assert "1 of 2 runs failed: full, seed 0" in captured.err
    assert "unfinished" in (out_of(clone) / "report" / "report.md").read_text()

    # repeated, with what the first try left set aside and kept
    assert command(clone, *fault) == 1
    printed = capsys.readouterr().out
    assert "finished already" in printed and "full-seed0.aside-1" in printed
    assert runs_of(clone) == {"full-seed0", "full-seed0.aside-1", "observe-seed0"}
    assert command(clone, *fault) == 1
    assert runs_of(clone) == {"full-seed0", "full-seed0.aside-1", "full-seed0.aside-2", "observe-seed0"}
    assert (out_of(clone) / "full-seed0.aside-1" / "metrics.jsonl").exists()


@pytest.mark.usefixtures("direct")
def test_a_run_that_ends_without_finishing_failed(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(clone, "--modes", "observe", "--", "--silent=observe") == 1
    assert "exit code 0, but run.json has status 'running'" in capsys.readouterr().out
    (clone / "scripts" / "train.py").write_text("# pcpo_overlay is named, and never called\n")
    assert command(clone, "--modes", "observe", "--", "--silent=observe") == 1
    assert "left no run.json" in capsys.readouterr().out


@pytest.mark.usefixtures("direct")
def test_a_folder_of_someone_elses_is_not_touched(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = out_of(clone) / "full-seed0" / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("dear")
    assert command(clone) == 1
    assert "is not a run of this command" in capsys.readouterr().err
    assert theirs.read_text() == "dear" and runs_of(clone) == {"full-seed0"}


@pytest.mark.usefixtures("direct")
def test_a_report_of_someone_elses_is_refused_before_the_first_run(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = out_of(clone) / "report" / "report.md"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("dear")
    assert command(clone) == 1
    assert "holds what `pcpo report` did not make (report.md)" in capsys.readouterr().err
    assert theirs.read_text() == "dear" and runs_of(clone) == set()


def test_a_record_of_a_path_that_is_not_utf8_is_read_again(clone: Path) -> None:
    planned = plan.make_plan(request(clone, out=clone / os.fsdecode(b"caf\xe9")), {})[0]
    planned.folder.mkdir(parents=True)
    state.write_record(planned, exit_code=1, pid=None)
    assert not state.is_finished(planned), "of this command, and to be repeated"


@pytest.mark.usefixtures("direct")
def test_two_at_once_on_one_folder_are_told_who_holds_it(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out_of(clone).mkdir()
    with filelock.FileLock(out_of(clone) / runner.LOCK):
        assert command(clone) == 1
    assert "another A/B command is at work" in capsys.readouterr().err
    assert runs_of(clone) == set()


def test_an_orphan_still_running_is_not_started_again(clone: Path) -> None:
    planned = plan.make_plan(request(clone), {})[0]
    planned.folder.mkdir(parents=True)
    wait = "import sys; print('up', flush=True); sys.stdin.read()"
    orphan = subprocess.Popen(
        [sys.executable, "-c", wait, str(planned.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert orphan.stdout is not None
    orphan.stdout.readline()
    try:
        state.write_record(planned, exit_code=None, pid=orphan.pid)
        with pytest.raises(ABError, match=f"still going as process {orphan.pid}"):
            state.is_finished(planned)
    finally:
        orphan.kill()
        orphan.wait()
    assert not state.is_finished(planned)
    # the same number, used again by a process that has nothing to do with the run
    state.write_record(planned, exit_code=None, pid=os.getpid())
    assert not state.is_finished(planned)


@pytest.mark.parametrize("launcher", ["none", "accelerate"])
@pytest.mark.parametrize("name", ["clone", "flow"])
def test_ctrl_c_ends_the_run_and_says_how_to_go_on(
    request: pytest.FixtureRequest, name: str, launcher: str
) -> None:
    at: Path = request.getfixturevalue(name)
    code = "import sys; from pcpo_overlay.tools.ab import plan; plan._has_cuda = lambda: False;"
    if launcher == "none":
        code += "plan.launch_command = lambda *_: [];"
    code += "from pcpo_overlay.__main__ import main; sys.exit(main(sys.argv[1:]))"
    words: list[object] = ["ab", upstream_of(at).name, "--clone", at, "--config", "config/ours.py"]
    words += ["--out", out_of(at), "--modes", "observe", "--epochs", "2", "--", "--hang=all"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    folder = out_of(at) / "observe-seed0"
    hanging = folder / "hanging"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if hanging.exists() and hanging.read_text().endswith("\n"):
            break
        time.sleep(0.05)
    record = json.loads((folder / "ab.json").read_text())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "type the same command again" in errors
    for pid in (record["pid"], int(hanging.read_text())):  # the launcher's and the training script's
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert json.loads((folder / "ab.json").read_text())["stopped"] is True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_stop_the_command_as_ctrl_c_does(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), runner.stoppable():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_stubborn_grandchild_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_S", 0.3)
    stubborn = (
        "import signal, sys, time; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)];"
        "print('up', flush=True); time.sleep(600)"
    )
    leader = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stubborn!r}])"
    process = subprocess.Popen([sys.executable, "-c", leader], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    runner.stop_group(process)
    # the pipe closes when the last process that holds it is gone
    assert process.stdout.read() == b""
    assert process.returncode is not None


def test_workers_in_sessions_of_their_own_are_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_S", 0.3)
    worker = (
        "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)];"
        "print('up', flush=True); time.sleep(600)"
    )
    leader = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}], start_new_session=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", leader], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    runner.stop_group(process)
    assert process.stdout.read() == b""
    assert process.returncode is not None


def test_dry_run_prints_commands_and_environment_and_runs_nothing(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(clone, "--mode", "full,variance=native", "--dry-run", "--", "--config.x=a b") == 0
    printed = capsys.readouterr().out
    assert "PCPO=full,variance=native " in printed and f"cd {clone} && " in printed
    assert printed.rstrip().endswith("'--config.x=a b'")
    assert not out_of(clone).exists()


def test_dry_run_shows_a_port_for_each_run(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(flow, "--epochs", "2", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# a run gets a port that is free when it starts; those below are examples\n")
    assert "--main_process_port 29501 scripts/train_sd3.py" in printed
    assert "--main_process_port 29502 scripts/train_sd3.py" in printed and PORT not in printed


def test_a_missing_or_unpatched_clone_names_the_command(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    script = clone / "scripts" / "train.py"
    script.write_text("print('as upstream wrote it')\n")
    assert command(clone) == 1
    assert f"python apply.py ddpo-pytorch --into {clone}" in capsys.readouterr().err
    assert main(["ab", "ddpo", "--vendor", str(tmp_path / "nowhere")]) == 1
    assert f"python apply.py ddpo-pytorch --dest {tmp_path / 'nowhere'}" in capsys.readouterr().err


def test_an_unknown_config_file_is_told(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(clone, "--config", "nowhere.py:x") == 1
    assert "there is no file nowhere.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--seeds", "a"],
        ["--seeds", "-1"],
        ["--seeds", "0,4294967296"],
        ["--epochs", "0"],
        ["--vendor", "x"],
        ["stray"],
    ],
)
def test_wrong_arguments_exit_2(clone: Path, argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(clone, *argv)
    assert stopped.value.code == 2


def test_through_accelerate_itself(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(clone, "--modes", "observe", "--epochs", "2") == 0, capsys.readouterr()
    assert (out_of(clone) / "report" / "reward.png").exists()
    log = (out_of(clone) / "observe-seed0" / "output.log").read_text()
    assert "default" not in log, "accelerate launch warned about options that were not passed"
    assert json.loads((out_of(clone) / "observe-seed0" / "ab.json").read_text())["exit_code"] == 0


def test_flow_grpo_through_accelerate_itself(
    flow: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "draw_all", lambda *args: {})
    monkeypatch.setattr(plan, "_has_cuda", lambda: False)  # the launch line of a CPU, wherever this test runs
    words = ("--epochs", "2", "--jobs", "2", "--", "--meet=2")
    assert command(flow, *words) == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    assert "[2/2] full, seed 0: epoch 2/2, reward 2, 1.0 s" in printed
    records = [json.loads((out_of(flow) / name / "ab.json").read_text()) for name in runs_of(flow)]
    ports = [r["command"][r["command"].index("--main_process_port") + 1] for r in records]
    assert len(set(ports)) == 2 and all(port.isdigit() for port in ports)
    assert command(flow, *words) == 0
    assert capsys.readouterr().out.count("finished already") == 2

    # the script's own words about its failure, not its launcher's thirty lines
    assert command(flow, "--mode", "match", "--epochs", "2", "--", "--fail=match") == 1
    printed = capsys.readouterr().out
    assert "    a fault made on purpose" in printed and "ChildFailedError" not in printed
    log = (out_of(flow) / "match-seed0" / "output.log").read_text()
    assert "ChildFailedError" in log and f"cwd {flow}" in log


# --- GPUs of its own for each run --------------------------------------------------------------------------------


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four GPUs and twelve cores, as far as the command can tell."""
    monkeypatch.setattr(plan, "visible_gpus", lambda environ: ("0", "1", "2", "GPU-d"))
    monkeypatch.setattr(plan, "cores", lambda: 12)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def seen_by(clone: Path) -> None:
    """Let the stand-in write down what each of its processes sees; the first goes on as ever."""
    script = clone / upstream_of(clone).script
    told = (
        "import os, sys\nfrom pathlib import Path\n"
        "names = ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS', 'WORLD_SIZE', 'MASTER_PORT')\n"
        "rank = os.environ.get('RANK', '0')\n"
        "row = ' '.join(os.environ.get(name, '-') for name in names)\n"
        "(Path(os.environ['PCPO_RUN_DIR']) / f'seen.{rank}').write_text(row)\n"
        "if rank != '0':\n    sys.exit(0)\n"
    )
    script.write_text("# pcpo_overlay\n" + told + SCRIPT)


def seen(clone: Path) -> dict[str, list[str]]:
    """What each process of each run saw: GPUs, threads, processes, port."""
    return {
        f"{path.parent.name}/{path.suffix[1:]}": path.read_text().split()
        for path in out_of(clone).glob("*/seen.*")
    }


@pytest.mark.usefixtures("four_gpus")
def test_each_run_has_gpus_processes_threads_and_a_port_of_its_own(
    flow: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through accelerate's own launcher, both runs at one time; the third takes what the first gives back."""
    monkeypatch.setattr(build, "draw_all", lambda *args: {})
    monkeypatch.setattr(plan, "_has_cuda", lambda: False)
    seen_by(flow)
    words = ("--gpus-per-run", "2", "--epochs", "2", "--modes", "observe,match,full", "--", "--meet=2")
    assert command(flow, *words) == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    assert "note: 2 runs at a time, each with 2 of 4 GPUs" in printed
    assert "[1/3] observe, seed 0: started, on GPUs 0, 1, output in" in printed
    assert "[2/3] match, seed 0: started, on GPUs 2, GPU-d, output in" in printed
    held = seen(flow)
    assert sorted(held) == [
        f"{mode}-seed0/{rank}" for mode in ("full", "match", "observe") for rank in (0, 1)
    ]
    assert {name: row[0] for name, row in held.items() if "full" not in name} == {
        "observe-seed0/0": "0,1", "observe-seed0/1": "0,1", "match-seed0/0": "2,GPU-d", "match-seed0/1": "2,GPU-d",
    }  # fmt: skip
    assert held["full-seed0/0"][0] in ("0,1", "2,GPU-d")
    assert {(row[1], row[2]) for row in held.values()} == {("3", "2")}  # 12 cores for 4 processes
    assert held["observe-seed0/0"][3] == held["observe-seed0/1"][3] != held["match-seed0/0"][3]
    # what ran with two processes is another run than one that ran with one
    assert command(flow, "--epochs", "2", "--modes", "observe", "--", "--meet=2") == 1
    assert "processes: 2 there, None asked for" in capsys.readouterr().err


@pytest.mark.usefixtures("four_gpus", "direct")
def test_gpus_of_one_process_each(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen_by(clone)
    assert command(clone, "--gpus-per-run", "1", "--jobs", "2", "--epochs", "1", "--", "--meet=2") == 0
    assert {row[0] for row in seen(clone).values()} == {"0", "1"}
    assert {row[1] for row in seen(clone).values()} == {"6"}
    assert "started, on GPU 0, output in" in capsys.readouterr().out


def test_without_a_gpu_it_divides_cores(
    clone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "visible_gpus", lambda environ: ())
    monkeypatch.setattr(plan, "cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert command(clone, "--gpus-per-run", "3", "--seeds", "0,1,2", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "note: 2 runs at a time, each with 3 of 6 cores, since there is no GPU" in printed
    assert printed.count("OMP_NUM_THREADS=3") == 6 and plan.GPUS not in printed


@pytest.mark.usefixtures("four_gpus")
def test_a_dry_run_shows_the_gpus(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(clone, "--gpus-per-run", "2", "--dry-run") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "scripts/train.py" in line]
    assert ["CUDA_VISIBLE_DEVICES=0,1 " in lines[0], "CUDA_VISIBLE_DEVICES=2,GPU-d " in lines[1]] == [
        True,
        True,
    ]
    assert all("--num_processes 2" in line and "--main_process_port 2950" in line for line in lines)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--gpus-per-run", "5"], "--gpus-per-run 5 is more than the 4 GPUs"),
        (["--gpus-per-run", "2", "--jobs", "3"], "--gpus-per-run 2 for --jobs 3 is more than the 4 GPUs"),
        (
            ["--gpus-per-run", "2", "--launch-args=--num_processes=8"],
            "the launch options start 8 processes",
        ),
    ],
)
def test_gpus_that_are_not_there(
    clone: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert command(clone, *words) == 2
    assert says in capsys.readouterr().err


def test_the_users_launch_options_get_a_port_where_they_have_none() -> None:
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
    assert plan.with_port(torchrun)[2:] == ["--master_port", PORT, "--nproc_per_node=2"]
    for kept in ("--standalone", "--master_port", "--rdzv-endpoint=x:1"):
        assert plan.with_port([*torchrun, kept]) == [*torchrun, kept]
    accelerate = ["-m", "accelerate.commands.launch", "--num_processes", "2"]
    assert plan.with_port(accelerate)[2:4] == ["--main_process_port", PORT]


def test_gpus_by_the_names_that_the_environment_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert plan.visible_gpus({}) == ("0", "1")
    assert plan.visible_gpus({plan.GPUS: "5, 7"}) == ("5", "7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert plan.visible_gpus({plan.GPUS: "5,7"}) == ()


def test_metrics_tail_waits_for_whole_lines(tmp_path: Path) -> None:
    follower = MetricsTail(tmp_path)
    assert not follower.poll()
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "step", "epoch": 0}\n{"kind": "epoch", "epoch": 0, "reward_me')
    assert not follower.poll()
    with path.open("a") as file:
        file.write('an": 1.5}\n')
    assert follower.poll()
    assert (follower.epochs, follower.reward) == (1, 1.5)
    assert not follower.poll()


@pytest.mark.parametrize("trainer", FLOW_GRPO)
def test_flow_grpos_trainers_by_name(flow: Path, capsys: pytest.CaptureFixture[str], trainer: str) -> None:
    script = flow / FLOW_GRPO[trainer].script
    script.write_text(SCRIPT + "# pcpo_overlay\n")
    assert command(flow, "--trainer", trainer, "--epochs", "2", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert script.name in printed
    # GRPO-Guard is a remedy of its own: what is compared is its own objective
    assert ("PCPO=full" in printed) == (trainer != "sd3_GRPO_Guard")


def test_a_trainer_that_flow_grpo_does_not_have(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(flow, "--trainer", "sd", "--epochs", "2", "--dry-run") == 2
    assert "give --trainer sd3|sd3_fast|sd3_GRPO_Guard|flux|flux_fast" in capsys.readouterr().err
