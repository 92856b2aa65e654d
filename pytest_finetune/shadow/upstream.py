"""Upstreams: the two fixed servers that requests go to, and the bytes that come back, as they are."""

import zlib
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import yarl

from pytest_finetune.errors import SuiteError

Headers = Sequence[tuple[bytes, bytes]]
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 4.0  # servers end idle connections after 5 s and more; a request must not meet that
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te")
) | {b"trailer", b"transfer-encoding", b"upgrade"}
AUTOMATIC = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
INFLATED = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # window bits of zlib
LARGEST_HEADER = 64 << 10


class NoAnswer(Exception):
    """An upstream gave no answer, or ended it early; the text says how in a word or two."""


class Disconnected(NoAnswer):
    """A connection ended before anything came, as one does that lay idle for too long."""


@dataclass(frozen=True)
class Received:
    """The head of an answer, and its body in the pieces in which it comes."""

    status: int
    headers: Headers
    response: aiohttp.ClientResponse

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises:
            NoAnswer: it ends early.
        """
        try:
            async for piece in self.response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _named(error, "cut off") from error

    def close(self) -> None:
        """Let go of the connection, which is used again if the body was read to its end."""
        if self.response.content.at_eof():
            self.response.release()
        else:
            self.response.close()


class Upstream:
    """One server. Whatever a request or an answer says, no other is spoken to: redirects are not followed.

    Args:
        option: of the command line, for messages.
        url: the server's address; a path ``/v1`` may be left out.
        connections: at once, 0 for any number.

    Raises:
        SuiteError: it is no address of a server.
    """

    def __init__(self, option: str, url: str, connections: int = 0) -> None:
        try:
            parts = urlsplit(url)
            plain = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        except ValueError:
            plain = False
        if not plain or parts.username is not None or parts.query or parts.fragment:
            raise SuiteError(f"{option}={url}: give http://HOST:PORT, without user, query or anything else")
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        method: str,
        path: bytes,
        headers: Headers,
        content: bytes | AsyncIterable[bytes] | None,
        timeout_seconds: float | None = None,
    ) -> Received:
        """Send a request and return the head of the answer.

        Args:
            method: of HTTP.
            path: as it was asked for, with the query.
            headers: those of the connection are left out.
            content: the body.
            timeout_seconds: between any two pieces of the answer.

        Raises:
            NoAnswer: there is none, or none by the rules of HTTP; or the path is none, and could name another host.
        """
        if not path.startswith(b"/"):
            raise NoAnswer("that is no path")
        url = yarl.URL(f"{self.origin}{self._prefix}{path.decode('latin-1')}", encoded=True)
        sized = isinstance(content, bytes)
        sent = [(_text(name), _text(value)) for name, value in kept(headers) if not (sized and _is_length(name))]
        try:
            response = await self._opened().request(
                method,
                url,
                headers=sent,
                data=content,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=timeout_seconds),
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _named(error, "no HTTP") from error
        return Received(response.status, response.raw_headers, response)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:  # in the event loop that asks first
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=IDLE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=AUTOMATIC,
                auto_decompress=False,
                trust_env=False,  # a proxy in the environment is another server
                max_line_size=LARGEST_HEADER,
                max_field_size=LARGEST_HEADER,
            )
        return self._session

    async def close(self) -> None:
        """Close all connections."""
        if self._session:
            await self._session.close()


def _named(error: BaseException, otherwise: str) -> NoAnswer:
    if isinstance(error, TimeoutError):
        return NoAnswer("timeout")
    if isinstance(error, aiohttp.ClientConnectorError):
        return NoAnswer("refused")
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError):
        return Disconnected("disconnected")
    return NoAnswer(otherwise)


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")  # as aiohttp encodes it again
    except UnicodeDecodeError:
        return value.decode("latin-1")  # of which aiohttp would send nothing


def _is_length(name: bytes) -> bool:
    return name.lower() == b"content-length"


def kept(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return headers without those that are about one connection, and without the host's."""
    named = {
        part.strip().lower() for name, value in headers if name.lower() == b"connection" for part in value.split(b",")
    }
    left_out = HOP_BY_HOP | named | {b"host", b"expect"}
    return [(name, value) for name, value in headers if name.lower() not in left_out]


def plain(headers: Headers, body: bytes, largest: int) -> bytes:
    """Return a body undone of its content encoding.

    Raises:
        ValueError: the encoding is unknown or broken, or the body would be larger than ``largest``.
    """
    encoding = header(headers, b"content-encoding").lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in INFLATED:
        raise ValueError(f"content-encoding {encoding}")
    inflater = zlib.decompressobj(INFLATED[encoding])
    try:
        made = inflater.decompress(body, largest)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if inflater.unconsumed_tail:
        raise ValueError(f"more than {largest} bytes")
    return made


def header(headers: Headers, name: bytes) -> str:
    """Return a header's value, the first one if there are several; empty without one."""
    return next((value.decode("latin-1") for key, value in headers if key.lower() == name), "")
