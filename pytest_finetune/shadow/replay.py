"""Replay: asks the candidate what waits in the spool, in a process of its own."""

import asyncio
import os
import signal
import stat
import sys
import threading
from pathlib import Path

from pytest_finetune.shadow.candidate import Candidate
from pytest_finetune.shadow.config import Settings
from pytest_finetune.shadow.exchange import Exchange
from pytest_finetune.shadow.replies import Facts, Replies
from pytest_finetune.shadow.spool import Spool

IDLE_SECONDS = 0.1


class Replay:
    """Asks until it is stopped, or until nothing waits.

    Args:
        spool: opened by the thread that asks.
        candidate: who is asked.
        settings: how many requests at once, and what may reach the disk.
        facts: looks at answers before redaction.
    """

    def __init__(self, spool: Spool, candidate: Candidate, settings: Settings, facts: Facts) -> None:
        self._spool, self._candidate, self._settings = spool, candidate, settings
        self._replies = Replies.by(facts, settings.privacy)
        self.answered = 0
        self._stopped = False

    def stop(self) -> None:
        """End as soon as what was asked is answered or given up; what waits goes on waiting."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()

    async def run(self, follow: bool) -> None:
        """Ask what waits.

        Args:
            follow: whether to wait for more when nothing does.
        """
        self._tasks: set[asyncio.Task[None]] = set()
        last = 0
        while not self._stopped:
            room = self._settings.mirror.connections - len(self._tasks)
            found = self._spool.waiting(self._candidate.name, last, room) if room else []
            for exchange in found:
                last = exchange.number
                self._tasks.add(asyncio.create_task(self._ask(exchange)))
            if not found and not self._tasks:
                if not follow:
                    break
                await asyncio.sleep(IDLE_SECONDS)
            elif self._tasks:
                timeout = None if len(self._tasks) == self._settings.mirror.connections else IDLE_SECONDS
                done, self._tasks = await asyncio.wait(
                    self._tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if not task.cancelled():
                        task.result()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._candidate.upstream.close()

    async def _ask(self, exchange: Exchange) -> None:
        assert exchange.request is not None
        reply = await self._candidate.ask(exchange.path, exchange.request, self._replies)
        self._spool.reply(exchange.number, "candidate", reply)
        self.answered += 1


def run(path: Path, candidate: Candidate, settings: Settings, facts: Facts, follow: bool) -> int:
    """Replay a spool until it is empty, or with ``follow`` until SIGTERM or Ctrl-C; return how many were answered."""

    async def work() -> int:
        replay = Replay(Spool(path), candidate, settings, facts)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, replay.stop)
        await replay.run(follow)
        return replay.answered

    return asyncio.run(work())


def end_with_parent() -> None:
    """End this process when its parent does, however that went, if one holds the other end of stdin."""
    if not sys.stdin or not stat.S_ISFIFO(
        os.fstat(sys.stdin.fileno()).st_mode
    ):  # a service's is no pipe, and at its end
        return

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):  # not through a buffer, whose lock an ending Python waits for
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
