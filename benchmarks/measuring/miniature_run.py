"""An upstream's training script on its miniature, as `ab` launches it, with a file of ours before the script."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measuring.clones import Clone
from pcpo_overlay.config import parse
from pcpo_overlay.tools.ab.arms import Arm
from pcpo_overlay.tools.ab.launch_script import read_launch_script
from pcpo_overlay.tools.ab.plan import Planned, Request, free_port, launch_command, make_plan
from pcpo_overlay.tools.ab.runner import stop_group
from pcpo_overlay.tools.ab.state import tail
from pcpo_overlay.tools.ab.upstreams import Upstream

LOG = "run.log"


class RunFailed(Exception):
    """A training run did not do what it was started for; the message has the end of what it said."""


class Run:
    """A run that was started; it is stopped, if it has not ended, when the stack is left.

    Args:
        name: for messages.
        environment: variables beside those of the plan.
    """

    def __init__(
        self, name: str, planned: Planned, stack: ExitStack, environment: Mapping[str, str] | None = None
    ) -> None:
        if planned.needs_port:
            planned = planned.at_port(free_port())
        planned.folder.mkdir(parents=True, exist_ok=True)
        if planned.workplace is not None:
            planned.workplace.make()
        self.name, self._log = name, planned.folder / LOG
        self.process = subprocess.Popen(
            planned.command,
            cwd=planned.cwd,
            env={**os.environ, **planned.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=stack.enter_context(self._log.open("wb")),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(self._stop)

    def _stop(self) -> None:
        if self.process.poll() is None:
            stop_group(self.process)

    def failed(self, why: str) -> RunFailed:
        """The error to raise."""
        said = "\n".join(f"    {line}" for line in tail(self._log))
        return RunFailed(f"the run of {self.name} failed: {why}. The end of its log:\n{said}")


@dataclass(frozen=True)
class Miniatures:
    """Makes runs of the miniatures.

    Attributes:
        vendor: folder of patched clones.
        scratch: takes the run folders.
    """

    vendor: Path
    scratch: Path

    def plan(
        self,
        upstream: Upstream,
        mode: str,
        name: str,
        *,
        before: Sequence[str],
        overrides: Sequence[str],
        config: str | None = None,
        epochs: int,
        jobs: int = 1,
    ) -> Planned:
        """One run, ready to start.

        Args:
            upstream: which script.
            mode: of PCPO, ``off`` too.
            name: of its folder.
            before: what stands before the script in the command: a file that runs it, and the file's arguments.
            overrides: of the script's settings.
            config: the value of its ``--config`` in place of the miniature's own.
            epochs: how many.
            jobs: how many runs share the machine.
        """
        out = self.scratch / name
        launch_args, script_arguments = None, None
        if upstream.has_launch_script:
            line = read_launch_script(upstream.config)
            launch_args, script_arguments = line.options, line.arguments
        request = Request(
            upstream=upstream,
            clone=Clone.find(upstream.clone, self.vendor).path,
            arms=[Arm(parse(mode).on(upstream.name), mode)],
            seeds=[0],
            epochs=epochs,
            out=out,
            config=config or str(upstream.config),
            config_file=upstream.config,
            miniature=True,
            accelerate_args=launch_args,
            overrides=list(overrides),
            script_arguments=script_arguments,
            jobs=jobs,
        )
        if request.prepared is not None:
            self._prepare(request.prepared)
        (planned,) = make_plan(request)
        at = 1 + len(launch_command(upstream, launch_args))
        return replace(planned, command=[*planned.command[:at], *before, *planned.command[at:]])

    def _prepare(self, folder: Path) -> None:
        """What a script reads at relative paths, made once for all runs."""
        from pcpo_overlay.tools.miniature.dancegrpo.data import prepare

        shared = self.scratch / "miniature"
        if not shared.exists():
            prepare(shared)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            folder.symlink_to(shared)
