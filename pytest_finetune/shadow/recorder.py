"""The recorder: takes exchanges off the hot path, and writes them to the spool on a thread of its own."""

import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_finetune import digest, wire
from pytest_finetune.errors import FinetuneError
from pytest_finetune.shadow import conversation
from pytest_finetune.shadow.config import Settings
from pytest_finetune.shadow.exchange import Exchange, Reply, Side
from pytest_finetune.shadow.replies import Facts, Replies, Taken
from pytest_finetune.shadow.spool import Spool, days_ago

LONGEST_QUEUE, LARGEST_QUEUE = 1000, 64 << 20  # exchanges, and their bytes
BATCH = 100
PURGE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Relayed:
    """A request that was answered, as the hot path leaves it."""

    time: float
    path: str
    header: str
    body: bytes
    served: Side
    taken: Taken


@dataclass(frozen=True, slots=True)
class Sampled:
    """An exchange to be mirrored live: its request as it was asked, and the reply that the user saw."""

    exchange: Exchange
    request: dict[str, Any]
    reply: Reply


class Recorder:
    """Writes what is offered to it; what it has no room for is dropped and counted, and never waited for.

    Args:
        path: of the spool.
        settings: which traffic is sampled, and what may reach the disk.
        candidate: who is shadowed.
        facts: looks at answers before redaction.
        mirror: takes what is mirrored live, and says whether it had room; None where the spool is replayed.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        candidate: str,
        facts: Facts,
        mirror: Callable[[Sampled], bool] | None = None,
    ) -> None:
        self.settings = settings
        self.replies = Replies.by(facts, settings.privacy)
        self._path, self._candidate, self._mirror = path, candidate, mirror
        self._queue: queue.Queue[Relayed | tuple[Exchange, dict[Side, Reply]] | None] = queue.Queue(LONGEST_QUEUE)
        self._offered = self._done = 0  # bytes; each is written by one thread only
        self._dropped: Counter[str] = Counter()  # by reason, since the last transaction
        self._lock = threading.Lock()  # of what was dropped
        self._purged = 0.0
        self._told = 0.0
        self._thread = threading.Thread(target=self._work, name="shadow-recorder")

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end."""
        self._queue.put(None)
        self._thread.join()

    def offer(self, relayed: Relayed) -> None:
        """Take an exchange, if there is room; returns at once."""
        try:
            if self._offered - self._done + _size(relayed) > LARGEST_QUEUE:
                raise queue.Full
            self._queue.put_nowait(relayed)
            self._offered += _size(relayed)
        except queue.Full:
            self._drop(Counter(("relayed", "queue full")))

    def answered(self, exchange: Exchange, replies: dict[Side, Reply]) -> None:
        """Take a pair that was mirrored live."""
        self._queue.put((exchange, replies))

    def _work(self) -> None:
        spool = Spool(self._path, create=True)
        batch: list[Relayed | tuple[Exchange, dict[Side, Reply]] | None] = []
        while None not in batch:
            batch = self._batch()
            relayed = [one for one in batch if isinstance(one, Relayed)]
            with self._lock:
                dropped, self._dropped = self._dropped, Counter()
            try:
                with spool.transaction():
                    counts = [name for one in batch for name in self._write(spool, one)]
                    spool.count([*counts, *dropped.elements()])
            except FinetuneError as error:  # users are served, whatever becomes of the spool
                lost = sum(one is not None for one in batch)
                self._drop(dropped + Counter({"relayed": len(relayed), "spool not written": lost}))
                self._tell(str(error))
            self._done += sum(map(_size, relayed))
            self._purge(spool)
        spool.close()

    def _batch(self) -> list[Relayed | tuple[Exchange, dict[Side, Reply]] | None]:
        """Return what waits; nothing, where nothing comes for so long that a purge may be due."""
        try:
            batch = [self._queue.get(timeout=PURGE_SECONDS)]
        except queue.Empty:
            return []
        while len(batch) < BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    def _purge(self, spool: Spool) -> None:
        if self._purged and time.monotonic() - self._purged < PURGE_SECONDS:
            return
        self._purged = time.monotonic()
        try:
            spool.purge(days_ago(self.settings.privacy.days))
        except FinetuneError as error:
            self._tell(str(error))

    def _drop(self, dropped: Counter[str]) -> None:
        with self._lock:
            self._dropped += dropped

    def _tell(self, message: str) -> None:
        if time.monotonic() - self._told > 60 or not self._told:
            self._told = time.monotonic()
            print(f"shadow: {message}", file=sys.stderr, flush=True)

    def _write(self, spool: Spool, one: "Relayed | tuple[Exchange, dict[Side, Reply]] | None") -> tuple[str, ...]:
        """Write one thing; return what is counted for it."""
        if isinstance(one, Relayed):
            try:
                return "relayed", self._sample(spool, one)
            except RecursionError:  # what can just be parsed may still be too deep to be looked at
                return "relayed", "unreadable"
        if one:
            spool.add(*one)
        return ()

    def _sample(self, spool: Spool, relayed: Relayed) -> str:
        """Write an exchange, or hand it to the mirror; return what became of it."""
        request = wire.request(relayed.body)
        if request is None:
            return "unreadable"
        name, traffic = conversation.name_of(request, relayed.header), self.settings.traffic
        if relayed.served == "primary" and conversation.drawn("sample", traffic.seed, name) >= traffic.sample:
            return "not sampled"
        exchange, reply = self._exchange(relayed, request, name), self.replies.of(relayed.taken)
        if relayed.served == "candidate":
            spool.add(exchange, {"candidate": reply})
            return "served by the candidate"
        if self._mirror:
            return "sampled" if self._mirror(Sampled(exchange, request, reply)) else "mirror full"
        if exchange.redacted and self.settings.privacy.redacted == "skip":
            return "redacted"
        if spool.backlog(self._candidate) >= self.settings.mirror.waiting:
            return "backlog full"
        spool.add(exchange, {"primary": reply}, waiting=True)
        return "sampled"

    def _exchange(self, relayed: Relayed, request: dict[str, Any], name: str) -> Exchange:
        asked = wire.asked_text(request)
        exchange = Exchange(
            number=0,
            time=relayed.time,
            conversation=name,
            candidate=self._candidate,
            path=relayed.path,
            asked="",
            asked_digest=digest.of(asked),
            request=None,
            served=relayed.served,
        )
        if self.settings.privacy.keep == "digests":
            return exchange
        kept = self.replies.redactor.plain(request)
        text = self.replies.redactor.text(asked)
        return replace(exchange, asked=text, request=kept, redacted=kept != request)


def _size(relayed: Relayed) -> int:
    return len(relayed.body) + relayed.taken.size
