"""The server: ``POST /`` for the client, ``GET /health`` for a person, a script or a supervisor.

The client sends again on 503 with a time to wait, and takes every other answer for a pickle. So 503 is for what passes
(a full queue, a fault of the machine), and the rest ends a training at once: 400, 408 and 413 with a line of text.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pcpo_overlay.tools.serve import protocol
from pcpo_overlay.tools.serve.worker import Busy, Worker

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request as Asked
    from starlette.responses import Response

#: Seconds that a body may take, and after which a client is to ask again.
BODY_S, AGAIN_S = 60, 2
#: Connections at once; a training has two a GPU.
MOST_CONNECTIONS = 1024


def make_app(
    worker: Worker, about: Mapping[str, Any], say: Callable[[str], None], hosts: list[str]
) -> Starlette:
    """The application.

    Args:
        worker: who answers.
        about: what is being served, for ``/health``.
        say: takes a line for the log.
        hosts: names by which it may be called; others are a web page's that had its own name point here.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    async def score(asked: Asked) -> Response:
        try:
            body = await asyncio.wait_for(_body(asked), BODY_S)
            request = protocol.read(body)
            if len(request.images) == 1 and request.answers is not None:
                say("a batch of one image: ddpo-pytorch's client fails at every answer to it")
            answer = await worker.ask(hashlib.sha256(body).digest(), request)
        except _TooLarge:
            return _refuse(413, f"a body has at most {protocol.MOST_BYTES} bytes")
        except (asyncio.TimeoutError, ClientDisconnect):
            return _refuse(408, f"the body did not come within {BODY_S} s")
        except protocol.Refused as error:
            return _refuse(400, str(error))
        except Busy as error:
            say(f"not now: {error}")
            return PlainTextResponse(f"not now: {error}\n", 503, {"Retry-After": str(AGAIN_S)})
        return Response(answer, media_type="application/octet-stream")

    def _refuse(status: int, why: str) -> Response:
        say(f"refused: {why}")
        # What was not read of a body would be taken for the next request.
        return PlainTextResponse(f"refused: {why}\n", status, {"Connection": "close"})

    async def health(_: Asked) -> Response:
        state = {
            "status": "ready" if worker.fault is None else "failing",
            "fault": worker.fault,
            "waiting": worker.waiting,
            "answered": worker.answered,
            "from_cache": worker.from_cache,
        }
        return JSONResponse({**state, **about}, 200 if worker.fault is None else 503)

    routes = [Route("/", score, methods=["POST"]), Route("/health", health)]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


class _TooLarge(Exception):
    pass


async def _body(asked: Asked) -> bytes:
    """The body; what is too large is read and dropped, since a client that is cut off would send it again."""
    body, size = bytearray(), 0
    async for part in asked.stream():
        size += len(part)
        if size <= protocol.MOST_BYTES:
            body += part
    if size > protocol.MOST_BYTES:
        raise _TooLarge
    return bytes(body)


def make_server(app: Starlette) -> uvicorn.Server:
    """A server, which ``run(sockets=[...])`` starts; on SIGINT and SIGTERM it ends, and raises them again."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
    )
