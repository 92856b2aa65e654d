"""The proxy: users are answered by the primary, byte by byte, and what passes is offered to the recorder."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_finetune import telemetry, wire
from pytest_finetune.shadow.exchange import Side
from pytest_finetune.shadow.meters import CONTENT_TYPE, Meters
from pytest_finetune.shadow.recorder import Recorder, Relayed
from pytest_finetune.shadow.replies import LARGEST_ANSWER, Taken
from pytest_finetune.shadow.router import Router
from pytest_finetune.shadow.upstream import Disconnected, Headers, NoAnswer, Received, Upstream, header, kept

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
LARGEST_QUESTION = 64 << 20
METRICS = "/metrics"
LAST = b"data: " + wire.DONE.encode()  # event of a stream


class CutOff(Exception):
    """An answer ended early: the server under us closes the connection, as the upstream did."""


@dataclass
class Asked:
    """A request that asks for an answer, held whole."""

    method: str
    path: bytes
    headers: Headers
    body: bytes
    header: str
    served: Side = "primary"

    @property
    def bare_path(self) -> bytes:
        """The path without its query, in which some callers send their key."""
        return self.path.partition(b"?")[0]


class Proxy:
    """An ASGI application.

    Args:
        primary: answers.
        recorder: is offered what was answered.
        router: says which conversations are the candidate's.
        meters: what Prometheus reads.
        hosts: names that the proxy may be called by; empty: any.
    """

    def __init__(
        self, primary: Upstream, recorder: Recorder, router: Router, meters: Meters, hosts: frozenset[str]
    ) -> None:
        self._primary, self._recorder, self._router, self._meters = primary, recorder, router, meters
        self._hosts = frozenset(host.lower() for host in hosts) | {""} if hosts else hosts  # every browser names one
        self._conversation = recorder.settings.traffic.conversation.lower().encode("latin-1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":  # a websocket is closed by returning
            await self._http(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Close what is open when the server ends."""
        while (event := (await receive())["type"]) != "lifespan.shutdown":
            await send({"type": f"{event}.complete"})
        for upstream in (self._primary, self._router.candidate.upstream):
            await upstream.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = scope["headers"]
        if self._hosts and _host(header(headers, b"host")) not in self._hosts:
            # A page in somebody's browser must not reach a proxy on loopback by a name that it made point there.
            await _refuse(send, 421, "this Host is not served here; name it in shadow.toml, [traffic] hosts")
        elif scope["path"] == METRICS:
            page = await asyncio.to_thread(self._meters.page)
            await _respond(send, 200, [(b"content-type", CONTENT_TYPE.encode())], page)
        elif wire.is_asked(scope["method"], scope["path"]):
            await self._answer(scope, receive, send)
        else:
            await self._pass(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay what asks no model; none of it is kept."""
        whole = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            more = True
            while more:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise CutOff
                more = event.get("more_body", False)
                yield event.get("body", b"")
            whole.set()

        empty = not {b"content-length", b"transfer-encoding"} & {name for name, _ in scope["headers"]}
        if empty:
            whole.set()

        async def answer() -> None:
            try:
                received = await self._primary.send(
                    scope["method"], _path(scope), scope["headers"], None if empty else body()
                )
            except CutOff:
                return
            except NoAnswer as error:
                await _refuse(send, 502, f"the primary cannot be asked: {error}")
                return
            await self._relay(received, send, Taken(), time.perf_counter())

        await self._while_there(receive, whole, answer())

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            if len(body) > LARGEST_QUESTION:
                await _refuse(send, 413, f"a request of more than {LARGEST_QUESTION >> 20} MiB")
                return
            if not event.get("more_body", False):
                break
        headers = scope["headers"]
        asked = Asked(scope["method"], _path(scope), headers, bytes(body), header(headers, self._conversation))
        whole = asyncio.Event()
        whole.set()
        await self._while_there(receive, whole, self._serve(asked, send))

    async def _while_there(self, receive: Receive, whole: asyncio.Event, answer: Coroutine[Any, Any, None]) -> None:
        """Answer for as long as the caller is there, who is watched from when the whole request has come."""
        relaying = asyncio.current_task()
        assert relaying
        watching = asyncio.create_task(_cancel_when_gone(receive, whole, relaying))
        try:
            await answer
        except asyncio.CancelledError:
            if relaying.cancelling() and watching.done():  # the caller hung up, and nobody else cancelled
                relaying.uncancel()
                self._meters.cut.labels("caller").inc()
                return
            raise
        finally:
            watching.cancel()

    async def _serve(self, asked: Asked, send: Send) -> None:
        at, started, taken = time.time(), time.perf_counter(), Taken()
        span = telemetry.start("shadow.relay", asked.headers)
        try:
            received = await self._routed(asked, at)
            if received is None:
                started = time.perf_counter()
                try:
                    received = await self._ask(asked)
                except NoAnswer as error:
                    taken.error = str(error)
                    await _refuse(send, 502, f"the primary cannot be asked: {error}")
            if received:
                await self._relay(received, send, taken, started, lambda: self._offer(asked, taken, at))
            else:
                self._offer(asked, taken, at)
        finally:
            span.end(taken.status, **{"finetune.served": asked.served})

    async def _routed(self, asked: Asked, at: float) -> Received | None:
        """Return the candidate's answer where the conversation is its; None where the primary answers.

        Nothing was sent to a user whose answer the candidate fails to begin: the primary's is sent instead, and the
        failure counts as the candidate's.
        """
        if not self._router.share:
            return None
        request = self._router.candidates(asked.body, asked.header)
        if request is None:
            return None
        failed = Taken()
        try:
            async with asyncio.timeout(self._recorder.settings.mirror.timeout_seconds):
                received = await self._router.candidate.send(asked.bare_path, request)
            if received.status < 300:
                asked.served = "candidate"
                return received
            received.close()
            failed.head(received.status, received.headers)
        except TimeoutError:
            failed.error = "timeout"
        except NoAnswer as error:
            failed.error = str(error)
        self._meters.fallbacks.inc()
        self._offer(replace(asked, served="candidate"), failed, at)
        return None

    async def _ask(self, asked: Asked) -> Received:
        """Ask the primary; once more where it closed a connection that lay idle just as the request was sent."""
        try:
            return await self._primary.send(asked.method, asked.path, asked.headers, asked.body)
        except Disconnected:
            return await self._primary.send(asked.method, asked.path, asked.headers, asked.body)

    async def _relay(
        self,
        received: Received,
        send: Send,
        taken: Taken,
        started: float,
        whole: Callable[[], None] = lambda: None,
    ) -> None:
        """Send an answer on as it comes; ``whole`` is called before its end is sent."""
        taken.head(received.status, received.headers)
        try:
            await send({"type": "http.response.start", "status": received.status, "headers": kept(received.headers)})
            async for piece in received.pieces():
                if taken.size <= LARGEST_ANSWER:
                    taken.piece(piece, time.perf_counter() - started)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except NoAnswer as error:
            taken.error = str(error)
        except asyncio.CancelledError:
            if b"".join(taken.pieces[-2:]).rstrip().endswith(LAST):  # some callers hang up at it, and have all
                taken.seconds = time.perf_counter() - started
                whole()
            raise
        finally:
            received.close()
        taken.seconds = time.perf_counter() - started
        whole()
        if taken.error:
            self._meters.cut.labels("upstream").inc()
            raise CutOff
        await send({"type": "http.response.body", "body": b""})

    def _offer(self, asked: Asked, taken: Taken, at: float) -> None:
        """Offer an exchange to the recorder."""
        if taken.size > LARGEST_ANSWER:
            taken.error = f"an answer of more than {LARGEST_ANSWER >> 20} MiB"
            taken.pieces.clear()
        self._meters.requests.labels(asked.served, str(taken.status)).inc()
        if not taken.error:
            self._meters.first.labels(asked.served).observe(taken.first_seconds)
            self._meters.whole.labels(asked.served).observe(taken.seconds)
        path = asked.bare_path.decode("latin-1")
        self._recorder.offer(Relayed(at, path, asked.header, asked.body, asked.served, taken))


async def _cancel_when_gone(receive: Receive, whole: asyncio.Event, relaying: "asyncio.Task[Any]") -> None:
    await whole.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
    relaying.cancel()


def _path(scope: Scope) -> bytes:
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return path + b"?" + query if query else path


def _host(value: str) -> str:
    """Return a Host header's name without its port."""
    name = value.rpartition(":")[0] if value.rpartition(":")[2].isdigit() else value
    return name.strip("[]").lower()


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": {"message": f"shadow proxy: {message}", "type": "proxy_error"}}).encode()
    await _respond(send, status, [(b"content-type", b"application/json")], body)


async def _respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    size = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, size]})
    await send({"type": "http.response.body", "body": body})
