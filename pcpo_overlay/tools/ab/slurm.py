"""Runs as jobs of SLURM, one a run: what is asked for, what is in the queue, and what a job does on its first node.

A job is known by its name, which holds the run's folder: the queue itself says what is submitted, from any shell.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.ab import ABError
from pcpo_overlay.tools.ab.plan import Planned, free_port, processes_of, threads
from pcpo_overlay.tools.ab.runner import (
    Active,
    Interrupted,
    show_progress,
    start,
    stop_group,
    stoppable,
    tell_end,
    verdict,
)
from pcpo_overlay.tools.ab.state import LOG, RECORD, is_finished, set_aside, write_record
from pcpo_overlay.tools.ab.upstreams import HEAD, NODE
from pcpo_overlay.tools.faults import WrongArgument, printable, told
from pcpo_overlay.tools.progress import Display
from pcpo_overlay.tools.runs.files import read_object_or_none
from pcpo_overlay.tools.runs.tail import MetricsTail

#: Where, beside the runs, the jobs' scripts and own output go.
FOLDER = "slurm"
QUEUE_POLL_S = 10.0
POLL_S = 0.25
#: How long what a job wrote last may take to be seen here, on a shared folder, and a job to be back in the queue.
LAG_S = 30.0
#: How long before its time is over a job is told: twice what stopping a run may take.
SIGNAL_S = 90
#: sbatch's options that are not the user's, with who says them.
_OURS = {
    "nodes": "the launch line says it, with --nnodes or --num_machines",
    "gpus-per-node": "say gpus=N, each node's",
    **dict.fromkeys(
        (
            "array",
            "comment",
            "error",
            "job-name",
            "ntasks",
            "ntasks-per-node",
            "open-mode",
            "output",
            "signal",
            "wrap",
        ),
        "it is set for every run",
    ),
}


@dataclass(frozen=True)
class Resources:
    """What each run's job asks for.

    Attributes:
        minutes: its time.
        gpus: on each node.
        options: further options of sbatch, by their long names.
    """

    minutes: int
    gpus: int
    options: Mapping[str, str]


def resources_of(text: str) -> Resources:
    """Read ``partition=a100,time=8:00:00,gpus=4``; a piece without ``=`` belongs to the value before it.

    Raises:
        WrongArgument: not such a list, no time, or an option that is not the user's to set.
    """
    options: dict[str, str] = {}
    name = ""
    for piece in text.split(","):
        key, equals, value = piece.partition("=")
        if equals:
            name = key.strip().lstrip("-").replace("_", "-")
            options[name] = value.strip()
        elif name:
            options[name] += f",{piece.strip()}"
        if not name or not options[name]:
            raise WrongArgument(
                f"--slurm {text!r}: {piece!r} is not NAME=VALUE, an option of sbatch with its value"
            )
    for name in options.keys() & _OURS.keys():
        raise WrongArgument(f"--slurm: {name} is not to be given; {_OURS[name]}")
    time_, gpus = options.pop("time", ""), options.pop("gpus", "0")
    minutes = _minutes(time_)
    if not minutes:
        raise WrongArgument(
            f"--slurm: give each run's time=, as sbatch takes it, 8:00:00 for example, not {time_!r}"
        )
    if not gpus.isdecimal():
        raise WrongArgument(f"--slurm: gpus={gpus} is no number; a type goes into gres=gpu:TYPE:N beside it")
    return Resources(minutes, int(gpus), options)


def _minutes(text: str) -> int:
    """A time as SLURM takes it (M, M:S, H:M:S, D-H, D-H:M, D-H:M:S) in whole minutes; 0 for what is none."""
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in (days or "0", *parts)) or len(parts) > 3:
        return 0
    if not dash and len(parts) < 3:
        return int(parts[0])
    hours, minutes = map(int, [*parts, "0"][:2])
    return (int(days or 0) * 24 + hours) * 60 + minutes


# ---------------------------------------------------------------- the queue


@dataclass(frozen=True)
class Queued:
    """A job that waits or runs: its id, its state, why it waits, and the digest of its run's settings."""

    id: str
    state: str
    reason: str
    digest: str

    def __str__(self) -> str:
        reason = "" if self.reason in ("None", "") else f" ({self.reason})"
        return printable(f"job {self.id} {self.state.lower()}{reason}")


def job_name(planned: Planned) -> str:
    """The name of a run's job; no other folder has it."""
    return f"pcpo-{planned.folder.name}-{hashlib.sha256(str(planned.folder).encode()).hexdigest()[:12]}"


def queue() -> dict[str, Queued]:
    """The caller's jobs that wait or run, by name.

    Raises:
        ABError: no SLURM here, or it does not answer.
    """
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", "--me", "--format=%A|%T|%r|%k|%j"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise ABError("there is no squeue here; --slurm is for a machine that submits to SLURM") from None
    if asked.returncode:
        raise ABError(f"SLURM does not say what is in its queue: {_last_line(asked.stderr)}")
    rows = [line.split("|") for line in asked.stdout.splitlines()]
    return {row[-1]: Queued(*row[:4]) for row in rows if row[-1].startswith("pcpo-")}


def in_queue(plan: Sequence[Planned], out: Path) -> dict[str, Queued]:
    """The same for runs that may have been submitted, where SLURM is at hand; empty where none were."""
    if not (out / FOLDER).exists() or shutil.which("squeue") is None:
        return {}
    found = queue()
    return {planned.name: found[job_name(planned)] for planned in plan if job_name(planned) in found}


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and "--help" not in line]
    return printable(lines[-1]) if lines else "it gave no reason"


# --------------------------------------------------------------- submitting


def run_all(
    plan: Sequence[Planned], resources: Resources, nodes: int, out: Path, display: Display
) -> list[Planned]:
    """Submit what is neither finished nor in the queue, and follow all until the last has left it.

    Returns:
        The runs that failed.

    Raises:
        ABError: no SLURM, a folder holds something else (found out before anything is submitted), or SLURM refuses.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the jobs stay in the queue.
    """
    jobs = queue()
    finished = [_is_finished(planned, jobs.get(job_name(planned))) for planned in plan]
    tails = [MetricsTail(planned.folder) for planned in plan]
    known: dict[int, Queued] = {}
    gone: dict[int, float] = {}
    failed: list[int] = []
    with stoppable(), display:
        try:
            for index, planned in enumerate(plan):
                if finished[index]:
                    tails[index].poll()
                    display.ended(index, "finished already", tails[index].epochs)
                    continue
                job = jobs.get(job_name(planned))
                if job is None:
                    aside = set_aside(planned.folder)
                    if aside is not None:
                        display.say(f"{planned.name}: {aside}")
                    job = Queued(_submit(planned, resources, nodes, out), "SUBMITTED", "", planned.digest)
                known[index] = job
                display.say(f"{planned.name}: {job}")
            while known:
                jobs = _queue_now(display, jobs)
                for index, before in list(known.items()):
                    now = jobs.get(job_name(plan[index]))
                    show_progress(display, index, tails[index])
                    if now is None:
                        since = gone.setdefault(index, time.monotonic())
                        why, log, is_sure = _how_it_ended(plan[index], before)
                        if not is_sure and time.monotonic() - since < LAG_S:
                            continue
                        del known[index]
                        failed += [index] if why else []
                        tell_end(display, index, plan[index], why, log)
                    elif now != before:
                        known[index] = now
                        if now.state == "RUNNING":
                            display.started(index, f"{now}, output in {plan[index].folder}")
                        else:
                            display.say(f"{plan[index].name}: {now}")
                if known:
                    time.sleep(QUEUE_POLL_S)
        except KeyboardInterrupt:
            raise Interrupted from None
    return [plan[index] for index in sorted(failed)]


def _is_finished(planned: Planned, job: Queued | None) -> bool:
    """Whether this very run is done; not, where its job waits or runs."""
    if job is None:
        return is_finished(planned)
    if job.digest != planned.digest:
        raise ABError(
            f"{planned.folder}: {job}, with other settings; choose another --out, or end it with: scancel "
            f"{job.id}"
        )
    return False


def _queue_now(display: Display, before: dict[str, Queued]) -> dict[str, Queued]:
    """The queue; as it was where SLURM is away for a while, which ends no run."""
    try:
        return queue()
    except ABError as error:
        display.say(f"{error}; asking again")
        return before


def _submit(planned: Planned, resources: Resources, nodes: int, out: Path) -> str:
    """Submit one run and return the job's id."""
    if shutil.which("sbatch") is None:
        raise ABError("there is no sbatch here; --slurm is for a machine that submits to SLURM")
    import submitit
    from submitit.core.utils import FailedJobError

    # exec puts our process in the place of the batch shell, so that the signal before the end of a job's time reaches
    # it alone, and it stops the trainer in order. No timeout is repeated: the next time would end alike.
    executor = submitit.SlurmExecutor(
        out / FOLDER, max_num_timeout=0, python=f"exec {shlex.quote(sys.executable)}"
    )
    executor.update_parameters(
        job_name=job_name(planned),
        comment=planned.digest,
        time=resources.minutes,
        nodes=nodes,
        ntasks_per_node=1,
        gpus_per_node=resources.gpus if resources.gpus and "gres" not in resources.options else None,
        use_srun=False,
        stderr_to_stdout=True,
        wckey=None,
        additional_parameters={
            "signal": f"B:{submitit.JobEnvironment.USR_SIG}@{SIGNAL_S}", "requeue": True, **resources.options,
        },
    )  # fmt: skip
    try:
        with redirect_stderr(io.StringIO()):  # which it prints besides raising it
            return str(executor.submit(Job(planned, nodes)).job_id)
    except FailedJobError as error:
        raise ABError(
            f"SLURM refuses {planned.name}: {_last_line(str(error))}; what was submitted before stays in the queue"
        ) from None


def _how_it_ended(planned: Planned, job: Queued) -> tuple[str | None, str, bool]:
    """What is wrong with a run whose job has left the queue, or None; the log, from its folder, that says more; and
    whether that is sure, as it is where the run came to an end by itself."""
    record = read_object_or_none(planned.folder / RECORD) or {}
    code, own = record.get("exit_code"), f"../{FOLDER}/{job.id}_0_log.out"
    if record.get("stopped"):
        # not sure: a job on its way back into the queue, after a preemption, is out of it for a moment
        return f"SLURM stopped job {job.id}, whose time was over or which was cancelled", own, False
    if not isinstance(code, int):
        why = f"job {job.id} left the queue without an end: cancelled, out of memory, or its node failed"
        return why, own, False
    return verdict(planned, code), LOG, True


# --------------------------------------------------------------- in the job


def as_step(planned: Planned, nodes: int) -> Planned:
    """The same run started on every node of its job, each with its number and the first one's address."""
    if nodes == 1:
        return planned
    line = shlex.join(planned.command)
    for placeholder, variable in ((NODE, "SLURM_NODEID"), (HEAD, "SLURM_LAUNCH_NODE_IPADDR")):
        line = line.replace(shlex.quote(placeholder), f'"${variable}"')
    srun = ["srun", f"--nodes={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--export=ALL"]
    return replace(planned, command=[*srun, "bash", "-c", f"exec {line}"])


@dataclass(frozen=True)
class Job:
    """What runs on the first node of a job: the run, begun anew if it was there unfinished.

    SLURM starts it again after a preemption, a node's failure or ``scontrol requeue``; a run that had finished by then
    is left alone.
    """

    planned: Planned
    nodes: int

    def __call__(self) -> None:
        """Run it; exits as the trainer does, for SLURM's own records."""
        import submitit

        if is_finished(self.planned):
            return
        aside = set_aside(self.planned.folder)
        if aside is not None:
            print(aside, flush=True)
        told_by: list[int] = []

        def note(number: int, frame: object) -> None:
            told_by.append(number)  # what it asks for is done outside of the handler

        early = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
        requeue: Any = signal.signal(early, note)
        signal.signal(signal.SIGTERM, note)
        active: list[Active] = []
        planned = as_step(self._here(), self.nodes)
        why = start(0, planned, active, ())
        if why is not None:
            sys.exit(why)
        process = active[0].process
        while process.poll() is None and not told_by:
            time.sleep(POLL_S)
        time.sleep(POLL_S)  # what a cancelled job's processes are told reaches some of them first
        if told_by:
            stop_group(process)
        stopped = bool(told_by) and process.returncode != 0
        write_record(
            planned, exit_code=process.returncode, pid=process.pid, **({"stopped": True} if stopped else {})
        )
        if stopped and told_by[0] == early:
            # submitit's own: back into the queue after a preemption, and not where the time is over
            requeue(early, None)
        sys.exit(128 + told_by[0] if stopped else process.returncode)

    def checkpoint(self) -> Any:
        """For submitit: what the job is when it starts again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _here(self) -> Planned:
        """The run with what only its machine knows: a port, and the threads of its cores."""
        environment = dict(self.planned.environment)
        cores = int(os.environ.get("SLURM_CPUS_ON_NODE", "1"))
        environment.setdefault("OMP_NUM_THREADS", threads(cores // (processes_of(self.planned.command) or 1)))
        if "SLURM_CPUS_PER_TASK" in os.environ:  # which srun does not take from there
            environment.setdefault("SRUN_CPUS_PER_TASK", os.environ["SLURM_CPUS_PER_TASK"])
        return replace(self.planned.at_port(free_port()), environment=environment)


# ------------------------------------------------------------------- status


def standing(planned: Planned, job: Queued | None) -> str:
    """In a few words, how far a run is; ``finished`` for one that is."""
    metrics = MetricsTail(planned.folder)
    metrics.poll()
    epochs = f", {metrics.epochs} epochs" if metrics.epochs else ""
    if job is not None:
        return f"{job}{epochs}"
    try:
        if is_finished(planned):
            return "finished"
    except ABError as error:
        return told(error)
    record = read_object_or_none(planned.folder / RECORD)
    if record is None:
        return "not started"
    code = record.get("exit_code")
    if record.get("stopped") or not isinstance(code, int):
        return f"stopped{epochs}"
    return f"failed: {verdict(planned, code)}"
