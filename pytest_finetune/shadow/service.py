"""The proxy as it runs: its socket, its threads, and the process that replays beside it."""

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from pytest_finetune.errors import FinetuneError
from pytest_finetune.listening import BACKLOG, LOOPBACK, listen, serve, url
from pytest_finetune.shadow.canary import Broken, Watch
from pytest_finetune.shadow.candidate import Candidate
from pytest_finetune.shadow.config import Settings
from pytest_finetune.shadow.live import LiveMirror
from pytest_finetune.shadow.meters import Meters
from pytest_finetune.shadow.proxy import Proxy
from pytest_finetune.shadow.recorder import Recorder, Sampled
from pytest_finetune.shadow.replies import Facts
from pytest_finetune.shadow.router import Router
from pytest_finetune.shadow.spool import Spool
from pytest_finetune.shadow.upstream import Upstream

WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Place:
    """Where the proxy listens, and between whom it stands."""

    primary: str
    candidate: str
    spool: Path
    host: str
    port: int


class Service:
    """Runs until SIGTERM or Ctrl-C.

    Args:
        place: where.
        settings: how.
        facts: looks at answers before redaction.
        broken: says which hard gate the candidate broke while it served users.
        replay: the command that replays the spool in another process; empty: none, as somebody else does.
    """

    def __init__(
        self, place: Place, settings: Settings, facts: Facts, broken: Broken, replay: Sequence[str] = ()
    ) -> None:
        self._place, self._settings, self._replay = place, settings, replay
        self._live = settings.mirror.mode == "live"
        candidate = Candidate(place.candidate, settings.mirror, live=True)
        self.name = candidate.name
        Spool(place.spool, create=True).close()  # what is wrong with it is said before a request comes
        self.router = Router(candidate, settings.traffic.seed)
        self._recorder = Recorder(place.spool, settings, self.name, facts, self._mirrored if self._live else None)
        self._mirror = (
            LiveMirror(
                Candidate(place.candidate, settings.mirror),
                self._recorder.replies,
                settings.mirror.waiting,
                settings.mirror.connections,
                self._recorder.answered,
            )
            if self._live
            else None
        )
        self._proxy = Proxy(
            Upstream("--primary", place.primary),
            self._recorder,
            self.router,
            Meters(place.spool, self.name),
            frozenset((*LOOPBACK, place.host, *settings.traffic.hosts))
            if place.host in LOOPBACK or settings.traffic.hosts
            else frozenset(),
        )
        self._canary = Watch(self.name, settings.canary, broken)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve."""
        with listen(self._place.host, self._place.port) as listener:
            logging.getLogger("uvicorn").addHandler(logging.NullHandler())
            config = uvicorn.Config(
                self._proxy,
                http="httptools",
                loop="uvloop",
                lifespan="on",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=10,
            )
            self._recorder.start()
            if self._mirror:
                self._mirror.start()
            watcher = threading.Thread(target=self._watch, name="shadow-watch")
            watcher.start()
            try:
                ready = f"shadow: {self._place.primary} answers on {url(listener)}, {self.name} beside it"
                serve(config, listener, f"{ready}, spool {self._place.spool}")
            finally:
                self._stopping.set()
                watcher.join()
                if self._mirror:
                    self._mirror.stop()
                self._recorder.stop()

    def _mirrored(self, sampled: Sampled) -> bool:
        assert self._mirror
        return self._mirror.take(sampled)

    def _watch(self) -> None:
        """Keep the replaying process alive, and the router as the canary's last move says."""
        child: subprocess.Popen[bytes] | None = None
        spool = Spool(self._place.spool)
        try:
            while True:
                if self._replay and (child is None or child.poll() is not None):
                    child = subprocess.Popen(self._replay, stdin=subprocess.PIPE)
                with contextlib.suppress(FinetuneError):  # a spool that cannot be read now can be at the next look
                    self._route(self._canary.share(spool, time.time()))
                if self._stopping.wait(WATCH_SECONDS):
                    return
        finally:
            spool.close()
            if child:
                child.terminate()
                child.wait()
                assert child.stdin
                child.stdin.close()

    def _route(self, share: float) -> None:
        if share != self.router.share:
            self.router.share = share
            print(f"shadow: {share:.0%} of conversations are the candidate's", flush=True)


def replay_command(spool: Path, candidate: str, config: Path | None, model: str) -> list[str]:
    """Return the command of the process that replays."""
    command = [sys.executable, "-P", "-m", "pytest_finetune.cli", "shadow", "replay", "--follow"]
    command += [f"--spool={spool}", f"--candidate={candidate}"]
    command += [f"--config={config}"] if config else []
    return command + ([f"--candidate-model={model}"] if model else [])
