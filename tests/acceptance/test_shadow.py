"""The whole of shadow evaluation with real models: served, mirrored, judged, moved by canary, and gated by a test."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import openai
import pytest
import servers
from colours import SUITE, rows
from safetensors.numpy import load_file, save_file

from pytest_finetune import cli, digest
from pytest_finetune.shadow.exchange import Exchange, Reply
from pytest_finetune.shadow.spool import Spool

pytestmark = pytest.mark.slow
TEST = """
def test_beats_the_best_prompt(gate, adapter, baseline, heldout):
    gate.beats(adapter, baseline, on=heldout)
"""
HOLDS = """
def test_holds_on_live_traffic(gate, shadow):
    gate.holds(shadow, metric="exact_match", max_drop=0.02)
"""
# Two of an hour's traffic would do for the defaults; this is a minute's.
SETTINGS = """
[mirror]
model = "{model}"
connections = 8
[verdict]
error_rate = 0.05
max_refusal_rise = 0.05
latency_ratio = 20
{more}
[canary]
steps = [0.5, 1.0]
exchanges = 10
minutes = 0
"""


@dataclass(frozen=True)
class Stage:
    """A server of the base model, a trained adapter and one that answers nonsense, and the rows they are asked."""

    url: str
    good: str
    broken: str
    folder: Path
    rows: Sequence[dict[str, str]]

    def settings(self, model: str, more: str = "") -> str:
        """Write a shadow.toml; return the option that names it."""
        path = self.folder / f"{model[:8]}.toml"
        path.write_text(SETTINGS.format(model=model, more=more))
        return f"--config={path}"

    def verdict(self, spool: Path, config: str) -> int:
        """Return the exit code of the verdict."""
        options = [f"--spool={spool}", config, f"--references={self.folder / 'heldout.jsonl'}", "--metric=exact_match"]
        return cli.main(["shadow", "verdict", *options])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Train on the colours suite, shuffle its weights for the broken one, and serve both."""
    folder = tmp_path_factory.mktemp("shadow") / "colours"
    folder.mkdir()
    (folder / "suite.toml").write_text(SUITE)
    (folder / "train.jsonl").write_text(rows(0, 150))
    (folder / "heldout.jsonl").write_text(rows(1000, 150))
    (folder / "test_colours.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "--finetune", "-q", f"--rootdir={folder}", "--finetune-report=run.json"]
    done = subprocess.run([*command, "."], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    good = Path(json.loads((folder / "run.json").read_text())["suites"][0]["adapter"]["path"])
    broken = folder / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_bytes((good / "adapter_config.json").read_bytes())
    weights = load_file(good / "adapter_model.safetensors")
    save_file({name: 3 * value[::-1].copy() for name, value in weights.items()}, broken / "adapter_model.safetensors")
    command = [sys.executable, "-m", "pytest_finetune.cli", "serve", "embedded", "--port=0"]
    command += [f"--adapter=good={good}", f"--adapter=broken={broken}"]
    with servers.running(command) as (_, line):
        found = re.search(r"http://[\d.]+:\d+", line)
        assert found, line
        listed = [model.id for model in openai.OpenAI(base_url=f"{found[0]}/v1", api_key="-").models.list()]
        assert len(listed) == 3, listed
        held = [json.loads(text) for text in (folder / "heldout.jsonl").read_text().splitlines()]
        yield Stage(found[0], listed[1], listed[2], folder, held)


def send(shadow: servers.Shadow, stage: Stage, count: int, seed: int = 0) -> list[str]:
    """Send requests as users do, several at once, half of them streamed; return the answers."""
    client = openai.OpenAI(base_url=f"{shadow.url}/v1", api_key="users-own", max_retries=0)
    drawn = random.Random(seed).choices(stage.rows, k=count)

    def ask(number: int) -> str:
        given = {"extra_headers": {"x-conversation-id": f"{seed}-{number}"}, "temperature": 0, "max_tokens": 6}
        messages = [
            {"role": "system", "content": "Name the box."},
            {"role": "user", "content": drawn[number]["prompt"]},
        ]
        made = client.chat.completions.create(model="embedded", messages=messages, stream=bool(number % 2), **given)  # type: ignore[call-overload]
        if number % 2:
            return "".join(part.choices[0].delta.content or "" for part in made if part.choices)
        return str(made.choices[0].message.content)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, range(count)))


def mirrored(shadow: servers.Shadow, name: str, count: int) -> None:
    """Wait until so many pairs are complete."""
    shadow.until(lambda spool: sum(spool.totals(name).values()) >= count)


def test_from_hold_to_promote_to_canary(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good adapter: HOLD while little was seen, PROMOTE after more; the canary takes all users over in steps."""
    config = stage.settings(stage.good)
    with servers.shadow(stage.url, stage.url, tmp_path / "s", config) as shadow:
        answers = send(shadow, stage, 20)
        mirrored(shadow, stage.good, 20)
        assert not any(answer.startswith("box") for answer in answers)  # users see the base model
        assert stage.verdict(tmp_path / "s", config) == 10
        said = capsys.readouterr().out
        assert re.search(r"about \d+ pairs more are expected", said)
        send(shadow, stage, 160, seed=1)
        mirrored(shadow, stage.good, 180)
        assert stage.verdict(tmp_path / "s", config) == 0
        assert f"shadow of {stage.good}: PROMOTE" in capsys.readouterr().out
        options = [f"--spool={tmp_path / 's'}", config, "--metric=exact_match"]
        assert (
            cli.main(["shadow", "canary", "--start", *options, f"--references={stage.folder / 'heldout.jsonl'}"]) == 0
        )
        shadow.wait_for("50% of conversations")
        first = send(shadow, stage, 40, seed=2)
        again = send(shadow, stage, 40, seed=2)
        served = [answer.startswith("box") for answer in first]
        assert 8 <= sum(served) <= 32
        assert all(later for now, later in zip(served, (a.startswith("box") for a in again), strict=True) if now)
        shadow.wait_for("100% of conversations")
        assert all(answer.startswith("box") for answer in send(shadow, stage, 8, seed=3))


def test_broken_is_rejected(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An adapter whose answers break the schema is rejected, and users have not seen one of them."""
    config = stage.settings(stage.broken, 'schema = { enum = ["box red"] }')
    with servers.shadow(stage.url, stage.url, tmp_path / "s", config) as shadow:
        send(shadow, stage, 60)
        mirrored(shadow, stage.broken, 60)
    # The primary's own answers as references: of these the broken one keeps few.
    own = [{"id": pair.primary.answer_id, "reference": pair.primary.text} for pair in Spool(tmp_path / "s").pairs()]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    options = [f"--spool={tmp_path / 's'}", config, f"--references={tmp_path / 'own.jsonl'}", "--metric=exact_match"]
    assert cli.main(["shadow", "verdict", *options]) == 1
    said = capsys.readouterr().out
    assert f"shadow of {stage.broken}: REJECT" in said
    assert "FAIL         candidate keeps exact_match" in said


def test_a_canary_that_breaks_goes_back(stage: Stage, tmp_path: Path) -> None:
    """Where the candidate dies while it serves users, every user gets the primary's answer, and the canary ends."""
    config = stage.settings(stage.good)
    with servers.upstream("error") as dying, servers.shadow(stage.url, dying, tmp_path / "s", config) as shadow:
        send(shadow, stage, 4)
        mirrored(shadow, stage.good, 4)
        options = [f"--spool={tmp_path / 's'}", config]
        assert cli.main(["shadow", "canary", "--start", "--force=a test", *options]) == 0
        shadow.wait_for("50% of conversations")
        answers = send(shadow, stage, 40, seed=5)
        assert len(answers) == 40
        shadow.wait_for("0% of conversations")
        (back,) = [move for move in shadow.spool().moves(stage.good) if move.why.startswith("rolled back")]
        assert "answers without a fault" in back.why


def test_a_test_holds_the_shadow(stage: Stage, tmp_path: Path) -> None:
    """`gate.holds` passes on enough traffic, blocks on too little, and a missing option is one line."""
    (stage.folder / "test_shadow_colours.py").write_text(HOLDS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--finetune",
        "-q",
        f"--rootdir={stage.folder}",
        "-p",
        "no:cacheprovider",
    ]

    def gate(*options: str) -> tuple[int, str]:
        done = subprocess.run(
            [*command, *options, "test_shadow_colours.py"],
            cwd=stage.folder,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"COLUMNS": "300"},
        )
        return done.returncode, done.stdout + done.stderr

    spool = Spool(tmp_path / "s", create=True)
    reply = Reply(200, "", 0.1, 0.2, "nothing", "n", 7)
    for number in range(700):
        row = stage.rows[number % len(stage.rows)]
        right = replace(reply, text=row["completion"], text_digest="r")
        asked = digest.of(row["prompt"])
        exchange = Exchange(0, 0.0, str(number), stage.good, "/v1/chat/completions", row["prompt"], asked, {"a": 1})
        spool.add(exchange, {"primary": reply, "candidate": right})
        if number == 29:
            code, said = gate(f"--finetune-shadow={tmp_path / 's'}")
            assert code == 10, said
            assert "candidate reaches 99.0 % on answers without a fault" in said
            assert "would settle it" in said
    code, said = gate(f"--finetune-shadow={tmp_path / 's'}")
    assert code == 0, said
    assert "1 passed" in said
    code, said = gate()
    assert code == 1, said
    assert "fixture shadow: which spool? name the proxy's file with --finetune-shadow=FILE" in said
    assert "Traceback" not in said
    code, said = gate("--finetune-shadow=none")
    assert (code, "no spool there" in said) == (4, True)


def test_an_hour_of_banking77(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """An hour of real questions: HOLD at first, PROMOTE of a good adapter, REJECT of a broken one; no request fails."""
    data = request.config.getoption("banking77")
    if data is None:
        pytest.skip("needs --banking77=DIR: train.csv and test.csv of PolyAI-LDN/task-specific-datasets, banking_data")
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks.shadow_hour", f"--data={data}", "--speed=30", f"--out={page}"]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=1500)
    good, broken = page.read_text().split("## ")[1:]
    assert [cell for cell in good.split() if cell.startswith("**")] == [
        "**HOLD**",
        "**HOLD**",
        "**PROMOTE**",
        "**PROMOTE**",
    ]
    assert "**REJECT**" in broken
    assert "**PROMOTE**" not in broken
    assert page.read_text().count("Requests that failed: 0.") == 2
