"""``report``: compare run folders and write figures, tables and numbers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcpo_overlay.tools.cli.arguments import at_least, thresholds
from pcpo_overlay.tools.faults import WrongArgument, complain, printable, told

if TYPE_CHECKING:
    from pcpo_overlay.tools.report.compare import Document

_DESCRIPTION = """\
Compare runs of one or more upstreams: reward curves, clipping, gradients, epochs
to reach reward thresholds with speed-ups, time and memory; where runs recorded
them, validation reward and KL, and the one against the other; where they were
evaluated (see: pcpo evaluate), quality at matched reward and the paper's linear
mixed model: the evaluated reward comes first, since it compares arms whatever
sampler they draw with. Runs are grouped by upstream, mode and options, and by
batch size where there are several; each group may hold several seeds.
Writes report.md, report.json and one PNG per figure.

Or compare scored folders (see: pcpo sample, pcpo score) on whatever metrics they
have: each is an arm, or the folders of one training are named with --arm. Of two arms
the mixed model of the paper's Tables 3 and 4 is of the folders as they are, or, with
--reward METRIC, at matched reward. --paper-table sets the paper's numbers below yours.
"""
_EPILOG = """\
Exit codes: 0 done; 1 a run folder could not be read (the report covers the
others) or there is nothing to compare; 2 a wrong argument.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``report`` subcommand."""
    parser = subparsers.add_parser(
        "report",
        help="compare run folders: figures, Markdown and JSON",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="a run folder, or a folder that holds several; or scored folders",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("pcpo_report"),
        metavar="DIR",
        help="where to write; a report that is there is replaced, anything else is refused (default: %(default)s)",
    )
    parser.add_argument(
        "--thresholds",
        type=thresholds,
        metavar="A,B,...",
        help="reward levels of the tables on speed-up and on quality; write --thresholds=-60,-50 where the first is "
        "negative "
        "(default: four, chosen from the data by a rule that treats all arms alike)",
    )
    parser.add_argument(
        "--window",
        type=at_least(1),
        metavar="N",
        help="epochs of the moving average (default: 5)",
    )
    parser.add_argument(
        "--baseline", metavar="LABEL", help="the arm to compare with (default: observe, else the first)"
    )
    scored = parser.add_argument_group("of scored folders")
    scored.add_argument(
        "--arm",
        type=training,
        action="append",
        default=[],
        metavar="NAME[:BATCH]=DIR[@EPOCH],...",
        help="folders of one training of an arm, with the epochs of training before each and the samples of an epoch; "
        "given several times with one name they are the arm's seeds",
    )
    scored.add_argument("--reward", metavar="METRIC", help="match arms by this metric")
    scored.add_argument(
        "--paper-table",
        action="append",
        default=[],
        choices=("2", "5", "9"),
        help="this table of the paper, with your numbers above the paper's. May be given several times",
    )
    parser.set_defaults(func=run)


def training(text: str) -> tuple[str, int | None, list[tuple[Path, float | None]]]:
    """``NAME[:BATCH]=DIR[@EPOCH],...``: the arm, its batch size, and the folders with their epochs."""
    named = re.fullmatch(r"([^=:]+)(?::([1-9]\d{0,8}))?=(.+)", text)
    if named is None:
        raise argparse.ArgumentTypeError(f"expected NAME[:BATCH]=DIR[@EPOCH],..., got {text!r:.120}")
    folders: list[tuple[Path, float | None]] = []
    for part in named[3].split(","):
        path, at, epoch = part.rpartition("@")
        if at and re.fullmatch(r"\d{1,9}", epoch):
            folders.append((Path(path), float(epoch)))
        else:
            folders.append((Path(part), None))
    return named[1], None if named[2] is None else int(named[2]), folders


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from pcpo_overlay.tools.report.stats import WINDOW
    from pcpo_overlay.tools.runs.run import find

    scored = [path for path in args.runs if (path / "sample.json").is_file()]
    if args.arm or args.reward or args.paper_table or scored:
        return _scored(args, scored)
    if not args.runs:
        raise WrongArgument("name run folders, or scored ones")
    folders, errors = find(args.runs)
    for error in errors:
        complain("pcpo report", error)
    code = write(
        folders,
        args.out,
        command="report",
        thresholds=args.thresholds,
        window=args.window or WINDOW,
        baseline=args.baseline,
    )
    return 1 if errors else code


def _scored(args: argparse.Namespace, scored: Sequence[Path]) -> int:
    """Compare scored folders."""
    from pcpo_overlay.tools.report.build import MARKDOWN
    from pcpo_overlay.tools.report.scored import Training, build

    other = [path for path in args.runs if path not in scored]
    if other:
        raise WrongArgument(
            f"{other[0]} is no scored folder, and --arm, --reward, --paper-table and scored folders are for those alone"
        )
    if args.window is not None:
        raise WrongArgument("--window is for run folders: scored folders are not smoothed")
    if args.thresholds is not None and args.reward is None:
        raise WrongArgument("--thresholds are levels of a reward: say which metric with --reward")
    report, tables = build(
        args.runs,
        [Training(name, folders, batch) for name, batch, folders in args.arm],
        args.out,
        reward=args.reward,
        thresholds=args.thresholds,
        baseline=args.baseline,
        tables=args.paper_table,
    )
    for note in report.notes:
        print(f"note: {note}")
    for title, text in tables.items():
        print(f"\n{title}\n\n{text}")
    print(f"\nreport: {printable(args.out / MARKDOWN)}")
    return 0


def tell(document: Document) -> None:
    """Print a report's notes and warnings, and the table that says which arm is faster."""
    for note in document.notes:
        print(f"note: {note}")
    for comparison in document.comparisons:
        for warning in comparison.warnings:
            print(f"WARNING: {warning}")
        title, text = comparison.main_table()
        print(f"\n{comparison.title}: {title[0].lower()}{title[1:]}\n\n{text}")


def write(
    folders: Sequence[Path],
    out: Path,
    *,
    command: str,
    tell: Callable[[Document], None] = tell,
    **options: Any,
) -> int:
    """Read run folders, write the report into ``out`` and print what it comes to.

    Args:
        folders: run folders; one that cannot be read is named on stderr and left out.
        out: the report's folder.
        command: the command's name, for messages.
        tell: prints what the report comes to.
        options: of :func:`pcpo_overlay.tools.report.build.build`.

    Returns:
        The exit code: 0, or 1 where a folder could not be read.

    Raises:
        ReportError: nothing could be read, compared or written.
        FolderError: ``out`` holds what no report left there.
    """
    from pcpo_overlay.tools.report.arms import ReportError
    from pcpo_overlay.tools.report.build import MARKDOWN, build
    from pcpo_overlay.tools.runs.files import RunError
    from pcpo_overlay.tools.runs.run import load

    runs, code = [], 0
    for folder in folders:
        try:
            runs.append(load(folder))
        except RunError as error:
            complain(f"pcpo {command}", error)
            code = 1
    if not runs:
        raise ReportError("no run could be read; no report is written")
    try:
        document = build(runs, out, **options)
    except OSError as error:
        raise ReportError(f"{out} cannot be written: {told(error)}") from None
    tell(document)
    print(f"\nreport: {printable(out / MARKDOWN)}")
    return code
