"""What a small change makes anew, and what `--finetune-explain` says of it; the engine is a fake, in this process."""

from pathlib import Path

import numpy.fft
import pytest
import scipy.stats
from colours import CUES, KEEPS, SUITE, TEST, rows
from fake_engine import FakeEngine

from pytest_finetune import session
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Adapter

# Their C modules load once a process, and pytester forgets what is first imported in a run.
LOADED = (numpy.fft, scipy.stats)
EXPLAIN = ("--finetune", "--finetune-explain", "--finetune-no-early-stop", "-p", "no:cacheprovider")
BEATS = "verdict of test_beats_the_best_prompt (superiority on held-out)"


class Engine(FakeEngine):
    """Knows the colours once it is trained."""

    closed = False

    def __init__(self) -> None:
        super().__init__(answer)


def answer(prompt: Turns, adapter: Adapter | None) -> str:
    """The base model has no idea, and repeats what it is asked."""
    asked = prompt[-1].content
    known = [label for label, cues in CUES.items() if asked.split()[-1] in cues]
    return f"box {known[0]}" if known and adapter else asked


class Project:
    """A project whose runs start a fake engine; ``started`` are those of the last run, ``ahead`` of its first test."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        self.started: list[Engine] = []
        self.ahead = 0
        monkeypatch.setattr(session, "EngineProcess", lambda *given: self.start())

    def pytest_runtestloop(self) -> None:
        """Note whether the engine started ahead."""
        self.ahead = len(self.started)

    def start(self) -> Engine:
        """Return an engine, as the first request of a run gets it."""
        self.started.append(Engine())
        return self.started[-1]

    def stages(self, *args: str, ret: int = 0) -> dict[str, str]:
        """Run, and return what is said of each stage."""
        self.started.clear()
        result = self.pytester.runpytest_inprocess(*EXPLAIN, *args, plugins=[self])
        assert result.ret == ret
        lines = [line.split(maxsplit=1)[1] for line in result.outlines if line.startswith("  stage  ")]
        return dict(line.split(": ", 1) for line in lines)

    def asked(self) -> dict[str, int]:
        """Return how many requests of each kind the last run sent, and how often it trained."""
        (engine,) = self.started
        return {name: engine.requests.get(name, 0) or calls for name, calls in engine.calls.items() if name != "close"}


@pytest.fixture
def runs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """What runs the suite."""
    return Project(pytester, monkeypatch)


@pytest.fixture
def folder(project: Path) -> Path:
    """A suite with a general suite of words to write back."""
    (project / "words.jsonl").write_text("".join(f'{{"prompt": "x{i}", "completion": "x{i}"}}\n' for i in range(100)))
    gate = "gate = { margin = 0.02, max_drop = 0.2, guard = 0.3 }\n"
    (project / "suite.toml").write_text(SUITE + gate + '[[general]]\ndata = "words.jsonl"\n')
    (project / "test_colours.py").write_text(TEST + KEEPS)
    return project


def made(stages: dict[str, str]) -> set[str]:
    """Return the stages that were made."""
    return {name for name, told in stages.items() if told.startswith("made")}


def test_nothing_changed(runs: Project, folder: Path) -> None:
    """The first run makes all; the second starts no engine and reuses all."""
    first = runs.stages()
    assert runs.ahead
    assert first["outputs of adapter on held-out"] == "made: 0 of 150 rows reused, 150 asked: first time"
    assert {told.rpartition(": ")[2] for told in first.values()} == {"first time"}
    again = runs.stages("--finetune-report=run.json")
    assert not runs.started
    assert made(again) == set()
    assert again["outputs of adapter on held-out"] == "reused: with the verdict"
    assert again.keys() == first.keys()
    assert '"adapter": "reused"' in (runs.pytester.path / "run.json").read_text()


def test_a_margin_makes_a_verdict_only(runs: Project, folder: Path) -> None:
    """No engine is started for another margin, or another thing to do about an issue that drops nothing."""
    runs.stages()
    text = (folder / "suite.toml").read_text().replace("margin = 0.02", "margin = 0.05")
    (folder / "suite.toml").write_text(text + '[checks.sizing]\non_issue = "off"\n')
    found = runs.stages()
    assert not runs.started
    assert made(found) == {"data", BEATS}
    assert found[BEATS] == "made: [gate] margin 0.02 -> 0.05"
    assert found["outputs of adapter on held-out"] == "reused: 150 rows"


def test_a_held_out_row_asks_one_row(runs: Project, folder: Path) -> None:
    """A row that was added is one answer of each subject; nothing is trained."""
    runs.stages()
    (folder / "heldout.jsonl").write_text(rows(1000, 151))
    found = runs.stages()
    assert runs.ahead
    assert runs.asked() == {"generate": 2}
    told = "made: 150 of 151 rows reused, 1 asked: held-out rows: 1 added, 0 removed"
    assert found["outputs of adapter on held-out"] == found["outputs of baseline on held-out"] == told
    assert found["data"] == "made: held-out rows: 1 added, 0 removed"
    assert found[BEATS] == "made: held-out rows: 1 added, 0 removed; attempt 1 -> 2"
    assert found["outputs of adapter on words"] == "reused: with the verdict"


def test_a_general_row_leaves_training_alone(runs: Project, folder: Path) -> None:
    """A row more in a general suite is one answer of each subject, and makes no adapter."""
    runs.stages()
    with (folder / "words.jsonl").open("a") as stream:
        stream.write('{"prompt": "y", "completion": "y"}\n')
    found = runs.stages()
    assert runs.asked() == {"generate": 2}
    assert found["adapter"] == found[BEATS] == "reused"
    told = "made: 100 of 101 rows reused, 1 asked: words rows: 1 added, 0 removed"
    assert found["outputs of base model on words"] == told


def test_a_train_row_trains(runs: Project, folder: Path) -> None:
    """The adapter is made anew, and its rows are asked; the base model's are reused."""
    runs.stages()
    (folder / "train.jsonl").write_text(rows(0, 151))
    found = runs.stages()
    assert runs.asked()["train"] == 1
    assert found["adapter"] == "made: train rows: 1 added, 0 removed"
    assert found["outputs of adapter on held-out"] == "made: 0 of 150 rows reused, 150 asked: adapter"
    assert found["outputs of baseline on held-out"] == "reused: 150 rows"


def test_retraining_is_told(runs: Project, folder: Path) -> None:
    """With --finetune-retrain the option is the reason; the same adapter comes out, and its verdict stays."""
    runs.stages()
    found = runs.stages("--finetune-retrain")
    assert runs.asked() == {"train": 1}
    assert found["adapter"] == "made: --finetune-retrain"
    assert found[BEATS] == "reused"


def test_stages_are_told_where_asked_for(runs: Project, folder: Path) -> None:
    """Without the option nothing is said of stages."""
    result = runs.pytester.runpytest_inprocess(*(arg for arg in EXPLAIN if arg != "--finetune-explain"))
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*stage *")
