"""An upstream's training script on its miniature, as `ab` launches it, with a file of ours before the script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from measuring.clones import Clone
from pcpo_overlay.ab.arms import Arm
from pcpo_overlay.ab.launch_script import read_launch_script
from pcpo_overlay.ab.plan import Planned, Request, launch_command, make_plan
from pcpo_overlay.ab.upstreams import Upstream
from pcpo_overlay.config import parse


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
        from pcpo_overlay.miniature.dancegrpo.data import prepare

        shared = self.scratch / "miniature"
        if not shared.exists():
            prepare(shared)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            folder.symlink_to(shared)
