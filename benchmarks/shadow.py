"""The shadow proxy: what it adds to a request, beside direct ones in the same run; and its memory.

    python -m benchmarks.shadow --out benchmarks/results/shadow.md

Upstream, proxy, replay and this load are a process each, so that all of them share this machine's cores. The upstream
streams 20 events, the first after 30 ms, and computes nothing: it stands for a model on another machine.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from pytest_finetune.shadow.spool import Spool

FIRST_SECONDS, EVENT_SECONDS, EVENTS = 0.03, 0.005, 20
GOALS = {50: 2.0, 95: 5.0}  # added milliseconds to the first event, by percentile
WORDS = ["where", "is", "my", "card", "and", "why", "was", "it", "charged", "twice", "please", "help", "me", "find"]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return _chunk(f"data: {json.dumps({'id': 'a', 'choices': [choice]})}\n\n".encode())


async def _serve(kind: str) -> None:
    """Serve until killed: answers at once (`fast`), streams as above (`slow`), or says nothing (`hang`)."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(size[1]) if size else 0)
                if kind == "hang":
                    await asyncio.sleep(3600)
                if kind == "slow":
                    await asyncio.sleep(FIRST_SECONDS)
                writer.write(HEAD + _event("some"))
                for number in range(1, EVENTS):
                    if kind == "slow":
                        await asyncio.sleep(EVENT_SECONDS)
                    writer.write(_event(f" words {number}"))
                writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
                await writer.drain()

    logging.getLogger("asyncio").setLevel("ERROR")  # which complains of each piece for a proxy that has ended
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def _running(*command: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process, process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _upstream(kind: str) -> Iterator[str]:
    with _running("benchmarks.shadow", "--upstream", kind) as (_, port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _proxy(primary: str, candidate: str, folder: Path, config: str = "") -> Iterator[tuple[int, str]]:
    (folder / "shadow.toml").write_text(config)
    options = [f"--primary={primary}", f"--candidate={candidate}", f"--spool={folder / 'spool'}"]
    options += ["--port=0", f"--config={folder / 'shadow.toml'}"]
    with _running("pytest_finetune.cli", "shadow", *options) as (process, line):
        found = re.search(r" on (http://\S+:\d+),", line)
        assert found, line
        yield process.pid, found[1]


def _body() -> bytes:
    text = " ".join(random.choices(WORDS, k=20))
    return json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": text}]}).encode()


async def _first(client: httpx2.AsyncClient, url: str, body: bytes) -> float:
    """Return the seconds to the first event of an answer, which is read to its end."""
    started, first = time.perf_counter(), 0.0
    async with client.stream("POST", f"{url}/v1/chat/completions", content=body) as answer:
        async for _ in answer.aiter_raw():
            first = first or time.perf_counter() - started
    return first


async def _paired(direct: str, proxied: str, rate: float, seconds: float) -> tuple[list[float], list[float]]:
    """Ask both ways in turn, at random times of a mean rate each way; return the seconds to the first event of each."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4)
    made: tuple[list[float], list[float]] = ([], [])
    async with httpx2.AsyncClient(timeout=60, limits=limits, trust_env=False) as client:

        async def ask(way: int) -> None:
            made[way].append(await _first(client, (direct, proxied)[way], _body()))

        ways = [0, 1] * int(rate * seconds)
        random.shuffle(ways)
        tasks, due = [], time.perf_counter()
        for way in ways:
            due += random.expovariate(2 * rate)
            await asyncio.sleep(due - time.perf_counter())
            tasks.append(asyncio.create_task(ask(way)))
        await asyncio.gather(*tasks)
    return made


@dataclass(frozen=True)
class Added:
    """What the proxy added, in milliseconds by percentile, with the standard error of a bootstrap."""

    direct: dict[int, float]
    added: dict[int, float]
    error: dict[int, float]


def _added(direct: Sequence[float], proxied: Sequence[float]) -> Added:
    rng = np.random.default_rng(0)
    one, other = np.array(direct) * 1000, np.array(proxied) * 1000
    levels = list(GOALS)

    def difference(a: Any, b: Any) -> Any:
        return np.percentile(b, levels) - np.percentile(a, levels)

    drawn = [difference(rng.choice(one, one.size), rng.choice(other, other.size)) for _ in range(1000)]
    return Added(
        dict(zip(levels, np.percentile(one, levels), strict=True)),
        dict(zip(levels, difference(one, other), strict=True)),
        dict(zip(levels, np.std(drawn, axis=0), strict=True)),
    )


async def _many(url: str, count: int, at_once: int, watch: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Ask ``count`` times; return the resident bytes of the watched processes after each tenth."""
    limits = httpx2.Limits(max_connections=at_once, max_keepalive_connections=at_once, keepalive_expiry=4)
    seen: list[tuple[int, list[int]]] = []
    left = iter(range(count))
    async with httpx2.AsyncClient(timeout=60, limits=limits, trust_env=False) as client:

        async def work() -> None:
            for number in left:
                await _first(client, url, _body())
                if (number + 1) % (count // 10) == 0:
                    seen.append((number + 1, [_resident(pid) for pid in watch]))

        await asyncio.gather(*(work() for _ in range(at_once)))
    return seen


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] or [
        int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()
    ]


def latency(rate: float, seconds: float) -> list[str]:
    """Return the table of what is added, beside a candidate that answers and beside one that hangs."""
    lines = [
        f"## Added milliseconds to the first event, {rate:g} requests a second each way, {seconds:g} s\n",
        "| mode, candidate | direct p50 | added p50 (goal 2) | direct p95 | added p95 (goal 5) | requests each way |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    with _upstream("slow") as primary:
        for mode in ("spool", "live"):
            for kind in ("slow", "hang"):
                config = f'[mirror]\nmode = "{mode}"\ntimeout_seconds = 10\n'
                with (
                    _upstream(kind) as candidate,
                    tempfile.TemporaryDirectory() as folder,
                    _proxy(primary, candidate, Path(folder), config) as (_, proxied),
                ):
                    asyncio.run(_paired(primary, proxied, rate, 2))  # to warm up
                    direct, other = asyncio.run(_paired(primary, proxied, rate, seconds))
                made = _added(direct, other)
                cells = [
                    cell
                    for level in GOALS
                    for cell in (f"{made.direct[level]:.2f}", f"{made.added[level]:+.2f} ± {made.error[level]:.2f}")
                ]
                name = f"{mode}, {'hangs' if kind == 'hang' else 'answers'}"
                lines.append(f"| {name} | {' | '.join(cells)} | {len(direct):,} |")
                print(lines[-1], flush=True)
    return lines


def memory(count: int) -> list[str]:
    """Return the table of memory over many requests."""
    with (
        _upstream("fast") as primary,
        _upstream("fast") as candidate,
        tempfile.TemporaryDirectory() as folder,
        _proxy(primary, candidate, Path(folder)) as (pid, url),
    ):
        asyncio.run(_many(url, 100, 8, []))
        started = time.perf_counter()
        seen = asyncio.run(_many(url, count, 16, [pid, *_children(pid)]))
        seconds = time.perf_counter() - started
        counts = Spool(Path(folder, "spool")).counts()
        size = sum(file.stat().st_size for file in Path(folder).glob("spool*"))
    lines = [
        f"\n## Memory over {count:,} requests, 16 at once, {count / seconds:.0f} a second\n",
        "| requests | proxy, MiB | replay, MiB |",
        "| --- | --- | --- |",
        *(f"| {done:,} | {' | '.join(f'{one / 2**20:.1f}' for one in sizes)} |" for done, sizes in seen),
        f"\nWhat became of them: {', '.join(f'{name} {value:,}' for name, value in counts.items())}. "
        f"The spool then took {size / 2**20:.0f} MiB.",
    ]
    print("\n".join(lines), flush=True)
    return lines


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50, help="requests a second each way (50)")
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement (60)")
    parser.add_argument("--requests", type=int, default=100_000, help="of the measurement of memory (100,000)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--upstream", choices=["fast", "slow", "hang"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream:
        asyncio.run(_serve(options.upstream))
        return
    lines = ["# The shadow proxy\n", f"`python -m benchmarks.shadow`, {os.cpu_count()} cores.\n"]
    lines += latency(options.rate, options.seconds)
    lines += memory(options.requests)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
