"""A SLURM cluster of two nodes on this machine, for the tests of ``pcpo ab --slurm``.

Debian's own daemons with a configuration, key, ports and folders of their own: nothing of the system's is read or
changed, and all of them end with the tests.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

#: Debian's packages, for the message where they are missing.
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
_SBIN = "/usr/sbin"
NODES = ("here1", "here2")

_CONFIG = """\
ClusterName=pcpo
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=2
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=2
InactiveLimit=0
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=test Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=9 PreemptMode=OFF
"""


def why_no_cluster() -> str | None:
    """What is missing to start one here; None for nothing."""
    path = os.pathsep.join((os.environ.get("PATH", ""), _SBIN))
    missing = [
        name
        for name in ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")
        if not shutil.which(name, path=path)
    ]
    if missing:
        return f"{', '.join(missing)} not found (Debian: apt-get install {' '.join(PACKAGES)})"
    return None if os.geteuid() == 0 else "slurmd wants root"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start the daemons, yield the variables by which SLURM's commands find them, end them."""
    folder.chmod(0o755)
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    config.write_text(
        _CONFIG.format(
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            folder=folder,
            nodes=NODES,
            ports=_ports(3),
        )
    )
    environment = {"SLURM_CONF": str(config), "PATH": os.pathsep.join((os.environ["PATH"], _SBIN))}
    key = folder / "munge.key"
    subprocess.run([f"{_SBIN}/mungekey", "--create", f"--keyfile={key}"], check=True)
    munge = [
        "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}",
        *(f"--{name}-file={folder}/munged.{name}" for name in ("log", "pid", "seed")),
    ]  # fmt: skip
    commands = {"munged": munge, "slurmctld": ["slurmctld", "-D", "-c"]}
    commands |= {node: ["slurmd", "-D", "-N", node] for node in NODES}
    with ExitStack() as daemons:
        for name, command in commands.items():
            daemons.enter_context(_daemon(command, environment, folder / f"{name}.out"))
            if name == "munged":
                _until(lambda: (folder / "munge.socket").exists(), folder)
        _until(lambda: _idle(environment) == set(NODES), folder)
        try:
            yield environment
        finally:
            subprocess.run(["scancel", "--me"], env={**os.environ, **environment}, check=False)


def _ports(count: int) -> list[int]:
    """Ports that nobody listens on; taken together, so that they differ."""
    with ExitStack() as open_:
        probes = [open_.enter_context(closing(socket.socket())) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def _daemon(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _idle(environment: dict[str, str]) -> set[str]:
    told = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return set(told.stdout.split())


def _until(condition: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            said = "\n".join(
                f"{log.name}: {log.read_text(errors='replace')[-2000:]}" for log in folder.glob("*.out")
            )
            raise RuntimeError(f"SLURM did not come up in {seconds:g} s:\n{said}")
        time.sleep(0.1)
