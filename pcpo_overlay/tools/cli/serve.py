"""``serve``: the reward of the paper's configurations 3 and 4, as the server that ddpo-pytorch's client asks."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pcpo_overlay.tools.cli.arguments import at_least

T = TypeVar("T")
_LOOPBACK = ("127.0.0.1", "localhost")
_DESCRIPTION = """\
Answer ddpo-pytorch's reward llava_bertscore (and llava_strict_satisfaction): a
Qwen2.5-VL says what is in each image, and BERTScore compares that with the prompt.
The trainer asks at http://127.0.0.1:8085, which is the default, and waits until the
models are loaded. Run it in an environment of its own, on a GPU of its own.
"""
_EPILOG = """\
  pip install "pcpo-overlay[serve]"
  CUDA_VISIBLE_DEVICES=3 pcpo serve vlm-bertscore
  curl http://127.0.0.1:8085/health

Exit codes: 1 it could not be served (a message says why); 2 a wrong argument; 70 a
fault of pcpo itself (the message names a file with the traceback); 130 stopped by
Ctrl-C or a signal.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the ``serve`` subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="the VLM reward of configurations 3 and 4, for ddpo-pytorch's own client",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("reward", choices=("vlm-bertscore",), help="what is served")
    parser.add_argument(
        "--model",
        default="Qwen/Qwen2.5-VL-3B-Instruct",
        metavar="MODEL",
        help="a Qwen2.5-VL's folder or its name on the hub (default: %(default)s)",
    )
    parser.add_argument(
        "--encoder",
        default="microsoft/deberta-xlarge-mnli",
        metavar="MODEL",
        help="BERTScore's (default: %(default)s)",
    )
    parser.add_argument(
        "--layer",
        type=at_least(1),
        metavar="N",
        help="of the encoder (default: as bert-score's table has it)",
    )
    parser.add_argument(
        "--tokens",
        type=at_least(1, 4096),
        default=64,
        metavar="N",
        help="of an answer, at most (default: 64)",
    )
    parser.add_argument(
        "--batch", type=at_least(1, 256), default=16, metavar="N", help="questions at a time (default: 16)"
    )
    parser.add_argument(
        "--host",
        default=_LOOPBACK[0],
        metavar="ADDRESS",
        help="to listen on; without a password, whoever reaches it can use it (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=at_least(1, 65535), default=8085, metavar="N", help="(default: 8085, the client's)"
    )
    parser.add_argument(
        "--queue",
        type=at_least(1),
        default=64,
        metavar="N",
        help="requests that wait, before a client is told to ask again (default: 64)",
    )
    parser.add_argument(
        "--cache", type=at_least(0), default=1024, metavar="N", help="answers that are kept (default: 1024)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: a GPU, if there is one)")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch

    from pcpo_overlay.tools.ab.runner import stoppable
    from pcpo_overlay.tools.faults import Stopped, WrongArgument, require

    try:
        device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise WrongArgument(f"--device {args.device!r:.40} is none that torch knows") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise WrongArgument(f"--device {args.device}: torch {torch.__version__} finds no GPU here")
    listening = _listen(args.host, args.port)
    try:
        with listening, stoppable():
            for module in ("starlette", "uvicorn", "bert_score", "transformers", "PIL"):
                require(module, "serve needs", "serve")
            from pcpo_overlay.tools.serve.app import make_app, make_server
            from pcpo_overlay.tools.serve.bertscore import BERTScore
            from pcpo_overlay.tools.serve.reward import make_reward
            from pcpo_overlay.tools.serve.vlm import VLM
            from pcpo_overlay.tools.serve.worker import Worker

            _quiet()
            where = f"http://{args.host}:{args.port}"
            _say(f"loading {args.model} and {args.encoder} on {device}; {where} waits until they are there")
            vlm = _loaded(args.model, lambda: VLM(args.model, device, args.tokens, args.batch))
            scorer = _loaded(args.encoder, lambda: BERTScore(args.encoder, device, args.layer))
            about = {
                "reward": args.reward,
                "model": args.model,
                "encoder": args.encoder,
                "layer": scorer.layer,
                "tokens": args.tokens,
                "batch": args.batch,
                "device": str(device),
                "dtype": str(vlm.dtype).removeprefix("torch."),
                "versions": {
                    name: importlib.metadata.version(name)
                    for name in ("pcpo-overlay", "torch", "transformers", "bert-score")
                },
            }
            worker = Worker(make_reward(vlm, scorer), args.queue, args.cache, _say)
            loopback = args.host in _LOOPBACK
            if not loopback:
                _say(
                    f"{args.host} is not this machine alone: whoever reaches port {args.port} can use the model"
                )
            _say(f"ready: {json.dumps(about)}")
            try:
                app = make_app(worker, about, _say, list(_LOOPBACK) if loopback else ["*"])
                make_server(app).run(sockets=[listening])
            finally:
                worker.close()
    except KeyboardInterrupt:
        raise Stopped("stopped; a trainer that asks waits until it is started again") from None
    return 0


def _say(line: str) -> None:
    from pcpo_overlay.tools.faults import printable

    print(printable(line), file=sys.stderr, flush=True)


def _quiet() -> None:
    """No bars and notices of transformers between the lines of the log."""
    import transformers.utils.logging as logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before minutes are spent on loading; who asks meanwhile waits."""
    from pcpo_overlay.tools.faults import Fault, told

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        raise Fault(f"cannot listen on {host} port {port}: {told(error)}; see --host and --port") from None


def _loaded(name: str, load: Callable[[], T]) -> T:
    from pcpo_overlay.tools.faults import Fault, told

    try:
        return load()
    except (Fault, ImportError):
        raise
    except Exception as error:  # each library has errors of its own for a file that is damaged or missing
        if Path(name).is_dir():
            raise Fault(f"{name} cannot be loaded: {type(error).__name__}: {told(error)[:300]}") from None
        raise Fault(
            f"{name} is no folder here and cannot be had from https://huggingface.co/{name} ({type(error).__name__}: "
            f"{told(error)[:200]}); fetch it with hf download {name} where there is a network"
        ) from None
