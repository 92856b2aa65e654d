"""Real processes for the tests of the shadow: upstreams and the proxy, on ports that the kernel chooses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import httpx2

from pytest_finetune.shadow.spool import Spool

UPSTREAM = Path(__file__).with_name("upstream.py")
PATIENCE_SECONDS = 60.0  # of a busy machine; no test waits so long on an idle one


@contextmanager
def upstream(kind: str) -> Iterator[str]:
    """Run an upstream of that kind; yield its URL."""
    with running([sys.executable, str(UPSTREAM), kind]) as (_, line):
        yield f"http://127.0.0.1:{line}"


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run a process until the end of the block; yield it with the first line that it prints."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        assert process.stdout
        line = process.stdout.readline().strip()
        assert line, f"{command} printed nothing"
        yield process, line
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


class Shadow:
    """A running proxy."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, spool: Path) -> None:
        self.process, self.url, self.path = process, url, spool
        self.client = httpx2.Client(base_url=url, timeout=PATIENCE_SECONDS)

    def ask(self, text: str, stream: bool = False, **more: Any) -> httpx2.Response:
        """Ask one question through the proxy."""
        return self.client.post("/v1/chat/completions", content=question(text, stream), **more)

    def wait_for(self, text: str) -> None:
        """Wait until the proxy prints a line with a text."""
        assert self.process.stdout
        for line in self.process.stdout:
            if text in line:
                return
        raise AssertionError(f"the proxy ended without {text!r}")

    def spool(self) -> Spool:
        """Open the spool."""
        return Spool(self.path)

    def until(self, done: Callable[[Spool], Any]) -> Any:
        """Wait until something is true of the spool, and return it."""
        end = time.monotonic() + PATIENCE_SECONDS
        spool = self.spool()
        while not (found := done(spool)):
            assert time.monotonic() < end, f"never so: {spool.counts()}"
            time.sleep(0.02)
        spool.close()
        return found


@contextmanager
def shadow(
    primary: str, candidate: str, spool: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Shadow]:
    """Run the proxy; yield it."""
    command = [sys.executable, "-m", "pytest_finetune.cli", "shadow", "--port=0", f"--spool={spool}"]
    command += [f"--primary={primary}", f"--candidate={candidate}", *options]
    env = {**os.environ, **(environment or {})}
    with TemporaryFile("w+") as said:
        with running(command, env=env, stderr=said) as (started, line):
            found = re.search(r" on (http://\S+:\d+),", line)
            assert found, line
            made = Shadow(started, found[1], spool)
            try:
                yield made
            finally:
                made.client.close()
        said.seek(0)
        assert (told := said.read()) == "", (
            told
        )  # neither the proxy nor the process that replays has anything to complain about


def question(text: str, stream: bool = False, **more: Any) -> bytes:
    """Return the body of a request."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **({"stream": True} if stream else {})}
    return json.dumps({**body, **more}).encode()
