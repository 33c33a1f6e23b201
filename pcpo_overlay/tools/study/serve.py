"""A study's pages behind a socket: of this machine alone, or of others that know its token."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

from pcpo_overlay.tools.faults import require, told
from pcpo_overlay.tools.study import StudyError
from pcpo_overlay.tools.study.answers import Answers

LOOPBACK = "127.0.0.1"


def serve(answers: Answers, host: str | None, port: int, say: Callable[[str], None]) -> None:
    """Serve until a signal.

    Args:
        answers: of the study.
        host: address to listen at. None is this machine alone, without a token.
        port: 0 takes a free one.
        say: is told the address, once it can be opened.

    Raises:
        StudyError: the address cannot be had.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM.
        ImportError: a library of the extra is missing.
    """
    for library in ("starlette", "uvicorn", "jinja2"):
        require(library, "the study's pages need", "study")
    import uvicorn

    from pcpo_overlay.tools.study.app import make_app

    token = None if host is None else answers.token
    hosts = ["localhost", LOOPBACK] if host is None else ["*"]
    # no logging of uvicorn's own, which would close every handler that the process has; its warnings reach stderr
    config = uvicorn.Config(
        make_app(answers, token=token, hosts=hosts), log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    at = host or LOOPBACK
    try:
        listening = socket.create_server((at, port), family=socket.AF_INET6 if ":" in at else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        raise StudyError(
            f"{at} port {port} cannot be listened at: {told(error)}; take another --port, or another --host"
        ) from None
    with listening:
        shown = socket.gethostname() if at in ("0.0.0.0", "::") else f"[{at}]" if ":" in at else at
        query = "" if token is None else f"?token={token}"
        say(f"http://{shown}:{listening.getsockname()[1]}/{query}")
        # uvicorn ends in order, and then raises the signal again
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        uvicorn.Server(config).run(sockets=[listening])
