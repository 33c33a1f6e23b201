"""``pcpo ab --slurm`` on a real SLURM of two nodes on this machine, with the stand-in clone of ``test_ab``.

Debian's munge, slurmctld and slurmd have to be installed, and root starts them. Where they cannot be had the tests are
skipped with the reason; ``PCPO_REQUIRE_SLURM=1`` turns that skip into a failure.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from slurm_cluster import cluster, why_no_cluster
from test_ab import SCRIPT, command, make_clone, out_of, upstream_of

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.ab import plan, slurm
from pcpo_overlay.tools.ab.upstreams import HEAD, NODE, PORT
from pcpo_overlay.tools.faults import WrongArgument
from pcpo_overlay.tools.report import build

# Before the stand-in's own lines: what each process sees, and a file that holds a mode's run while it is there.
_BEFORE = """
import os, sys, time
from pathlib import Path
_folder = Path(os.environ["PCPO_RUN_DIR"])
_names = ("PCPO", "WORLD_SIZE", "SLURM_NODEID", "MASTER_PORT", "OMP_NUM_THREADS")
_rank = os.environ.get("RANK", "0")
(_folder / f"seen.{_rank}").write_text(" ".join(os.environ.get(name, "-") for name in _names))
while (_folder.parent / f"hold-{os.environ['PCPO']}").exists():
    time.sleep(0.05)
if _rank != "0":
    sys.exit(0)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if reason := why_no_cluster():
        if os.environ.get("PCPO_REQUIRE_SLURM") == "1":
            pytest.fail(f"PCPO_REQUIRE_SLURM=1, but {reason}", pytrace=False)
        pytest.skip(f"needs SLURM: {reason}")
    with cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def here(running: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in running.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(slurm, "QUEUE_POLL_S", 0.2)
    monkeypatch.setattr(slurm, "LAG_S", 5.0)
    monkeypatch.setattr(build, "draw_all", lambda *args: {})
    yield
    subprocess.run(["scancel", "--me"], check=True)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plan, "launch_command", lambda *_: [])
    made = make_clone(tmp_path, "ddpo")
    (made / upstream_of(made).script).write_text("# pcpo_overlay\n" + _BEFORE + SCRIPT)
    return made


def until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.1)


def jobs() -> dict[str, str]:
    """Ids of the jobs in the queue by mode."""
    return {name.split("-")[1]: job.id for name, job in slurm.queue().items()}


def hasten(job: str) -> None:
    """Let a job that SLURM has put back start at once, and not after the two minutes for which it lets one wait.

    To be repeated until the job has started: SLURM sets the two minutes when the last process of the job's first start
    has gone, which may be after the job is in the queue again.
    """
    shown = subprocess.run(
        ["scontrol", "show", "job", job], capture_output=True, text=True, check=True
    ).stdout
    if "JobState=PENDING" in shown:
        update = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
        subprocess.run(update, capture_output=True, check=False)


@contextmanager
def watching(clone: Path, *words: str) -> Iterator[list[int]]:
    """The command in a thread; its exit code is in the list once it has ended. A test that fails ends its jobs."""
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(command(clone, *words)))
    thread.start()
    try:
        yield ended
    except BaseException:
        subprocess.run(["scancel", "--me"], check=True)
        raise
    finally:
        thread.join(120)


def parent_of(pid: object) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def record(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "ab.json").read_text())
    return found


WORDS = ("--slurm", "partition=test,time=30", "--epochs", "2", "--modes", "observe,match,full")


@pytest.mark.usefixtures("here")
def test_jobs_killed_on_the_way_begin_anew_and_none_is_repeated(
    clone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = out_of(clone)
    out.mkdir()
    holds = [out / f"hold-{mode}" for mode in ("match", "full")]
    for hold in holds:
        hold.touch()

    # Ctrl-C leaves the jobs in the queue, where --status and a run on this machine find them
    with monkeypatch.context() as patched:

        def interrupted(seconds: float) -> None:
            raise KeyboardInterrupt

        patched.setattr(slurm, "QUEUE_POLL_S", "at once")
        patched.setattr(slurm.time, "sleep", interrupted)
        assert command(clone, *WORDS) == 130
    assert "no longer watching; the jobs stay in the queue" in capsys.readouterr().err
    until(lambda: all((out / f"{mode}-seed0" / "seen.0").exists() for mode in ("match", "full")), "the runs")
    until(lambda: "observe" not in jobs(), "the end of the first run")
    submitted = jobs()
    assert sorted(submitted) == ["full", "match"]
    assert command(clone, *WORDS, "--status") == 0
    printed = capsys.readouterr().out
    assert "observe, seed 0: finished\n" in printed
    assert f"match, seed 0: job {submitted['match']} running\n" in printed
    assert command(clone, *WORDS[2:]) == 1
    assert f"match, seed 0 is SLURM's job {submitted['match']} running" in capsys.readouterr().err
    assert command(clone, *WORDS[:4], "--modes", "match", "--", "--config.train.learning_rate=1e-4") == 1
    assert f"job {submitted['match']} running, with other settings" in capsys.readouterr().err

    # typed again it watches the same jobs; one is told to go, as before a preemption, and one is preempted
    with watching(clone, *WORDS) as ended:
        subprocess.run(["scancel", "--signal=USR2", "--batch", submitted["match"]], check=True)
        where = subprocess.run(
            ["squeue", "--noheader", f"--job={submitted['full']}", "--format=%N"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        urgent = [
            "sbatch",
            "--partition=urgent",
            "--exclusive",
            f"--nodelist={where}",
            "--output=/dev/null",
            "--wrap=sleep 1",
        ]
        subprocess.run(urgent, check=True, capture_output=True)
        second = {mode: out / f"{mode}-seed0.aside-1" for mode in submitted}

        def started_again() -> bool:
            waiting = [submitted[mode] for mode, aside in second.items() if not aside.is_dir()]
            for job in waiting:
                hasten(job)
            return not waiting

        until(started_again, "the second start")
        for hold in holds:
            hold.unlink()
    printed = capsys.readouterr().out
    assert ended == [0], printed
    assert "observe, seed 0: finished already" in printed and printed.count(": finished\n") == 2, printed
    assert (out / "report" / "report.md").exists()
    assert not (out / "observe-seed0.aside-1").exists() and not (out / "match-seed0.aside-2").exists()
    assert record(out / "match-seed0.aside-1")["stopped"] is True
    for mode in ("match", "full"):
        assert record(out / f"{mode}-seed0")["job"] == submitted[mode]
        assert record(out / f"{mode}-seed0")["exit_code"] == 0

    # all are done: a look reports, and the command submits nothing
    shutil.rmtree(out / "report")
    assert command(clone, *WORDS, "--status") == 0
    assert (out / "report" / "report.md").exists() and capsys.readouterr().out.count(": finished\n") == 3
    assert command(clone, *WORDS) == 0
    assert capsys.readouterr().out.count("finished already") == 3 and jobs() == {}


@pytest.mark.usefixtures("here")
def test_a_mode_reaches_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes by accelerate's launcher and by torchrun, each run with both nodes' processes under its own mode."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    flow = make_clone(tmp_path, "flow_grpo")
    options = flow / "scripts" / "accelerate_configs" / "multi_gpu.yaml"
    options.parent.mkdir()
    options.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_machines: 1\nnum_processes: 8\n"
    )
    dance = flow.parent / "DanceGRPO"
    (dance / "fastvideo").mkdir(parents=True)
    (dance / "ours.py").touch()
    script = SCRIPT.replace('"ddpo", ', '"ddpo", "train_grpo_sd.py": "dancegrpo_sd", ')
    for file in (flow / "scripts" / "train_sd3.py", dance / "fastvideo" / "train_grpo_sd.py"):
        file.write_text("# pcpo_overlay\n" + _BEFORE + script)
    asked = {
        "flow": [
            "flow_grpo", f"--clone={flow}", "--config=config/ours.py", "--modes=full", "--epochs=1",
            "--launch-args=--config_file scripts/accelerate_configs/multi_gpu.yaml --num_machines=2 --num_processes=2",
        ],
        "dance": [
            "dancegrpo", "--trainer=sd", f"--clone={dance}", "--config=ours.py", "--modes=match", "--epochs=2",
            "--launch-args=--nnodes 2 --nproc_per_node 1 --node_rank 0 --rdzv_endpoint nowhere:1",
        ],
    }  # fmt: skip
    ended: dict[str, int] = {}

    def run(name: str) -> None:
        ended[name] = main(["ab", *asked[name], f"--out={tmp_path / name}", "--slurm=time=30"])

    threads = [threading.Thread(target=run, args=(name,)) for name in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert ended == {"flow": 0, "dance": 0}
    for name, mode in (("flow", "full"), ("dance", "match")):
        rows = [(tmp_path / name / f"{mode}-seed0" / f"seen.{rank}").read_text().split() for rank in (0, 1)]
        assert [row[:3] for row in rows] == [[mode, "2", "0"], [mode, "2", "1"]]
        assert rows[0][3] == rows[1][3] != "-" and rows[0][4] == rows[1][4] == "1"


@pytest.mark.usefixtures("here")
def test_what_slurm_refuses_or_ends_is_told_in_a_line(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(code: int, *words: str) -> str:
        assert command(clone, "--epochs", "2", *words) == code
        return capsys.readouterr().err

    one = ("--modes", "observe")
    assert "SLURM refuses observe, seed 0: sbatch: error: " in told(
        1, *one, "--slurm=partition=nowhere,time=5"
    )
    assert "Invalid partition name" in told(1, *one, "--slurm=partition=nowhere,time=5")
    assert "unrecognized option '--colour=red'" in told(1, *one, "--slurm=colour=red,time=5")
    assert "Invalid generic resource (gres)" in (last := told(1, *one, "--slurm=time=5,gpus=2"))
    assert len(last.splitlines()) == 1 and jobs() == {}

    # a run that fails, one whose time is over, one that is cancelled, and one whose job is killed without a warning
    out = out_of(clone)
    held = ("match", "log", "full")
    for mode in held:
        (out / f"hold-{mode}").touch()
    modes = ("--epochs", "2", "--modes", "observe,match,log,full")
    words = (*modes, "--slurm", "time=5", "--", "--fail=observe")
    with watching(clone, *words) as ended:
        until(lambda: all((out / f"{mode}-seed0" / "seen.0").exists() for mode in held), "the runs")
        subprocess.run(
            ["scancel", "--signal=USR2", "--batch", jobs()["match"]], check=True
        )  # of 5 minutes none is left
        subprocess.run(["scancel", jobs()["log"]], check=True)
        until(lambda: isinstance(record(out / "full-seed0")["pid"], int), "the run's process")
        os.kill(parent_of(record(out / "full-seed0")["pid"]), signal.SIGKILL)
    (out / "hold-full").unlink()
    printed, errors = capsys.readouterr()
    assert ended == [1] and "4 of 4 runs failed: observe, seed 0; match, seed 0; log, seed 0; full" in errors
    assert "observe, seed 0 failed: exit code 1" in printed and "    a fault made on purpose" in printed
    assert "match, seed 0 failed: SLURM stopped job " in printed and "timed-out too many times" in printed
    assert "log, seed 0 failed: SLURM stopped job " in printed
    assert "full, seed 0 failed: job " in printed and " left the queue without an end" in printed
    assert command(clone, *modes, "--status", "--", "--fail=observe") == 0
    states = ("observe, seed 0: failed: exit code 1", "match, seed 0: stopped", "log, seed 0: stopped")
    assert capsys.readouterr().out.splitlines()[:3] == list(states)


# --------------------------------------------------- what needs no SLURM at hand


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a100", "'a100' is not NAME=VALUE"),
        ("partition=", "'partition=' is not NAME=VALUE"),
        ("partition=a100", "give each run's time="),
        ("time=soon", "not 'soon'"),
        ("time=0", "not '0'"),
        ("time=5,gpus=a100:4", "gpus=a100:4 is no number"),
        ("time=5,nodes=2", "nodes is not to be given; the launch line says it"),
        ("time=5,--job_name=x", "job-name is not to be given"),
    ],
)
def test_options_that_are_none(text: str, says: str) -> None:
    with pytest.raises(WrongArgument, match=re.escape(says)):
        slurm.resources_of(text)


def test_options_of_sbatch() -> None:
    asked = slurm.resources_of("partition=a,b,time=1-12,gpus=4,cpus_per_task=16,--mem=64G")
    assert (asked.minutes, asked.gpus) == (36 * 60, 4)
    assert asked.options == {"partition": "a,b", "cpus-per-task": "16", "mem": "64G"}


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90:30", 90),
        ("8:00:00", 480),
        ("1:30:59", 90),
        ("2-0", 2880),
        ("1-2:30", 1590),
        ("1-2:30:00", 1590),
    ],
)
def test_times_as_slurm_takes_them(text: str, minutes: int) -> None:
    assert slurm.resources_of(f"time={text}").minutes == minutes


def test_without_slurm_or_with_other_shares_one_line_says_so(
    clone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(clone, "--slurm", "time=5", "--jobs", "2") == 2
    assert "leave --jobs and --gpus-per-run" in capsys.readouterr().err
    assert command(clone, "--slurm", "time=5,gpus=4", "--launch-args=--num_machines 2 --num_processes 2") == 2
    assert "start 1 processes on a machine, and --slurm gpus=4" in capsys.readouterr().err
    assert command(clone, "--slurm", "time=5", "--launch-args=--nnodes=1:4") == 1
    assert "ask for '1:4' nodes; give one number" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    assert command(clone, "--slurm", "time=5") == 1
    assert "there is no squeue here" in capsys.readouterr().err


def test_a_launch_line_of_several_nodes() -> None:
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--node_rank",
        "0",
        "--standalone",
        "--rdzv_id=7",
        "--nproc_per_node=8",
    ]
    where = ["--node_rank", NODE, "--master_addr", HEAD, "--master_port", PORT]
    assert plan.across_nodes(torchrun) == [*torchrun[:2], *where, "--nnodes=2", "--nproc_per_node=8"]
    accelerate = [
        "-m",
        "accelerate.commands.launch",
        "--num_machines",
        "2",
        "--main_process_ip=a",
        "--num_processes",
        "8",
    ]
    where = ["--machine_rank", NODE, "--main_process_ip", HEAD, "--main_process_port", PORT]
    assert plan.across_nodes(accelerate) == [*accelerate[:2], *where, *accelerate[2:4], *accelerate[5:]]
    assert [plan.nodes_of(words) for words in (torchrun, accelerate, [])] == [2, 2, 1]
    assert [plan.processes_of(words) for words in (torchrun, accelerate)] == [8, 4]  # of each machine


def test_a_dry_run_shows_the_step_of_every_node(
    clone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(plan, "launch_command", lambda upstream, user, *_: [*upstream.launcher, *user])
    words = (
        "--slurm",
        "time=5,gpus=4",
        "--launch-args=--num_machines 2 --num_processes 8",
        "--modes",
        "full",
        "--dry-run",
    )
    assert command(clone, *words) == 0
    printed = capsys.readouterr().out
    assert "# each in a job of its own, on 2 nodes, with time=5,gpus=4" in printed
    assert "srun --nodes=2 --ntasks-per-node=1" in printed and "OMP_NUM_THREADS" not in printed
    assert '--machine_rank "$SLURM_NODEID" --main_process_ip "$SLURM_LAUNCH_NODE_IPADDR"' in printed
