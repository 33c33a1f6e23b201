"""One thread that answers, a bounded queue before it, and a cache behind it.

The client gives up after 120 s and sends the same bytes again. So a request is known by their hash: while it waits or
is worked on, another of the same joins it, and afterwards its answer is there.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pcpo_overlay.tools.faults import told
from pcpo_overlay.tools.serve.protocol import Refused, Request, encode

#: A request that failed so often is refused. What passes, such as memory that another process took, has passed by then;
#: the client would try a thousand times.
TRIES = 5


class Busy(Exception):
    """Not now: the client is to ask again."""


class Worker:
    """Answers requests one after the other.

    Args:
        answer: the work; :class:`Refused` says that it can never be done.
        waiting: the most requests that wait or are worked on.
        kept: the most answers in the cache.
        say: takes a line for the log.
    """

    def __init__(
        self,
        answer: Callable[[Request], dict[str, list[list[Any]]]],
        waiting: int,
        kept: int,
        say: Callable[[str], None],
    ) -> None:
        self._answer, self._most, self._kept, self._say = answer, waiting, kept, say
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker")
        self._running: dict[bytes, asyncio.Task[bytes]] = {}
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._failures: OrderedDict[bytes, int] = OrderedDict()
        self.answered = self.from_cache = 0
        self.fault: str | None = None  # of the last request that was worked on

    @property
    def waiting(self) -> int:
        """Requests that wait or are worked on."""
        return len(self._running)

    async def ask(self, key: bytes, request: Request) -> bytes:
        """The answer to a request, which ``key`` stands for.

        Raises:
            Refused: it can never be answered, or it failed :data:`TRIES` times.
            Busy: the queue is full, or the work failed.
        """
        if key in self._cache:
            self._cache.move_to_end(key)
            self.from_cache += 1
            return self._cache[key]
        task = self._running.get(key)
        if task is None:
            if len(self._running) >= self._most:
                raise Busy(f"{self._most} requests are waiting")
            task = self._running[key] = asyncio.create_task(self._work(key, request))
        # Who asked may go: the answer is for who comes back, too.
        return await asyncio.shield(task)

    async def _work(self, key: bytes, request: Request) -> bytes:
        begin = time.monotonic()
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, request)
        except Refused:
            raise
        except Exception as error:
            self.fault = f"{type(error).__name__}: {told(error)[:300]}"
            self._failures[key] = self._failures.get(key, 0) + 1
            _shorten(self._failures, self._most)
            if self._failures[key] >= TRIES:
                raise Refused(f"it failed {TRIES} times, at last by {self.fault}") from None
            raise Busy(f"failed by {self.fault}") from None
        finally:
            del self._running[key]
        self.fault = None
        self.answered += 1
        self._failures.pop(key, None)
        body = self._cache[key] = encode(answer)
        _shorten(self._cache, self._kept)
        self._say(_line(answer, time.monotonic() - begin, self.waiting))
        return body

    def close(self) -> None:
        """Take no more work; what is under way ends first."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _shorten(table: OrderedDict[bytes, Any], most: int) -> None:
    while len(table) > most:
        table.popitem(last=False)


def _line(answer: dict[str, list[list[Any]]], seconds: float, waiting: int) -> str:
    recall = [value for row in answer.get("recall", []) for value in row]
    mean = f", mean recall {sum(recall) / len(recall):.4f}" if recall else ""
    return f"{len(answer['outputs'])} images{mean}, {seconds:.1f} s with its wait; {waiting} more wait"
