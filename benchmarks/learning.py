"""Does PCPO learn faster, and what of it: several seeds of every mode on a miniature, a smaller batch, other settings.

    python -m benchmarks.learning STUDY [options]

Runs `ab` for each part of the study, `evaluate` on the checkpoints, and writes benchmarks/learning/STUDY.md with its
figures; powers and guard have pages of their own, STUDY-powers.md and STUDY-guard.md. Needs a patched clone (`python
apply.py`). Hours on a CPU; what is finished is not repeated, so type the same command again to go on after a stop.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import ROOT
from benchmarks.measuring import machine, study_page
from benchmarks.measuring.arguments import some_of
from benchmarks.measuring.study import (
    KINDS,
    LADDER,
    OF_LADDER,
    SEEDS,
    SMALLER,
    STUDIES,
    SWEPT,
    Part,
    Rivals,
    Study,
    Sweep,
    command,
    parts,
    python,
)
from benchmarks.measuring.study_data import StudyData
from pcpo_overlay.config import parse
from pcpo_overlay.tools.cli.arguments import at_least, seeds
from pcpo_overlay.tools.report.build import build, save
from pcpo_overlay.tools.report.compare import Comparison
from pcpo_overlay.tools.runs.labels import label_of
from pcpo_overlay.tools.runs.run import Run, find, load

PAGES = ROOT / "benchmarks" / "learning"
FIGURES = ROOT / "benchmarks" / "figures"
DATA = ROOT / "benchmarks" / "data"
#: Figures of the ladder by what their files' names end in, with their captions.
SHOWN = {
    "": "Epochs to reach an evaluated reward, and the reward at the end, of every arm",
    "-quality": "Accuracy, diversity and Fréchet distance at matched reward, difference to the baseline",
}
_EPILOG = """\
Exit codes: 0 done; 1 a run or an evaluation failed (its command says why; the
same command again repeats only that); 2 a wrong argument; 130 stopped by Ctrl-C.
"""


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    study: Study = STUDIES[args.study]
    out = (args.out or Path("pcpo_ab") / "learning" / study.name).resolve()
    chosen = parts(study, args.seeds, args.parts)
    commands = [command(study, part, out, args.jobs, args.vendor, args.epochs) for part in chosen]
    if args.dry_run:
        print("\n".join(shlex.join(_typed(words, out)) for words in commands))
        return 0
    try:
        for part, words in () if args.only_pages else zip(chosen, commands, strict=True):
            print(f"learning: {study.name}, {part.name}", file=sys.stderr, flush=True)
            code = subprocess.run(python(words), cwd=ROOT, check=False).returncode
            code = code or _evaluate(part, out, args.jobs)
            if code:
                print(f"learning: {part.name} is not done; type the same command to go on", file=sys.stderr)
                return 130 if code == 130 else 1
    except KeyboardInterrupt:
        return 130
    runs = runs_of(chosen, out)
    if lacking := [part.name for part in chosen if len(runs[part.name]) < len(part.modes) * len(part.seeds)]:
        print(f"learning: {out} has not all runs of {', '.join(lacking)}", file=sys.stderr)
        return 1
    places = (args.pages, args.figures, args.data)
    of_rivals = {rivals.kind: rivals for rivals in study.rivals}
    print(write(study, [part for part in chosen if part.kind not in of_rivals], runs, out, *places))
    for part in chosen:
        if part.kind in of_rivals:
            print(write_rivals(study, of_rivals[part.kind], chosen[0], part, runs, out, *places))
    return 0


def runs_of(made: Sequence[Part], out: Path) -> dict[str, list[Run]]:
    """The finished runs of each part, by its name, with the seeds that are asked for: there may be more beside them."""
    held = {part.name: [load(folder) for folder in find([out / part.name])[0]] for part in made}
    return {
        part.name: [run for run in held[part.name] if run.seed in part.seeds and run.finished]
        for part in made
    }


def _typed(words: Sequence[str], out: Path) -> list[str]:
    """A command as it would be typed in a checkout."""
    places = {str(out): f"pcpo_ab/learning/{out.name}", str(ROOT) + os.sep: ""}
    typed = ["python"]
    for word in words:
        for place, name in places.items():
            word = word.replace(place, name)
        typed.append(word)
    return typed


def _evaluate(part: Part, out: Path, jobs: int) -> int:
    """Evaluate the runs of a part, so many at a time; the highest exit code.

    A run of another seed, which may have been stopped, is left to the command that asks for it.
    """
    runs = [run.path for run in runs_of([part], out)[part.name]]
    threads = {"OMP_NUM_THREADS": str(max(1, machine.cores() // jobs))}

    def one(share: Sequence[Path]) -> int:
        words = ["-m", "pcpo_overlay", "evaluate", *map(str, share)]
        return subprocess.run(python(words), cwd=ROOT, env={**os.environ, **threads}, check=False).returncode

    with ThreadPoolExecutor(jobs) as pool:
        return max(pool.map(one, [runs[n::jobs] for n in range(min(jobs, len(runs)))]))


def write(
    study: Study,
    made: Sequence[Part],
    runs: Mapping[str, Sequence[Run]],
    out: Path,
    pages: Path,
    figures: Path,
    data: Path,
) -> Path:
    """The page of a study whose parts are run, and, with the ladder, its figures and the numbers behind them.

    Args:
        made: the parts, first the one that the others are held against.
        runs: by the name of their part.

    Returns:
        The page.
    """
    middle = made[0]
    kinds = [kind for kind in KINDS if any(part.kind == kind for part in made)]
    name = study.name if middle.kind == LADDER else "-".join([study.name, *kinds])
    document = build([*runs[middle.name], *runs.get(SMALLER, [])], out / "report")
    main_table = max(document.comparisons, key=lambda c: c.batch_size or 0)
    commands = _commands(study, made, kinds, out)
    every = [run for part in made for run in runs[part.name]]
    shown = []
    if middle.kind == LADDER and main_table.quality is not None:
        kept = StudyData.of(name, study.told, main_table, commands, study_page.machine(every))
        shown = _figures(kept, pages, figures, data)
    sweeps = _sweeps(study, middle, runs, main_table)
    return _kept(pages / f"{name}.md", study_page.page(study.told, document, sweeps, commands, every, shown))


def write_rivals(
    study: Study,
    rivals: Rivals,
    ladder: Part,
    part: Part,
    runs: Mapping[str, Sequence[Run]],
    out: Path,
    pages: Path,
    figures: Path,
    data: Path,
) -> Path:
    """The page of further arms beside some of the ladder's, its figures and the numbers behind them.

    Args:
        ladder, part: the two that were run.
        runs: by the name of their part.

    Returns:
        The page.
    """
    name, told = f"{study.name}-{part.name}", f"{study.told}: {rivals.told}"
    beside = {_label(study.arms[arm], runs[ladder.name][0].upstream) for arm in rivals.beside}
    every = [run for run in runs[ladder.name] if run.label in beside] + list(runs[part.name])
    document = build(every, out / f"report-{part.name}")
    (comparison,) = document.comparisons
    commands = _commands(study, [ladder, part], [ladder.kind, part.kind], out)
    shown = []
    if comparison.quality is not None:
        kept = StudyData.of(name, told, comparison, commands, study_page.machine(every))
        shown = _figures(kept, pages, figures, data)
    return _kept(pages / f"{name}.md", study_page.page(told, document, [], commands, every, shown))


def _label(mode: str, upstream: str) -> str:
    return label_of(parse(mode).on(upstream), upstream)


def _kept(page: Path, text: str) -> Path:
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    return page


def _commands(study: Study, made: Sequence[Part], kinds: Sequence[str], out: Path) -> list[list[str]]:
    """The study's own command, and those that it runs."""
    return [
        _own_command(study, made[0], kinds), *(_typed(command(study, part, out, 2), out) for part in made),
    ]  # fmt: skip


def _own_command(study: Study, middle: Part, kinds: Sequence[str]) -> list[str]:
    """The command that runs these parts of a study, without what it does by itself."""
    typed = ["python", "-m", "benchmarks.learning", study.name]
    if middle.seeds != parts(study, kinds=kinds)[0].seeds:
        typed += ["--seeds", ",".join(map(str, middle.seeds))]
    if tuple(kinds) != study.kinds:
        typed += ["--parts", ",".join(kinds)]
    return typed


def _figures(kept: StudyData, pages: Path, figures: Path, data: Path) -> list[tuple[str, str]]:
    """Keep the numbers and draw the figures: captions, and paths relative to the page."""
    kept.write(data / f"{kept.study}.json")
    shown = []
    for end, figure in kept.figures().items():
        path = figures / f"learning-{kept.study}{end}.png"
        save(figure, path)
        shown.append((SHOWN[end], os.path.relpath(path, pages)))
    return shown


def _sweeps(
    study: Study, middle: Part, runs: Mapping[str, Sequence[Run]], main_table: Comparison
) -> list[tuple[Sweep, str]]:
    """What was swept, and its table: the trio at the value of ``middle`` and at the others that were run."""
    upstream = main_table.upstream
    trio = {_label(mode, upstream) for mode in study.trio}
    seeds_swept = middle.seeds[:SWEPT]
    made = []
    for sweep in study.sweeps:
        others = {value: sweep.part(value) for value in sweep.others if sweep.part(value) in runs}
        if not others:
            continue
        by_value = {
            value: [run for run in runs[part] if run.label in trio and run.seed in seeds_swept]
            for value, part in {sweep.value: middle.name, **others}.items()
        }
        levels = [level.reward for level in main_table.quality.levels] if main_table.quality else []
        made.append((sweep, study_page.sweep_table(sweep, by_value, levels, main_table.baseline)))
    return made


def _parse(argv: list[str] | None) -> argparse.Namespace:
    studies = "\n".join(f"  {study.name:15} {study.told}" for study in STUDIES.values())
    parser = argparse.ArgumentParser(
        prog="learning",
        description=(__doc__ or "").partition("\n")[0] + "\n\nStudies:\n" + studies,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=list(STUDIES), metavar="STUDY", help="which (see above)")
    parser.add_argument(
        "--seeds",
        type=seeds,
        default=list(SEEDS),
        metavar="S,...",
        help="(default: 0,1,2,3,4)",
    )
    parser.add_argument(
        "--parts",
        type=some_of(KINDS, "part"),
        metavar="A,...",
        help=f"of {', '.join(KINDS)} (default: all that the study has); the page is of what is asked for. "
        "Without the ladder a sweep runs its arms at the ladder's setting too, and has its own page, STUDY-rates.md",
    )
    parser.add_argument("--epochs", type=at_least(2), metavar="N", help="of each run (default: the study's)")
    parser.add_argument(
        "--jobs",
        type=at_least(1),
        default=2,
        metavar="N",
        help="runs at a time, which share the machine (default: 2)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="(default: pcpo_ab/learning/STUDY)")
    parser.add_argument("--vendor", type=Path, metavar="DIR", help="folder of clones (default: vendor)")
    parser.add_argument(
        "--pages", type=Path, default=PAGES, metavar="DIR", help="(default: benchmarks/learning)"
    )
    parser.add_argument(
        "--figures", type=Path, default=FIGURES, metavar="DIR", help="(default: benchmarks/figures)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA,
        metavar="DIR",
        help="numbers behind the figures (default: benchmarks/data)",
    )
    parser.add_argument(
        "--only-pages",
        action="store_true",
        help="run nothing: write the pages of runs that are there, with fewer --seeds than there will be for one",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    args = parser.parse_args(argv)
    has = STUDIES[args.study].kinds
    args.parts = args.parts or has
    if missing := [kind for kind in args.parts if kind not in has]:
        parser.error(f"--parts: {args.study} has no {' and no '.join(missing)}")
    if LADDER not in args.parts and (held := [kind for kind in args.parts if kind in OF_LADDER]):
        parser.error(f"--parts has {held[0]} without {LADDER}, which it is held against")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
