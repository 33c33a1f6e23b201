"""The pages of a study, as an ASGI application.

A page is whole without its script: a form that is answered with a redirect. The script adds keys, enlarged pictures and
sending again where the connection is lost. Nothing that is sent says which arm a picture is of, what its file is
called, or of which seed it is: a picture's address is that of the participant's question, and ``left`` or ``right``.
"""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from pcpo_overlay.tools.faults import complain
from pcpo_overlay.tools.study.answers import CHOICES, Answers

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PAGE = Path(__file__).with_name("page")
#: Bytes of a form; the longest has a token, or a choice for every category.
LARGEST_FORM = 16 * 2**10
#: Seconds that a browser remembers its participant: a year.
_REMEMBERED = 365 * 24 * 3600
#: Pixels of a side up to which a picture is enlarged in squares.
_SMALL = 128
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Cache-Control": "no-store",
}


def make_app(answers: Answers, *, token: str | None, hosts: list[str]) -> Starlette:
    """The application.

    Args:
        answers: of the study that is served.
        token: what a visitor has to know; None lets in everyone who can reach it.
        hosts: names under which it may be asked for, ``*`` for any. A page elsewhere cannot then lead a browser here.
    """
    from jinja2 import Environment, FileSystemLoader, select_autoescape
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
    from starlette.routing import Route

    study = answers.study
    template = Environment(
        loader=FileSystemLoader(PAGE), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    ).get_template("page.html")
    person, ticket = f"pcpo_study_{study.id}", f"pcpo_token_{study.id}"

    def page(view: str, status: int = 200, **values: object) -> Response:
        small = max(study.size) <= _SMALL
        text = template.render(view=view, study=study, choices=CHOICES, small=small, **values)
        return HTMLResponse(text, status, _HEADERS)

    def onward(cookie: str = "", value: str = "", secure: bool = False) -> Response:
        reply = RedirectResponse(".", 303, _HEADERS)
        if cookie:
            reply.set_cookie(cookie, value, max_age=_REMEMBERED, httponly=True, samesite="lax", secure=secure)
        return reply

    def fits(given: str) -> bool:
        return token is None or secrets.compare_digest(given.encode(), token.encode())

    def admitted(request: Request) -> None:
        if not fits(request.cookies.get(ticket, "")):
            raise HTTPException(403, "this study asks for a token; open its first page")

    async def form(request: Request) -> dict[str, str]:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_FORM:
                raise HTTPException(413, "this is more than a form of the study holds")
        return {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}

    async def show(request: Request) -> Response:
        given = request.query_params.get("token", "")
        if token is not None and given and fits(given):
            return onward(ticket, given, request.url.scheme == "https")
        if not fits(request.cookies.get(ticket, "")):
            return page("token", 403, wrong=bool(given))
        participant = request.cookies.get(person, "")
        if not await run_in_threadpool(answers.knows, participant):
            return page("welcome")
        question = await run_in_threadpool(answers.current, participant)
        return page("thanks") if question is None else page("question", question=question)

    async def admit(request: Request) -> Response:
        given = (await form(request)).get("token", "").strip()
        if token is None or not fits(given):
            return page("token", 403, wrong=True)
        return onward(ticket, given, request.url.scheme == "https")

    async def begin(request: Request) -> Response:
        admitted(request)
        if await run_in_threadpool(answers.knows, request.cookies.get(person, "")):
            return onward()
        return onward(person, await run_in_threadpool(answers.begin), request.url.scheme == "https")

    async def answer(request: Request) -> Response:
        admitted(request)
        given = await form(request)
        question = await run_in_threadpool(
            answers.question, request.cookies.get(person, ""), given.get("question", "")
        )
        if question is None:
            raise HTTPException(400, "this is none of your questions; open the study's first page")
        choices = {c.name: given.get(f"c{n}", "") for n, c in enumerate(study.categories)}
        if any(choice not in CHOICES for choice in choices.values()):
            raise HTTPException(400, "every question of the page needs an answer; go back and choose")
        await run_in_threadpool(answers.record, question, choices)
        return onward()

    async def picture(request: Request) -> Response:
        admitted(request)
        side = request.path_params["side"]
        question = await run_in_threadpool(
            answers.question, request.cookies.get(person, ""), request.path_params["key"]
        )
        if question is None or side not in ("left", "right"):
            raise HTTPException(404, "there is no such picture")
        data = await run_in_threadpool(study.picture(question.picture(side)).read_bytes)
        # of this question alone, so that a browser may keep it
        return Response(
            data, headers={**_HEADERS, "Cache-Control": "private, max-age=86400"}, media_type="image/png"
        )

    async def asset(request: Request) -> Response:
        return FileResponse(PAGE / request.url.path.rpartition("/")[2], headers=_HEADERS)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return PlainTextResponse(error.detail, error.status_code, {**(error.headers or {}), **_HEADERS})

    async def lost(request: Request, error: Exception) -> Response:
        complain("pcpo study", f"{answers.path}: {error}")
        return PlainTextResponse("the study cannot be reached just now; try again", 503, _HEADERS)

    return Starlette(
        routes=[
            Route("/", show),
            Route("/token", admit, methods=["POST"]),
            Route("/begin", begin, methods=["POST"]),
            Route("/answer", answer, methods=["POST"]),
            Route("/picture/{key}/{side}", picture),
            Route("/study.css", asset),
            Route("/study.js", asset),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
        exception_handlers={HTTPException: refused, sqlite3.Error: lost, OSError: lost},
    )
