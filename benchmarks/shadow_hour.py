"""An hour of real questions through the shadow proxy: banking77, the embedded model, real processes and sockets.

    python -m benchmarks.shadow_hour --data DIR [--speed 20] [--out FILE]

DIR holds `train.csv` and `test.csv` of github.com/PolyAI-LDN/task-specific-datasets, folder
banking_data (Casanueva et al. 2020, CC BY 4.0). An adapter is trained on 20 intents; then questions of the test set
come at random times of one hour, played faster, first with the base model as the primary, then with the adapter as
the primary and a broken one as the candidate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
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

import httpx2
from safetensors.numpy import load_file, save_file

from benchmarks.banking77 import write_suite
from pytest_finetune.metrics import resolve
from pytest_finetune.report import run_json, shadow
from pytest_finetune.shadow import quality
from pytest_finetune.shadow.assess import assess
from pytest_finetune.shadow.config import Limits
from pytest_finetune.shadow.spool import Spool
from pytest_finetune.shadow.verdict import ShadowVerdict
from pytest_finetune.suite import EMBEDDED

HOUR = 3600.0
Rows = Sequence[dict[str, str]]
LOOKS = (5, 15, 30, 60)  # minutes
NEW_TOKENS = 24


@dataclass(frozen=True)
class Adapters:
    """Folders of adapters, and the questions with their right answers."""

    good: Path
    broken: Path
    rows: Rows


def made(folder: Path, data: Path) -> Adapters:
    """Train on banking77, and break a copy: its weights in another order, three times as large."""
    options = argparse.Namespace(data=data, model=EMBEDDED, learning_rate=4e-3, epochs=6)
    write_suite(folder, options)
    command = [sys.executable, "-m", "pytest", "--finetune", "-q", "--finetune-report=run.json", f"--rootdir={folder}"]
    ended = subprocess.run([*command, "-p", "no:cacheprovider"], cwd=folder, check=False, stdout=subprocess.DEVNULL)
    if ended.returncode not in (0, 1):  # a verdict on general skills is no matter here
        sys.exit(ended.returncode)
    adapter = run_json.read(folder / "run.json").suites[0].adapter
    assert adapter
    good, broken = Path(adapter.path), folder / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_bytes((good / "adapter_config.json").read_bytes())
    weights = load_file(good / "adapter_model.safetensors")
    save_file({name: 3 * value[::-1].copy() for name, value in weights.items()}, broken / "adapter_model.safetensors")
    rows = [json.loads(line) for line in (folder / "heldout.jsonl").read_text().splitlines()]
    return Adapters(good, broken, rows)


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[str]:
    """Run a command of ours; yield the URL in the line that it prints when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_finetune.cli", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        urls = re.findall(r"on (http://[\d.]+:\d+)", process.stdout.readline())
        yield urls[0]
    finally:
        process.terminate()
        process.wait()


async def asked(url: str, model: str, rows: Sequence[dict[str, str]], times: Sequence[float], first: int) -> int:
    """Ask questions at their times, half of them streamed, each a conversation; return how many failed."""
    failed = 0
    started = time.perf_counter()
    async with httpx2.AsyncClient(timeout=120) as client:

        async def ask(number: int) -> None:
            nonlocal failed
            await asyncio.sleep(times[number] - (time.perf_counter() - started))
            messages = [
                {"role": "system", "content": "Name the intent."},
                {"role": "user", "content": rows[number]["prompt"]},
            ]
            body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": NEW_TOKENS}
            sent = {**body, "stream": bool(number % 2)}
            answer = await client.post(
                f"{url}/v1/chat/completions", json=sent, headers={"x-conversation-id": str(first + number)}
            )
            failed += answer.status_code != 200

        await asyncio.gather(*(ask(number) for number in range(len(times))))
    return failed


def played(server: str, models: tuple[str, str], spool: Path, rows: Rows, options: argparse.Namespace) -> Iterator[str]:
    """Play an hour between a primary and a candidate, by their model names; yield the lines of the verdicts."""
    (primary, candidate), speed, count = models, options.speed, options.requests
    rng = random.Random(0)
    minutes = sorted(rng.uniform(0, 60) for _ in range(count))
    rows = rng.choices(rows, k=count)
    metric, known = resolve("exact_match", Path()), quality.of_rows((row["prompt"], row["completion"]) for row in rows)
    limits = Limits(latency_ratio=options.latency_ratio)
    arguments = [f"--primary={server}", f"--candidate={server}", f"--candidate-model={candidate}", "--port=0"]
    done, failed = 0, 0
    with running("shadow", *arguments, f"--spool={spool}") as url:
        for look in LOOKS:
            part = [minute for minute in minutes[done:] if minute <= look]
            start = minutes[done] if part else 0.0
            due = [(minute - start) * 60 / speed for minute in part]
            failed += asyncio.run(asked(url, primary, rows[done : done + len(part)], due, done))
            done += len(part)
            read = Spool(spool)
            while read.counts().get("relayed", 0) < done or read.backlog(candidate):
                time.sleep(0.1)
            verdict = assess(read, candidate, limits, metric, known)
            yield f"| {look} min | {done:,} | {verdict.pairs:,} | **{verdict.outcome}** | {_open(verdict)} |"
        lines = list(shadow.lines(verdict, read.counts()))
    yield f"\n```\n{chr(10).join(lines)}\n```\n\nRequests that failed: {failed}.\n"


def _open(verdict: ShadowVerdict) -> str:
    more = "" if verdict.more is None or verdict.outcome != "HOLD" else f"; about {verdict.more:,} pairs more"
    return (
        ", ".join(f"{claim.name} {claim.outcome}" for claim in verdict.claims if claim.outcome != "PASS") + more or "–"
    )


def main() -> None:
    """Train, serve, play both hours, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and test.csv")
    parser.add_argument("--speed", type=float, default=20, help="how much faster than life the hour is played (20)")
    parser.add_argument("--requests", type=int, default=900, help="of the hour (900)")
    parser.add_argument("--latency-ratio", type=float, default=4, help="the limit; the default one is 1.5 (4)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    command = f"python -m benchmarks.shadow_hour --data DIR --speed {options.speed:g} --requests {options.requests}"
    lines = ["# An hour of banking77 through the shadow proxy\n", f"`{command}`, {os.cpu_count()} cores.\n"]
    lines.append(
        f"Limits by default, but for the ratio of seconds, {options.latency_ratio:g}: the adapter names an intent in "
        "more than twice the tokens that the base model's wrong answers have, and one server answers as both.\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapters = made(folder, options.data)
        served = [f"--adapter=good={adapters.good}", f"--adapter=broken={adapters.broken}"]
        with running("serve", "embedded", "--port=0", *served) as server:
            models = [one["id"] for one in httpx2.get(f"{server}/v1/models").json()["data"]]
            for title, pair in (
                ("The base model answers, the adapter is the candidate", (0, 1)),
                ("The adapter answers, a broken one is the candidate", (1, 2)),
            ):
                lines.append(f"## {title}\n")
                lines.append("| after | requests | pairs | verdict | not proven |")
                lines.append("| --- | --- | --- | --- | --- |")
                names = models[pair[0]], models[pair[1]]
                for line in played(server, names, folder / f"{pair[1]}.sqlite", adapters.rows, options):
                    print(line, flush=True)
                    lines.append(line)
    if options.out:
        options.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
