"""`pytest-finetune init`: what it writes runs at once, and nothing of the user's is touched."""

import importlib.util
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pytest_finetune import cli, suite
from pytest_finetune.advisor import TASKS
from pytest_finetune.starter import workflow

COMMAND = Path(sys.executable).parent / "pytest-finetune"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(root: Path) -> dict[str, bytes]:
    """Return all files by name."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def rows(count: int, completion: str = "label", **more: str) -> str:
    """Return JSONL rows with a text and one of three labels."""
    made = ({"text": f"what is number {i}", completion: "abc"[i % 3], **more} for i in range(count))
    return "".join(json.dumps(row) + "\n" for row in made)


def test_samples_run_at_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every task: fit data that can prove what is claimed, a clean test, and no GPU, hub or file of the user's."""
    for task in TASKS:
        assert cli.main(["init", f"evals/{task}", "--task", task]) == 0
    planned = pytester.runpytest_subprocess("--finetune-plan", "evals")
    assert planned.ret == 0
    text = planned.stdout.str()
    assert text.count("fit to use") == len(TASKS)
    assert "cannot" not in text
    assert "outside of the usual" not in text
    assert Path(".gitignore").read_text() == ".finetune/\n"
    monkeypatch.chdir("evals")
    plain = pytester.runpytest_subprocess()
    plain.assert_outcomes(skipped=2 * len(TASKS))
    plain.stdout.fnmatch_lines([f"rootdir: {pytester.path}"])  # else another store, whose ledger knows no attempt


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is of the lint extra")
def test_written_tests_are_clean(root: Path) -> None:
    """Ruff finds nothing in a suite's test, and would not format it otherwise."""
    assert cli.main(["init", "my-suite"]) == 0
    assert (root / "my-suite" / "test_my_suite.py").is_file()
    for arguments in (["check", "--isolated", "--select=E,F,W,I,D,B,PT", "--ignore=D203,D213"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *arguments, "--line-length=120", "my-suite"], check=True)


@pytest.mark.slow
def test_sample_passes_the_gate(pytester: pytest.Pytester) -> None:
    """The first run of a new user, with real training, is green."""
    assert cli.main(["init", "evals/first"]) == 0
    result = pytester.runpytest_subprocess("--finetune", "evals")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*PASS*adapter beats baseline*", "*PASS*adapter keeps 2 general suites*"])


def test_one_file_is_cut_into_new_ones(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The user's file stays, each of its rows lands in one of the new files, and one question never in both."""
    (root / "all.jsonl").write_text(given := rows(200) + rows(200, id="again"))
    assert cli.main(["init", "evals/mine", "--train", "all.jsonl"]) == 0
    assert (root / "all.jsonl").read_text() == given
    train, heldout = (
        (root / "evals/mine" / name).read_text().splitlines() for name in ("train.jsonl", "heldout.jsonl")
    )
    assert sorted([*train, *heldout]) == sorted(given.splitlines())
    asked = [{json.loads(line)["text"] for line in side} for side in (train, heldout)]
    assert not asked[0] & asked[1]
    assert 0.1 < len(heldout) / 400 < 0.3
    spec = suite.load(root / "evals/mine/suite.toml", root)
    assert (spec.task, spec.labels, spec.fields.prompt, spec.fields.completion) == (
        "classification",
        ("a", "b", "c"),
        "text",
        "label",
    )
    told = capsys.readouterr().out
    assert "read as classification: 'text' is asked, 'label' is the answer (3 labels)" in told
    assert "no general suite" in told


def test_two_files_are_named_where_they_are(root: Path) -> None:
    """Files to train on, to judge by, to keep and to replay are named and not copied; odd columns are told."""
    (root / "data").mkdir()
    order = '{{"q": "order {0}, please", "a": "{{\\"id\\": {0}}}", "note": ""}}\n'
    for name, first in (("train", 0), ("heldout", 1000)):
        (root / f"data/{name}.jsonl").write_text("".join(order.format(i) for i in range(first, first + 100)))
    for name, first in (("sums", 0), ("sums-replay", 500)):
        (root / f"data/{name}.csv").write_text(
            "question,answer\n" + "".join(f"1 + {i}?,{i + 1}\n" for i in range(first, first + 100))
        )
    before = found(root)
    sources = ["--train", "data/train.jsonl", "--heldout", "data/heldout.jsonl", "--general", "data/sums.csv"]
    assert cli.main(["init", "evals/mine", *sources, "--fields", "q", "a"]) == 0
    assert {name: found(root)[name] for name in before} == before
    assert {path.name for path in (root / "evals/mine").iterdir()} == {
        "suite.toml",
        "test_mine.py",
        "answer.schema.json",
    }
    spec = suite.load(root / "evals/mine/suite.toml", root)
    assert spec.train == (str(root / "data/train.jsonl"),)
    assert (spec.task, spec.gate.metric) == ("extraction", "json_fields")
    assert json.loads(spec.answer_schema)["properties"] == {"id": {"type": "integer"}}
    assert [Path(path).name for path in (*spec.general[0].data, *spec.general[0].replay)] == [
        "sums.csv",
        "sums-replay.csv",
    ]
    assert "gate.keeps" in (root / "evals/mine/test_mine.py").read_text()


MISTAKES = {
    "columns nobody knows": (["--train", "odd.jsonl"], "odd.jsonl:1: it is not clear which of 'a', 'b'"),
    "no such column": (["--train", "good.jsonl", "--fields", "text", "lable"], "good.jsonl:1: the row has no field"),
    "no such file": (["--train", "gone.jsonl"], "--train gone.jsonl: no such file"),
    "no rows": (["--train", "empty.jsonl"], "empty.jsonl: the file has no rows"),
    "too few rows": (["--train", "few.jsonl"], "few.jsonl: 20 rows make"),
    "outside": (["--train", "/etc/hostname"], "leads out of"),
    "suite outside": (["../elsewhere"], "../elsewhere: leads out of"),
    "no such task": (["--task", "stlye"], "did you mean 'style'?"),
    "hub id without a commit": (["--model", "org/model"], "needs its commit: --revision"),
    "no model": (["--model", "models"], "there is no config.json in it"),
    "rows to judge by only": (["--heldout", "good.jsonl"], "--train"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_writes_nothing(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each mistake gives exit code 4 and one line that names what is wrong, and leaves every file as it was."""
    (root / "good.jsonl").write_text(rows(300))
    (root / "few.jsonl").write_text(rows(20))
    (root / "empty.jsonl").write_text("")
    (root / "odd.jsonl").write_text('{"a": "x", "b": "y"}\n' * 100)
    (root / "models").mkdir()
    before = found(root)
    arguments, line = MISTAKES[name]
    assert cli.main(["init", *arguments]) == 4
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert found(root) == before


def test_a_repository_is_gated_from_its_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GitHub reads workflows of a repository's root only, so that init refuses to write them elsewhere."""
    for folder in (".git", "part"):
        (root / folder).mkdir()
    monkeypatch.chdir(root / "part")
    assert cli.main(["init"]) == 4
    assert not found(root)


def test_nothing_is_overwritten(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A suite that is there stays; the user's .gitignore and workflow stay, and what they lack is said."""
    (root / "pyproject.toml").touch()  # a root by itself
    (root / ".gitignore").write_text("*.pyc\n")
    (root / workflow.FILE).parent.mkdir(parents=True)
    (root / workflow.FILE).write_text("name: mine\n")
    assert cli.main(["init", "evals/first"]) == 0
    told = capsys.readouterr().out
    assert ".gitignore is yours: add the line .finetune/" in told
    assert "finetune.yml is yours: see that it gates evals/first" in told
    before = found(root)
    assert "pytest.toml" not in before
    assert before[".gitignore"] == b"*.pyc\n"
    assert before[workflow.FILE] == b"name: mine\n"
    assert cli.main(["init", "evals/first"]) == 4
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert found(root) == before


def on_a_terminal(keys: bytes) -> tuple[int, str]:
    """Run init with a terminal for its input and output; return its exit code and what it showed."""
    terminal, end = pty.openpty()
    process = subprocess.Popen([COMMAND, "init"], stdin=end, stdout=end, stderr=end)
    os.close(end)
    os.write(terminal, keys)
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(terminal)
    return process.wait(timeout=60), shown.decode()


def test_asks_on_a_terminal(root: Path) -> None:
    """What no flag says is asked for, an empty answer is the default, and Ctrl-D ends it with nothing written."""
    code, shown = on_a_terminal(b"evals/mine\n\x04")
    assert (code, found(root)) == (4, {})
    assert "ended before its last question" in shown
    code, shown = on_a_terminal(b"evals/mine\n\nstyle\n\n")
    assert code == 0, shown
    assert suite.load(root / "evals/mine/suite.toml", root).task == "style"


def test_never_waits_without_a_terminal(root: Path) -> None:
    """In a script it takes the defaults, also where nobody will ever write to its input."""
    with subprocess.Popen([COMMAND, "init"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == 0
        assert process.stdin
    assert suite.load(root / "eval_suites/first/suite.toml", root).task == "classification"


@pytest.mark.parametrize("gpu", [True, False])
def test_workflow_calls_the_gate_as_it_is(gpu: bool) -> None:
    """The workflow gives inputs that the gate's has, and no right but those which its jobs take."""
    calling = yaml.safe_load(workflow.text("evals", gpu))["jobs"]["finetune"]
    called = yaml.safe_load((Path(__file__).parents[2] / workflow.FILE).read_text())
    taken: dict[str, str] = {}
    for job in called["jobs"].values():
        taken |= job.get("permissions", {})
    assert calling["permissions"] == taken
    assert calling["with"].keys() <= called[True]["workflow_call"]["inputs"].keys()  # YAML 1.1 reads `on` as true
    assert "verdict" in called["jobs"]
