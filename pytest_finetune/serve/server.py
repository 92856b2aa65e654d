"""The server as it runs: its socket, its engine, and its end."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import uvicorn

from pytest_finetune.engine.serving import Serving
from pytest_finetune.errors import SuiteError
from pytest_finetune.listening import LOOPBACK, listen, serve, url
from pytest_finetune.records import Model
from pytest_finetune.serve.access import Access
from pytest_finetune.serve.app import App
from pytest_finetune.serve.catalogue import Catalogue, Served
from pytest_finetune.serve.meters import Meters

LAST_SECONDS = 5  # that running answers get at the end


@dataclass(frozen=True, slots=True)
class Capacity:
    """Where the model runs, and how much at once: see ``engine.serving.Serving``."""

    device: str
    batch_size: int
    queue: int


def run(model: Model, adapters: Sequence[Served], access: Access, port: int, capacity: Capacity) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        model: the base model.
        adapters: those that are served from the beginning.
        access: who may ask, and where.
        port: 0 lets the kernel choose.
        capacity: what it runs on.

    Raises:
        SuiteError: the port, the model or an adapter is not to be had.
    """
    warnings.simplefilter("ignore")  # of libraries about themselves; what a user can mend is an error
    catalogue, meters = Catalogue(model.name), Meters()
    for one in adapters:
        if one.name and any(one.name == other.name for other in catalogue.served):
            raise SuiteError(f"--adapter {one.name}=...: two adapters have this name; give each its own")
        catalogue.add(one.name, one.adapter)
    with listen(access.host, port) as listener:
        serving = Serving(model, capacity.device, capacity.batch_size, capacity.queue, meters.batch.observe)
        meters.watch(lambda: serving.waiting, lambda: serving.running)
        for one in adapters:
            serving.load(one.adapter).result()
        if access.host not in LOOPBACK and not access.key:
            print(f"WARNING: --host={access.host}: whoever reaches it may ask; give --api-key-env", file=sys.stderr)
        app = App(serving, catalogue, meters, access)
        config = uvicorn.Config(
            app.starlette(),
            http="httptools",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=LAST_SECONDS,
        )
        serve(config, listener, f"serving {catalogue.summary()} on {url(listener)}/v1")
        serving.close()
