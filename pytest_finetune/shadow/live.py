"""Mirroring live: the candidate is asked from memory, on a thread with an event loop of its own."""

import asyncio
import threading
from collections.abc import Callable

from pytest_finetune.shadow.candidate import Candidate
from pytest_finetune.shadow.exchange import Exchange, Reply, Side
from pytest_finetune.shadow.recorder import Sampled
from pytest_finetune.shadow.replies import Replies


class LiveMirror:
    """Asks the candidate what was sampled; takes no more than ``waiting`` of it at once.

    Args:
        candidate: who is asked, on this thread only.
        replies: makes the records.
        waiting: exchanges at most that were taken and are not answered.
        connections: asked at once.
        answered: told of each pair.
    """

    def __init__(
        self,
        candidate: Candidate,
        replies: Replies,
        waiting: int,
        connections: int,
        answered: Callable[[Exchange, dict[Side, Reply]], None],
    ) -> None:
        self._candidate, self._replies, self._answered = candidate, replies, answered
        self._waiting, self._connections = waiting, connections
        self._open = 0
        self._ended = False
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(connections)
        self._thread = threading.Thread(target=self._loop.run_forever, name="shadow-mirror")

    def start(self) -> None:
        """Start asking."""
        self._thread.start()

    def take(self, sampled: Sampled) -> bool:
        """Take an exchange; return whether there was room for it."""
        with self._lock:
            if self._ended or self._open >= self._waiting:
                return False
            self._open += 1
            asyncio.run_coroutine_threadsafe(self._ask(sampled), self._loop)
        return True

    def stop(self) -> None:
        """End at once; what is not answered is no pair."""
        with self._lock:
            self._ended = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _ask(self, sampled: Sampled) -> None:
        try:
            async with self._slots:
                reply = await self._candidate.ask(sampled.exchange.path, sampled.request, self._replies)
            self._answered(sampled.exchange, {"primary": sampled.reply, "candidate": reply})
        finally:
            with self._lock:
                self._open -= 1

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._candidate.upstream.close()
