"""Where a server listens."""

import socket

from pytest_finetune.errors import SuiteError

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
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SuiteError(f"--host={host} --port={port}: cannot listen there: {reason}") from None


def url(listener: socket.socket) -> str:
    """Return the URL of a socket that listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
