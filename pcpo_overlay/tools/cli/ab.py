"""``ab``: train an upstream once per mode and seed through its own launch path, then report."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcpo_overlay.tools.ab.upstreams import CHOICES, NAMES, PACKAGE, PORT, UPSTREAMS, Upstream
from pcpo_overlay.tools.cli.arguments import at_least, seeds, split_at_dashes, thresholds
from pcpo_overlay.tools.cli.report import tell
from pcpo_overlay.tools.faults import Stopped, WrongArgument, told
from pcpo_overlay.tools.folders import absolute, check_writable
from pcpo_overlay.tools.locks import held

if TYPE_CHECKING:
    from pcpo_overlay.tools.ab.launch_script import LaunchLine
    from pcpo_overlay.tools.ab.plan import Planned, Request
    from pcpo_overlay.tools.ab.slurm import Resources

#: Ports from here on are shown by --dry-run.
EXAMPLE_PORT = 29501

#: The value of ``--config`` for the miniature that draws animals.
ANIMALS = "animals"
_DESCRIPTION = """\
Run upstream's own, untouched script by its own launcher (accelerate launch,
torchrun) once per mode and seed with PCPO set, then compare the runs (see: pcpo
report).
Without --config it trains this project's miniature model of digits, on a CPU if
need be, with `--config animals` (ddpo, dancegrpo --trainer sd) the one of animals,
and with --config FILE your own. What is finished is not repeated: type the same command
again to go on after a stop.

  ddpo       scripts/train.py of ddpo-pytorch
  flow_grpo  scripts/train_TRAINER.py of flow_grpo, for --trainer sd3 (the default),
             sd3_fast, sd3_GRPO_Guard, flux or flux_fast; its loop is endless, so
             --config needs --epochs
  dancegrpo  fastvideo/train_grpo_TRAINER.py of DanceGRPO, for --trainer flux,
             flux_lora or sd; of the first two --config takes a launch script
"""
_EPILOG = """\
What follows -- goes to the training script as it is, for example:
  pcpo ab ddpo --modes observe,match,full -- --config.train.learning_rate=1e-4
  pcpo ab flow_grpo --config config/grpo.py:general_ocr_sd3_1gpu --epochs 100 \\
    -- --config.eval_freq=10
  pcpo ab dancegrpo --trainer flux_lora --seeds 0,1 \\
    --config scripts/finetune/finetune_flux_grpo_8gpus_lora.sh

On a cluster: --slurm partition=a100,time=8:00:00,gpus=4 makes each run a job, on as
many nodes as the launch options say; Ctrl-C leaves the jobs in the queue.

Exit codes: 0 every run and the report are done, or --status could say how far they
are; 1 a run failed or could not be started, SLURM is not there or refuses it (a
message says why); 2 a wrong argument, --slurm's options among them; 70 a fault of pcpo itself (the
message names a file with the traceback); 130 stopped by Ctrl-C or a signal.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``ab`` subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "ab",
        help="baseline against PCPO through an upstream's own training script",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"%(prog)s {{{','.join(NAMES)}}} [options] [-- OVERRIDE ...]",
    )
    parser.add_argument("upstream", choices=NAMES, help="which upstream to run")
    parser.add_argument(
        "--trainer", metavar="TRAINER", help="which of dancegrpo's or flow_grpo's trainers to run"
    )
    parser.add_argument(
        "--modes",
        metavar="LIST",
        help="modes with their options, e.g. observe,match,full,variance=native: a piece with = belongs to the mode "
        "before it (default: observe,full)",
    )
    parser.add_argument(
        "--mode",
        action="append",
        default=[],
        metavar="MODE",
        help="one more mode with its options; may be repeated",
    )
    parser.add_argument(
        "--epochs",
        type=at_least(1),
        metavar="N",
        help="epochs of each run (default: the config's; flow_grpo's own configs have none)",
    )
    parser.add_argument("--seeds", type=seeds, default=[0], metavar="S,...", help="seeds (default: 0)")
    parser.add_argument(
        "--jobs",
        type=at_least(1),
        metavar="N",
        help="runs at a time, which share the machine's cores and GPUs (default: 1; as many as fit --gpus-per-run)",
    )
    parser.add_argument(
        "--gpus-per-run",
        type=at_least(1),
        metavar="K",
        help="give each run K GPUs of its own, with a process for each unless --launch-args says how many, a port and "
        "its part of the cores; on a machine without a GPU, K cores",
    )
    parser.add_argument(
        "--slurm",
        metavar="NAME=VALUE,...",
        help="run each as a job of SLURM: its time, gpus (of each node), and further options of sbatch by their long "
        "names, such as partition, account, mem, cpus-per-task",
    )
    parser.add_argument(
        "--status",
        action="store_true",
        help="say how far each run is and start none; when all are finished, report",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where the runs and the report go (default: pcpo_ab/UPSTREAM, with _TRAINER)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--vendor", type=Path, metavar="DIR", help="folder of clones that apply.py made")
    where.add_argument("--clone", type=Path, metavar="PATH", help="the patched clone itself")
    parser.add_argument(
        "--config",
        metavar="FILE[:NAME]",
        help="a config file for the training script, or a launch script whose torchrun line has its arguments; "
        "relative to here or to the clone; or the word animals (default: the miniature of digits)",
    )
    parser.add_argument(
        "--launch-args",
        "--accelerate-args",
        dest="accelerate_args",
        metavar="'...'",
        help="options of accelerate launch, or torchrun, in place of the default (one process, on the CPU where there "
        "is no CUDA; a launch script's own); '' takes those of `accelerate config`; "
        f"{PORT} stands for a port that is free when the run starts",
    )
    parser.add_argument("--thresholds", type=thresholds, metavar="A,B,...", help="as for report")
    parser.add_argument("--dry-run", action="store_true", help="print the exact commands and run nothing")
    split_at_dashes(parser, "overrides")
    parser.set_defaults(func=run, tell=tell)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pcpo_overlay.tools.ab.plan import make_plan

    resources = _resources(args)
    request = _request(args, resources)
    plan = make_plan(request)
    if args.dry_run:
        _show(request, plan, args.slurm)
        return 0
    if args.status:
        return _status(args, request, plan)
    return _run(args, request, plan, resources)


def _resources(args: argparse.Namespace) -> Resources | None:
    from pcpo_overlay.tools.ab.slurm import resources_of

    if args.slurm is None:
        return None
    if args.jobs or args.gpus_per_run:
        raise WrongArgument(
            "--slurm makes every run a job with gpus=N of its own; leave --jobs and --gpus-per-run"
        )
    return resources_of(args.slurm)


def _show(request: Request, plan: list[Planned], slurm: str | None) -> None:
    """Print every run's command, to paste into a shell."""
    from pcpo_overlay.tools.ab.slurm import as_step

    if slurm is not None:
        print(f"# each in a job of its own, on {request.nodes} nodes, with {slurm}")
    if request.prepared is not None:
        print("# before the runs, what they read")
        words = [sys.executable, "-m", "pcpo_overlay", "miniature", "prepare", str(request.prepared)]
        print(shlex.join([*words, *(["--animals"] if request.draws_animals else [])]))
    if any(planned.needs_port for planned in plan):
        print("# a run gets a port that is free when it starts; those below are examples")
    for index, planned in enumerate(plan):
        shown = planned.at_port(EXAMPLE_PORT + index)
        share = request.shares[index % request.jobs]
        shown = shown.on(share) if slurm is None else as_step(shown, request.nodes)
        print(f"# {planned.name}\n{shown.as_shell()}")


def _request(args: argparse.Namespace, resources: Resources | None) -> Request:
    from pcpo_overlay.tools.ab.arms import arms_of
    from pcpo_overlay.tools.ab.launch_script import read_launch_script
    from pcpo_overlay.tools.ab.plan import Request, check_overrides

    upstream = _find_upstream(args.upstream, args.trainer)
    modes = args.modes
    if modes is None and not args.mode and upstream.trainer.remedy:
        modes = "observe"  # its own objective is what there is to compare
    arms, notes = arms_of(modes, args.mode, upstream.name)
    check_overrides(upstream, args.overrides)
    clone = _find_clone(upstream, args.vendor, args.clone)
    config, config_file = _find_config(upstream, args.config, clone)
    miniature = config_file in (upstream.config, upstream.animals)
    if upstream.wrapper is not None and not miniature:
        if args.epochs is None:
            raise WrongArgument(
                f"{upstream.name}'s training loop is endless and {config_file.name} has no number of epochs, so no run "
                "would ever end; give --epochs N"
            )
        config = f"{upstream.wrapper}:{config}"
    launch_args = None if args.accelerate_args is None else _split(args.accelerate_args)
    script_arguments = None
    if upstream.has_launch_script:
        line = read_launch_script(config_file)
        _check_launch_line(line, upstream, config_file, clone, miniature)
        script_arguments = line.arguments
        launch_args = line.options if launch_args is None else launch_args
    each = args.gpus_per_run if resources is None else resources.gpus or None
    if resources is None:
        jobs, gpus, told = _divide(args, len(arms) * len(args.seeds), launch_args)
    else:
        jobs, gpus, told = 1, tuple(map(str, range(resources.gpus))), []
        _check_processes(launch_args, resources.gpus, "--slurm gpus=")
    for note in [*notes, *told]:
        print(f"note: {note}")
    return Request(
        upstream=upstream,
        clone=clone,
        arms=arms,
        seeds=args.seeds,
        epochs=args.epochs,
        out=absolute(args.out or Path("pcpo_ab") / upstream.name),
        config=config,
        config_file=config_file,
        miniature=miniature,
        accelerate_args=launch_args,
        overrides=args.overrides,
        script_arguments=script_arguments,
        jobs=jobs,
        gpus=gpus,
        each=each,
        elsewhere=resources is not None,
    )


def _divide(
    args: argparse.Namespace, runs: int, launch_args: list[str] | None
) -> tuple[int, tuple[str, ...], list[str]]:
    """Runs at a time, the GPUs that are divided among them, and a line that says so."""
    from pcpo_overlay.tools.ab.plan import cores, visible_gpus

    each = args.gpus_per_run
    if each is None:
        return args.jobs or 1, (), []
    gpus = visible_gpus(os.environ)
    have, what = (len(gpus), "GPUs") if gpus else (cores(), "cores, since there is no GPU")
    most = have // each
    if most < (args.jobs or 1):
        at_once = f" for --jobs {args.jobs}" if args.jobs else ""
        raise WrongArgument(f"--gpus-per-run {each}{at_once} is more than the {have} {what}")
    if gpus:
        _check_processes(launch_args, each, "--gpus-per-run ")
    jobs = args.jobs or min(most, runs)
    return jobs, gpus, [f"{jobs} runs at a time, each with {each} of {have} {what}"]


def _check_processes(launch_args: list[str] | None, gpus: int, option: str) -> None:
    """Refuse launch options that start another number of processes on a machine than it has GPUs."""
    from pcpo_overlay.tools.ab.plan import processes_of

    started = processes_of(launch_args or ())
    if gpus and started not in (None, gpus):
        raise WrongArgument(
            f"the launch options start {started} processes on a machine, and {option}{gpus} gives it {gpus} GPUs: say "
            "the same in both, with --launch-args"
        )


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise WrongArgument(f"--launch-args {text}: {told(error)}") from None


def _find_upstream(name: str, trainer: str | None) -> Upstream:
    choices = CHOICES.get(name)
    if trainer is None and name in UPSTREAMS:
        return UPSTREAMS[name]
    if choices is None:
        raise WrongArgument(f"--trainer is for {' and '.join(CHOICES)}; {name} has one trainer")
    if trainer is None or trainer not in choices:
        raise WrongArgument(f"{name} has several trainers; give --trainer {'|'.join(choices)}")
    return choices[trainer]


#: Of a launch script's arguments those that name what has to be there, with what makes it.
_READ_BY_FLUX = {
    "--pretrained_model_name_or_path": "download the model to there",
    "--data_json_path": "make it: python -m pcpo_overlay embed flux --help",
}


def _check_launch_line(
    line: LaunchLine, upstream: Upstream, file: Path, clone: Path, miniature: bool
) -> None:
    """Refuse a launch script of another trainer, and find out before the first run what it would miss."""
    from pcpo_overlay.tools.ab import ABError

    if Path(line.script).name != Path(upstream.script).name:
        raise WrongArgument(f"{file} launches {line.script}, not {upstream.script}; give --trainer for it")
    if miniature:
        return
    for flag, value in pairwise(line.arguments):
        if flag in _READ_BY_FLUX and not (clone / value).exists():
            raise ABError(f"{file} reads {value} ({flag}), which {clone} lacks; {_READ_BY_FLUX[flag]}")


def vendor_folder() -> Path:
    """Where apply.py puts clones by itself: beside it in a checkout, else below the current folder."""
    return (PACKAGE.parent if (PACKAGE.parent / "apply.py").exists() else Path()) / "vendor"


def _find_clone(upstream: Upstream, vendor: Path | None, clone: Path | None) -> Path:
    """The patched clone, or an error with the very command that makes it."""
    from pcpo_overlay.tools.ab import ABError

    apply = PACKAGE.parent / "apply.py"
    here = apply.exists()
    command = ["python", os.path.relpath(apply) if here else "apply.py", upstream.clone]
    if clone is not None:
        command += ["--into", str(clone)]
    elif vendor is not None:
        command += ["--dest", str(vendor)]
    elif not here:
        command += ["--dest", "vendor"]
    found = clone or (vendor or vendor_folder()) / upstream.clone
    script = absolute(found) / upstream.script
    where = "" if here else " (in a checkout of this project)"
    if not script.is_file():
        raise ABError(
            f"there is no clone of {upstream.clone} at {found}; make it with: {shlex.join(command)}{where}"
        )
    if "pcpo_overlay" not in script.read_text(encoding="utf-8", errors="replace"):
        raise ABError(f"the clone at {found} is not patched; patch it with: {shlex.join(command)}{where}")
    return absolute(found)


def _find_config(upstream: Upstream, given: str | None, clone: Path) -> tuple[str, Path]:
    """The value for the script's --config with its file absolute, and that file."""
    from pcpo_overlay.tools.ab import ABError

    if given is None:
        if not upstream.config.is_file():
            raise ABError(f"the miniature's config {upstream.config} is missing; install the package again")
        return str(upstream.config), upstream.config
    if given == ANIMALS:
        if upstream.animals is None:
            raise WrongArgument(f"{upstream.name} has no miniature of animals; leave --config for its own")
        return str(upstream.animals), upstream.animals
    name, colon, rest = given.partition(":")
    for base in (Path(), clone):
        file = absolute(Path(name) if name.startswith("~") else base / name)
        if file.is_file():
            return f"{file}{colon}{rest}", file
    raise ABError(f"--config {given}: there is no file {name}, neither here nor in {clone}")


def require_libraries(slurm: bool = False) -> None:
    """Find out before the first run what the last step would miss."""
    from pcpo_overlay.tools.ab import ABError

    needed = ("accelerate", "filelock", "matplotlib", *(("submitit",) if slurm else ()))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        extras = "ab,slurm" if slurm else "ab"
        raise ABError(f'missing: {", ".join(missing)}; install with: pip install "pcpo-overlay[{extras}]"')


def _status(args: argparse.Namespace, request: Request, plan: list[Planned]) -> int:
    """Say how far each run is, and report when all are finished."""
    from pcpo_overlay.tools.ab.slurm import in_queue, standing

    jobs = in_queue(plan, request.out)
    states = [standing(planned, jobs.get(planned.name)) for planned in plan]
    for planned, state in zip(plan, states, strict=True):
        print(f"{planned.name}: {state}")
    if any(state != "finished" for state in states):
        return 0
    return _report(args, request, plan)


def _report(args: argparse.Namespace, request: Request, plan: list[Planned]) -> int:
    from pcpo_overlay.tools.cli.report import write

    folders = [planned.folder for planned in plan if (planned.folder / "run.json").exists()]
    return write(folders, request.out / "report", command="ab", tell=args.tell, thresholds=args.thresholds)


def _run(args: argparse.Namespace, request: Request, plan: list[Planned], resources: Resources | None) -> int:
    from pcpo_overlay.tools.ab import ABError, slurm
    from pcpo_overlay.tools.ab.runner import LOCK, Interrupted, run_all
    from pcpo_overlay.tools.progress import make_display
    from pcpo_overlay.tools.report.build import COMMAND

    require_libraries(resources is not None)
    report = request.out / "report"
    with held(request.out / LOCK, f"another A/B command is at work in {request.out}"):
        check_writable(report, COMMAND)  # before the hours that lead to it
        if request.prepared is not None:
            from pcpo_overlay.tools.miniature.dancegrpo.data import prepare

            prepare(request.prepared, animals=request.draws_animals)
        display = make_display([planned.name for planned in plan], request.epochs, step="epoch")
        try:
            if resources is not None:
                failed = slurm.run_all(plan, resources, request.nodes, request.out, display)
            else:
                _refuse_submitted(plan, request.out)
                failed = run_all(plan, display, request.shares)
        except Interrupted:
            if resources is None:
                raise Stopped(
                    "stopped; finished runs are kept, type the same command again to go on"
                ) from None
            raise Stopped(
                "no longer watching; the jobs stay in the queue. Type the same command again to watch on, with "
                "--status for a look; scancel ends a job"
            ) from None
        code = _report(args, request, plan)
    if failed:
        which = "; ".join(planned.name for planned in failed)
        raise ABError(
            f"{len(failed)} of {len(plan)} runs failed: {which}. Type the same command again to repeat only those"
        )
    return code


def _refuse_submitted(plan: list[Planned], out: Path) -> None:
    """A run that waits in SLURM's queue is not run here too."""
    from pcpo_overlay.tools.ab import ABError
    from pcpo_overlay.tools.ab.slurm import in_queue

    for name, job in in_queue(plan, out).items():
        raise ABError(f"{name} is SLURM's {job}; wait for it with --slurm, or end it with: scancel {job.id}")
