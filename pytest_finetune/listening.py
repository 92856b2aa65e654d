"""Where a server listens, and until when."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

from pytest_finetune.errors import SuiteError

if TYPE_CHECKING:
    import uvicorn

LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
BACKLOG = 2048  # connections that the kernel holds while we accept others


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 lets the kernel choose.

    Raises:
        SuiteError: it cannot, naming both options.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, ValueError) as error:  # no name of a host: UnicodeError, say
        reason = getattr(error, "strerror", None) or error
        raise SuiteError(f"--host={host} --port={port}: cannot listen there: {reason}") from None


def url(listener: socket.socket) -> str:
    """Return the URL of a socket that listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(config: uvicorn.Config, listener: socket.socket, ready: str) -> None:
    """Serve until SIGTERM or Ctrl-C, and then return, so that what runs beside can end, too.

    Args:
        config: of the server.
        listener: what :func:`listen` returned.
        ready: printed as soon as requests are taken.
    """
    import uvicorn  # of an extra

    server = uvicorn.Server(config)

    def end(signal_number: int, frame: object) -> None:
        server.should_exit = True

    # uvicorn raises the signal again when it has ended: then this stands here, and the exit code is 0.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    print(ready, flush=True)
    server.run(sockets=[listener])
