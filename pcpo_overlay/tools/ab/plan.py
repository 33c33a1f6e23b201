"""What exactly will be run: one command, environment and folder per arm and seed."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pcpo_overlay
from pcpo_overlay.config import VARIABLE as PCPO
from pcpo_overlay.files import sha256
from pcpo_overlay.record.provenance import clone_state
from pcpo_overlay.record.run_folder import VARIABLE as RUN_DIR
from pcpo_overlay.tools.ab import ABError
from pcpo_overlay.tools.ab.arms import Arm
from pcpo_overlay.tools.ab.upstreams import HEAD, NODE, PACKAGE, PORT, TORCHRUN, Upstream
from pcpo_overlay.tools.ab.workplace import Workplace, readable

#: Checkpoints are not what an A/B run is for; the user's own value wins.
NEVER_SAVE = "1000000"
#: What a miniature is read from, in its prepared folder.
PREPARED = ("data", "assets", "hps_ckpt")
_MOST_THREADS = 8
#: What CUDA and the launchers take as the GPUs that are there.
GPUS = "CUDA_VISIBLE_DEVICES"
#: Launch options that say how many nodes, how many processes, and those without which two launchers meet at one port.
_NODES = ("--num_machines", "--nnodes")
_PROCESSES = ("--num_processes", "--nproc_per_node", "--nproc-per-node")
_PORTS = (
    "--main_process_port", "--master_port", "--master-port", "--standalone", "--rdzv_endpoint", "--rdzv-endpoint",
    "--rdzv_backend", "--rdzv-backend",
)  # fmt: skip
#: And those that say which node this is and where all meet.
_MEETING = (
    *_PORTS, "--machine_rank", "--main_process_ip", "--node_rank", "--node-rank", "--master_addr", "--master-addr",
    "--rdzv_id", "--rdzv-id", "--rdzv_conf", "--rdzv-conf", "--local_addr", "--local-addr",
)  # fmt: skip
_FLAGS = ("--standalone",)


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked.

    Attributes:
        upstream: which script.
        clone: the patched clone.
        arms, seeds: each seed runs every arm.
        epochs: None leaves the number to the config.
        out: the folder that takes the runs.
        config: the value of the script's ``--config``, every file in it absolute; or the launch script.
        config_file: the config file itself, the user's or the miniature's.
        miniature: whether the config is the project's own.
        accelerate_args: the user's launch options, or the launch script's; None takes quiet defaults.
        overrides: the script's further arguments.
        script_arguments: those of the launch script, for a trainer that takes no config file.
        jobs: how many runs share the machine.
        gpus: names of those that are divided among the runs; empty where none are.
        each: how many of them a run has; where there is none, how many cores. None divides nothing.
        elsewhere: whether the runs go to other machines, so that this one's GPUs and cores say nothing.
    """

    upstream: Upstream
    clone: Path
    arms: list[Arm]
    seeds: list[int]
    epochs: int | None
    out: Path
    config: str
    config_file: Path
    miniature: bool
    accelerate_args: list[str] | None
    overrides: list[str]
    script_arguments: list[str] | None = None
    jobs: int = 1
    gpus: tuple[str, ...] = ()
    each: int | None = None
    elsewhere: bool = False

    @property
    def nodes(self) -> int:
        """Machines of a run."""
        return nodes_of(self.accelerate_args or ())

    @property
    def has_cuda(self) -> bool:
        """Whether a run has a GPU."""
        return bool(self.gpus) if self.elsewhere else _has_cuda()

    @property
    def processes(self) -> int:
        """Processes of a run: one a GPU, or what the user's launch options say."""
        if self.accelerate_args is None:
            return self.each or 1 if self.gpus else 1
        return processes_of(self.accelerate_args) or 1

    @property
    def shares(self) -> list[tuple[str, ...]]:
        """The GPUs of each of the runs at one time; nothing for those that share them all."""
        return [self.gpus[n * self.each : (n + 1) * self.each] if self.each else () for n in range(self.jobs)]

    @property
    def prepared(self) -> Path | None:
        """The folder of what the script reads at relative paths on a miniature; None where it reads none so."""
        if not (self.miniature and self.upstream.in_workplace):
            return None
        return self.out / ("miniature-animals" if self.draws_animals else "miniature")

    @property
    def draws_animals(self) -> bool:
        """Whether the miniature is the one of animals."""
        return self.config_file == self.upstream.animals


@dataclass(frozen=True)
class Planned:
    """One run.

    Attributes:
        arm, seed: which.
        folder: the run folder; the log and the record of this command lie in it too.
        command: argument list; it may hold :data:`upstreams.PORT`, for which :meth:`at_port` puts a number.
        cwd: the clone, or the workplace.
        environment: the variables that are set on top of the caller's.
        settings: everything that decides what the run computes, for telling whether a finished run is the one asked
            for.
        port: the number that was put into the command.
        workplace: to be made before the run, where the script needs one.
    """

    arm: Arm
    seed: int
    folder: Path
    command: list[str]
    cwd: Path
    environment: dict[str, str]
    settings: dict[str, Any]
    port: int | None = None
    workplace: Workplace | None = None

    @property
    def name(self) -> str:
        """For messages: ``full, seed 0``."""
        return f"{self.arm.label}, seed {self.seed}"

    @property
    def digest(self) -> str:
        """SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def needs_port(self) -> bool:
        """Whether a port is still to be put into the command."""
        return PORT in self.command

    def at_port(self, port: int) -> Planned:
        """The same run with this port in its command; without effect on a command that takes none."""
        if not self.needs_port:
            return self
        return replace(self, command=[str(port) if w == PORT else w for w in self.command], port=port)

    def on(self, gpus: Sequence[str]) -> Planned:
        """The same run with these GPUs alone; with all where none are named."""
        return replace(self, environment={**self.environment, GPUS: ",".join(gpus)}) if gpus else self

    def as_shell(self) -> str:
        """The run as one line to paste into a shell."""
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        make = f"{self.workplace.as_shell()} && " if self.workplace else ""
        return f"{make}cd {shlex.quote(str(self.cwd))} && {variables} {shlex.join(self.command)}"


def check_overrides(upstream: Upstream, overrides: Sequence[str]) -> None:
    """Refuse overrides of what this command sets itself.

    Raises:
        ABError: names the override and the option to use in its place.
    """
    taken = {
        upstream.trainer.flags["seed"]: "--seeds",
        upstream.trainer.flags["epochs"]: "--epochs",
        **dict.fromkeys(upstream.folders, "--out"),
        "--config": "--config before the --",
        "--pcpo": "--modes",
    }
    for override in overrides:
        flag = override.partition("=")[0]
        if flag in taken:
            raise ABError(
                f"{override} after -- would be overruled or overrule the comparison; use {taken[flag]}"
            )


def make_plan(request: Request, environ: Mapping[str, str] | None = None) -> list[Planned]:
    """Every run of a request, seed by seed, so that a comparison cut short still has pairs.

    Args:
        request: what to run.
        environ: the caller's environment; None is this process's.
    """
    environ = os.environ if environ is None else environ
    script = request.clone / request.upstream.script
    clone = clone_state(script) or {}
    settings = {
        "upstream": request.upstream.name,
        "commit": clone.get("commit"),
        "patched_tree": clone.get("patched_tree"),
        "pcpo_overlay": pcpo_overlay.__version__,
        "epochs": request.epochs,
        # its name, and what is behind it: that may be another config's path
        "config": request.config_file.name + request.config.rpartition(str(request.config_file))[2],
        "config_sha256": sha256(request.config_file),
        "accelerate_args": request.accelerate_args,
        "overrides": request.overrides,
        **(
            {"processes": request.processes}
            if request.accelerate_args is None and request.processes > 1
            else {}
        ),
    }
    launch = launch_command(request.upstream, request.accelerate_args, request.processes, request.has_cuda)
    if request.elsewhere and request.nodes > 1:
        launch = across_nodes(launch)
    elif (request.gpus or request.elsewhere) and request.processes > 1:
        launch = with_port(launch)
    plan = []
    for seed in request.seeds:
        for arm in request.arms:
            folder = request.out / f"{arm.slug}-seed{seed}"
            workplace = _workplace(request, folder)
            plan.append(
                Planned(
                    arm=arm,
                    seed=seed,
                    folder=folder,
                    command=[
                        sys.executable, *launch, *_script(request),
                        *script_arguments(request, seed, folder),
                    ],
                    cwd=workplace.folder if workplace else request.clone,
                    environment=_environment(request, arm, folder, environ),
                    settings=settings | {"mode": str(arm.config), "seed": seed},
                    workplace=workplace,
                )
            )  # fmt: skip
    return plan


def _script(request: Request) -> list[str]:
    """The training script, and before it what starts it on a miniature."""
    upstream = request.upstream
    script = str(request.clone / upstream.script) if upstream.in_workplace else upstream.script
    return [str(upstream.runner), script] if request.miniature and upstream.runner else [script]


def _workplace(request: Request, folder: Path) -> Workplace | None:
    if not request.upstream.in_workplace:
        return None
    if request.prepared is not None:
        return Workplace(folder / "work", tuple(request.prepared / name for name in PREPARED))
    return Workplace(folder / "work", readable(request.clone))


def script_arguments(request: Request, seed: int, folder: Path) -> list[str]:
    """The training script's arguments of one run."""
    flags = request.upstream.trainer.flags
    given = ["--config", request.config] if request.script_arguments is None else request.script_arguments
    arguments = [*given, f"{flags['seed']}={seed}"]
    if request.epochs is not None:
        arguments.append(f"{flags['epochs']}={request.epochs - request.upstream.trainer.more_epochs}")
    arguments += [f"{flag}={folder / name}" for flag, name in request.upstream.folders.items()]
    if not any(override.partition("=")[0] == flags["save_freq"] for override in request.overrides):
        arguments.append(f"{flags['save_freq']}={NEVER_SAVE}")
    return [*arguments, *request.overrides]


def launch_command(
    upstream: Upstream, user: Sequence[str] | None, processes: int = 1, cuda: bool | None = None
) -> list[str]:
    """The launcher with its options: the user's alone, else upstream's, with so many processes."""
    if user is not None:
        return [*upstream.launcher, *user]
    cuda = _has_cuda() if cuda is None else cuda
    launch = [*upstream.launcher, *upstream.launch, *(() if cuda else upstream.cpu_launch)]
    if processes == 1:
        return launch
    at = _place(launch, _PROCESSES)
    if at is None:
        raise ABError(f"{upstream.name}'s launch script says how many processes it starts; change it there")
    name, equals, _ = launch[at].partition("=")
    launch[at : at + (1 if equals else 2)] = [name, str(processes)]
    return launch


def _place(words: Sequence[str], names: Collection[str]) -> int | None:
    """Where the first of these options is."""
    return next((n for n, word in enumerate(words) if word.partition("=")[0] in names), None)


def _value(words: Sequence[str], names: Collection[str]) -> str | None:
    """The value of the first of these options; None where there is none."""
    at = _place(words, names)
    if at is None:
        return None
    _, equals, value = words[at].partition("=")
    return value if equals else next(iter(words[at + 1 :]), "")


def processes_of(words: Sequence[str]) -> int | None:
    """How many processes launch options ask for on each machine; None where they do not say."""
    value = _value(words, _PROCESSES)
    if value is None or not value.isdecimal():
        return None
    # torchrun's are a machine's, accelerate's are all
    return int(value) if _place(words, ("--num_processes",)) is None else int(value) // nodes_of(words)


def nodes_of(words: Sequence[str]) -> int:
    """How many machines launch options ask for.

    Raises:
        ABError: no number, such as torchrun's range of them.
    """
    value = _value(words, _NODES)
    if value is None:
        return 1
    if not value.isdecimal() or value == "0":
        raise ABError(f"the launch options ask for {value!r:.40} nodes; give one number")
    return int(value)


def across_nodes(launch: Sequence[str]) -> list[str]:
    """A launch command of several nodes, which says itself which node this is and where they meet."""
    kept: list[str] = []
    words = iter(launch)
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in _MEETING:
            kept.append(word)
        elif not equals and name not in _FLAGS:
            next(words, None)
    rank, address, port = (
        ("--node_rank", "--master_addr", "--master_port")
        if tuple(kept[:2]) == TORCHRUN
        else ("--machine_rank", "--main_process_ip", "--main_process_port")
    )
    return [*kept[:2], rank, NODE, address, HEAD, port, PORT, *kept[2:]]


def with_port(launch: Sequence[str]) -> list[str]:
    """A launch command whose processes meet at a port of their own; as it is where it says where they meet."""
    if _place(launch, _PORTS) is not None:
        return list(launch)
    option = "--master_port" if tuple(launch[:2]) == TORCHRUN else "--main_process_port"
    return [*launch[:2], option, PORT, *launch[2:]]


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that a run started here may use, by the names that the environment gives them, else by number."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in environ.get(GPUS, "").split(",") if name.strip()]
    return tuple((named or [str(n) for n in range(count)])[:count])


def free_port(avoid: Collection[int | None] = ()) -> int:
    """A port of this machine that nobody listens on and that is not in ``avoid``.

    A launcher binds its port seconds after it was chosen, so those handed out meanwhile look free too and have to be
    named.
    """
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("", 0))
            port: int = probe.getsockname()[1]
        if port not in avoid:
            return port


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _environment(request: Request, arm: Arm, folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    path = [str(request.clone)]
    if PACKAGE.parent.name not in ("site-packages", "dist-packages"):
        path.append(str(PACKAGE.parent))  # a checkout that is not installed
    if environ.get("PYTHONPATH"):
        path.append(environ["PYTHONPATH"])
    variables = {
        PCPO: arm.label,
        RUN_DIR: str(folder),
        "PYTHONPATH": os.pathsep.join(path),
        "WANDB_MODE": environ.get("WANDB_MODE", "disabled"),
        "WANDB_DIR": environ.get("WANDB_DIR", str(folder)),
    }
    if "OMP_NUM_THREADS" in environ or not request.elsewhere:  # else the machine it runs on says it
        variables["OMP_NUM_THREADS"] = environ.get("OMP_NUM_THREADS") or threads(_cores_of(request))
    if request.miniature:
        variables["HF_HUB_OFFLINE"] = "1"
    on_cpu = request.upstream.cpu_environment
    if on_cpu and request.accelerate_args is None and not request.has_cuda:
        variables |= {name: environ.get(name, value) for name, value in on_cpu.items()}
    return variables


def threads(cores: int) -> str:
    """Threads of a process that has so many cores."""
    return str(max(1, min(cores, _MOST_THREADS)))


def _cores_of(request: Request) -> int:
    """Of each process: those of the run that were asked for, else its part of all."""
    if request.each and not request.gpus:
        return request.each
    return cores() // (request.jobs * request.processes)


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1
