"""Who may ask the server, and what may be loaded into it."""

import hmac
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request

from pytest_finetune import digest
from pytest_finetune.listening import LOOPBACK
from pytest_finetune.serve.requests import Refused

NO_CHANGES = "this server loads and unloads no adapters while it runs; start it with --adapters-from DIR"


@dataclass(frozen=True)
class Access:
    """Who may ask, and for what.

    Args:
        key: what ``Authorization: Bearer`` must hold; empty lets everybody in who can connect.
        host: where the server listens; on loopback, requests must name it so.
        adapters_from: folders below which adapters may be loaded from while it runs.
    """

    key: str = field(repr=False, default="")
    host: str = "127.0.0.1"
    adapters_from: tuple[Path, ...] = ()

    def check(self, request: Request) -> None:
        """Refuse whoever may not ask.

        Raises:
            Refused: with 401, or 421 for a page that had its own name resolve to this machine.
        """
        try:
            named = request.url.hostname
        except ValueError:  # a Host that is none
            named = None
        if self.host in LOOPBACK and named not in LOOPBACK:
            raise Refused(421, f"this server is called {self.host}, and by no other Host")
        given = request.headers.get("authorization", "")
        wanted = f"Bearer {self.key}"
        if self.key and not hmac.compare_digest(given.encode("latin-1"), wanted.encode()):
            raise Refused(401, "Authorization: Bearer with this server's key is needed", code="invalid_api_key")

    def adapter_folder(self, path: str) -> Path:
        """Return the folder of an adapter that is to be loaded, links resolved.

        Raises:
            Refused: it, or one of its files, is not below ``adapters_from``.
        """
        if not self.adapters_from:
            raise Refused(403, NO_CHANGES, "lora_path")
        try:
            folder = Path(path).resolve()
            files = [file.resolve() for pattern in digest.SHIPPED for file in folder.glob(pattern)]
        except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a circle
            files = []
            folder = Path("/")
        if not all(any(place.is_relative_to(root) for root in self.adapters_from) for place in (folder, *files)):
            raise Refused(403, "lora_path: it is not below a folder that --adapters-from names", "lora_path")
        return folder
