"""Upstreams: the two fixed servers that requests go to, and the bytes that come back, as they are."""

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass

import httpx2

from pytest_finetune.errors import SuiteError

Headers = Sequence[tuple[bytes, bytes]]
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 4.0  # servers end idle connections after 5 s and more; a request must not meet that
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te")
) | {b"trailer", b"transfer-encoding", b"upgrade"}


@dataclass(frozen=True)
class Received:
    """The head of an answer, and its body in the pieces in which it comes."""

    status: int
    headers: Headers
    body: AsyncIterator[bytes]
    response: httpx2.Response

    async def close(self) -> None:
        """Let go of the connection."""
        await self.response.aclose()


class Upstream:
    """One server. Whatever a request or an answer says, no other is spoken to: redirects are not followed.

    Args:
        url: its address; a path ``/v1`` may be left out.
        connections: at once, None for any number.

    Raises:
        SuiteError: it is no address of a server.
    """

    def __init__(self, option: str, url: str, connections: int | None = None) -> None:
        try:
            self._url = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise SuiteError(f"{option}={url}: no URL: {error}") from None
        if self._url.scheme not in ("http", "https") or not self._url.host or self._url.userinfo or self._url.query:
            raise SuiteError(f"{option}={url}: give http://HOST:PORT, without user, query or anything else")
        self._prefix = self._url.raw_path.rstrip(b"/").removesuffix(b"/v1")
        limits = httpx2.Limits(
            max_connections=connections, max_keepalive_connections=None, keepalive_expiry=IDLE_SECONDS
        )
        # Not a client: that would add headers and keep cookies. Nor does it read proxies from the environment.
        self._transport = httpx2.AsyncHTTPTransport(limits=limits, trust_env=False)

    @property
    def origin(self) -> str:
        """The address without a path."""
        return str(self._url.copy_with(raw_path=b"/")).rstrip("/")

    async def send(
        self,
        method: str,
        path: bytes,
        headers: Headers,
        content: bytes | AsyncIterable[bytes],
        timeout_seconds: float | None = None,
    ) -> Received:
        """Send a request and return the head of the answer.

        Args:
            method: of HTTP.
            path: as it was asked for, with the query.
            headers: without those of the connection, which are left out.
            content: the body.
            timeout_seconds: between any two pieces of the answer.

        Raises:
            httpx2.TransportError: no answer, or none by the rules of HTTP.
        """
        url = self._url.copy_with(raw_path=self._prefix + path)
        request = httpx2.Request(method, url, headers=[*kept(headers)], content=content)
        waits = {"connect": CONNECT_SECONDS, "pool": timeout_seconds, "read": timeout_seconds, "write": timeout_seconds}
        request.extensions["timeout"] = waits
        response = await self._transport.handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        return Received(response.status_code, response.headers.raw, aiter(response.stream), response)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


def kept(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return headers without those that are about one connection, and without the host's."""
    named = {
        part.strip().lower() for name, value in headers if name.lower() == b"connection" for part in value.split(b",")
    }
    left_out = HOP_BY_HOP | named | {b"host", b"expect"}
    return [(name, value) for name, value in headers if name.lower() not in left_out]


def plain(headers: Headers, body: bytes) -> bytes:
    """Return a body undone of its content encoding."""
    encoded = any(name.lower() == b"content-encoding" for name, _ in headers)
    return httpx2.Response(200, headers=[*headers], content=body).content if encoded else body


def header(headers: Headers, name: bytes) -> str:
    """Return a header's value, the first one if there are several; empty without one."""
    return next((value.decode("latin-1") for key, value in headers if key.lower() == name), "")
