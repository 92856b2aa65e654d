"""The candidate as it is asked: by a client of its own, with nothing of the caller's but the question."""

import asyncio
import json
import os
import time
from typing import Any

from pytest_finetune.errors import SuiteError
from pytest_finetune.shadow.config import Mirror
from pytest_finetune.shadow.exchange import Reply
from pytest_finetune.shadow.replies import LARGEST_ANSWER, Replies, Taken
from pytest_finetune.shadow.upstream import NoAnswer, Received, Upstream

INSTRUCTING = ("system", "developer")


class Candidate:
    """Asks the candidate. Tools that it calls are noted, and never run.

    Raises:
        SuiteError: the URL is none, or the environment variable of the key is not set.
    """

    def __init__(self, url: str, mirror: Mirror, live: bool = False) -> None:
        self.upstream = Upstream("--candidate", url, 0 if live else mirror.connections)
        self.name = mirror.model or self.upstream.origin
        self._mirror = mirror
        key = os.environ.get(mirror.key_env, "") if mirror.key_env else ""
        if mirror.key_env and not key:
            raise SuiteError(f"[mirror] key_env = {mirror.key_env!r}: the environment has no such variable")
        self._key = [(b"authorization", f"Bearer {key}".encode("latin-1"))] if key else []

    def body(self, request: dict[str, Any]) -> bytes:
        """Return what the candidate is sent for a request: the same, by its own model name and system message."""
        sent = {**request, **({"model": self._mirror.model} if self._mirror.model else {})}
        turns = request.get("messages")
        if self._mirror.system and isinstance(turns, list):
            others = [turn for turn in turns if not (isinstance(turn, dict) and turn.get("role") in INSTRUCTING)]
            sent["messages"] = [{"role": "system", "content": self._mirror.system}, *others]
        return json.dumps(sent).encode()

    async def send(self, path: bytes, request: dict[str, Any]) -> Received:
        """Send it a request and return the head of its answer.

        Raises:
            NoAnswer: as ``Upstream.send``.
        """
        headers = [(b"content-type", b"application/json"), (b"accept", b"*/*"), (b"accept-encoding", b"identity")]
        content = self.body(request)
        timeout = self._mirror.timeout_seconds
        return await self.upstream.send("POST", path, [*headers, *self._key], content, timeout)

    async def ask(self, path: str, request: dict[str, Any], replies: Replies) -> Reply:
        """Ask it, and return its reply, whatever becomes of it."""
        started = time.perf_counter()
        taken = Taken()
        try:
            async with asyncio.timeout(self._mirror.timeout_seconds):
                received = await self.send(path.encode("latin-1"), request)
                try:
                    taken.head(received.status, received.headers)
                    async for piece in received.pieces():
                        taken.piece(piece, time.perf_counter() - started)
                        if taken.size > LARGEST_ANSWER:
                            taken.error = f"an answer of more than {LARGEST_ANSWER >> 20} MiB"
                            break
                finally:
                    received.close()
        except TimeoutError:
            taken.error = "timeout"
        except NoAnswer as error:
            taken.error = str(error)
        taken.seconds = time.perf_counter() - started
        return replies.of(taken)
