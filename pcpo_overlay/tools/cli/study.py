"""``study``: a preference study of sampled folders: make it, serve it, report what people prefer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.cli.arguments import at_least, seed
from pcpo_overlay.tools.faults import Stopped, WrongArgument, printable
from pcpo_overlay.tools.progress import make_display

_DESCRIPTION = """\
Ask people which picture they prefer. `make` pairs pictures of the same prompt and
seed from folders of `pcpo sample`, the first arm against each of the others.
`serve` shows them, side by side and in random order, on a phone or a desktop.
`report` counts wins, ties and losses, as a table and as stacked bars.
"""
_EPILOG = """\
Exit codes: 0 done; 1 it could not be (a message says why); 2 a wrong argument;
70 a fault of pcpo itself (the message names a file with the traceback); 130
stopped by Ctrl-C or a signal (answers that were given stay).
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``study`` subcommand."""
    shape: dict[str, Any] = {"epilog": _EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "study", help="which pictures people prefer: make, serve and report a study", description=_DESCRIPTION, **shape
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    make = verbs.add_parser("make", help="pair pictures of sampled folders", **shape)
    make.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="folders of `pcpo sample`, two or more"
    )
    make.add_argument("--out", type=Path, required=True, metavar="STUDY", help="the study's folder")
    make.add_argument(
        "--pairs",
        type=at_least(1),
        default=10,
        metavar="N",
        help="of every prompt and comparison (default: 10)",
    )
    make.add_argument(
        "--questions", type=at_least(1), default=20, metavar="N",
        help="pairs that a participant is shown, at most (default: 20)",
    )  # fmt: skip
    make.add_argument("--labels", metavar="A,B,...", help="of the arms (default: the folders' names)")
    make.add_argument(
        "--category", type=category, action="append", metavar="NAME=QUESTION",
        help="what is asked of a pair, in place of the three that there are. May be given several times",
    )  # fmt: skip
    make.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of the choice among a prompt's seeds (default: 0)"
    )
    make.set_defaults(func=run_make)

    serve = verbs.add_parser("serve", help="show a study to people, and keep their answers", **shape)
    serve.add_argument("study", type=Path, metavar="STUDY", help="folder of `pcpo study make`")
    serve.add_argument(
        "--host", metavar="ADDRESS",
        help="listen there, and ask visitors for a token (default: this machine alone, and no token)",
    )  # fmt: skip
    serve.add_argument(
        "--port", type=at_least(0, 65535), default=8020, metavar="N", help="0 is any free one (default: 8020)"
    )
    serve.set_defaults(func=run_serve)

    report = verbs.add_parser("report", help="wins, ties and losses of the answers so far", **shape)
    report.add_argument("study", type=Path, metavar="STUDY", help="folder of `pcpo study make`")
    report.add_argument(
        "--out", type=Path, default=Path("pcpo_study_report"), metavar="DIR",
        help="where to write; a report that is there is replaced, anything else is refused (default: %(default)s)",
    )  # fmt: skip
    report.set_defaults(func=run_report)


def category(text: str) -> tuple[str, str]:
    """``NAME=QUESTION``."""
    name, equals, question = (part.strip() for part in text.partition("="))
    if not equals or not name or not question:
        raise argparse.ArgumentTypeError(f"expected NAME=QUESTION, got {text!r:.80}")
    return name, question


def run_make(args: argparse.Namespace) -> int:
    """Run ``study make``."""
    from pcpo_overlay.tools.sample.folder import load
    from pcpo_overlay.tools.study.pairs import CATEGORIES, Category, make

    if len(args.folders) < 2:
        raise WrongArgument("a study compares two folders of pictures or more")
    names = args.labels.split(",") if args.labels else None
    if names and len(names) != len(args.folders):
        raise WrongArgument(f"{len(names)} labels for {len(args.folders)} folders")
    categories = [Category(*one) for one in args.category] if args.category else CATEGORIES
    if len({c.name for c in categories}) < len(categories):
        raise WrongArgument("two --category have the same name")
    folders = [load(path) for path in args.folders]
    with make_display([printable(args.out.name)], None, "pairs", sys.stderr) as display:
        display.started(0)
        study = make(
            folders, args.out, names=names or [folder.name for folder in folders], pairs=args.pairs,
            questions=args.questions, categories=categories, seed=args.seed,
            step=lambda done, total: display.step(0, done, total, "") if done % 50 == 0 or done == total else None,
        )  # fmt: skip
        display.ended(0, "done")
    print(
        f"{printable(args.out)}: {len(study.pairs)} pairs, of which every participant is shown {study.questions}; "
        f"next: pcpo study serve {printable(args.out)}"
    )
    return 0


def run_serve(args: argparse.Namespace) -> int:
    """Run ``study serve``."""
    from pcpo_overlay.tools.study.answers import Answers
    from pcpo_overlay.tools.study.pairs import load
    from pcpo_overlay.tools.study.serve import serve

    answers = Answers(load(args.study), create=True)

    def say(address: str) -> None:
        print(address, flush=True)
        print(f"Ctrl-C stops it; answers are in {printable(answers.path)}", file=sys.stderr, flush=True)

    try:
        serve(answers, args.host, args.port, say)
    except KeyboardInterrupt:
        raise Stopped(f"stopped; the answers are in {answers.path}, and the same command goes on") from None
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Run ``study report``."""
    from pcpo_overlay.tools.study.answers import Answers
    from pcpo_overlay.tools.study.pairs import load
    from pcpo_overlay.tools.study.report import MARKDOWN, report

    print(report(Answers(load(args.study), create=False), args.out))
    print(f"\nreport: {printable(args.out / MARKDOWN)}")
    return 0
