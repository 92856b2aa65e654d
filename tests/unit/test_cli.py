"""The command line: what it prints is no command, whatever a file holds, and it ends without a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import runs

from benchmarks.runner_log import commands
from pytest_finetune import cli
from pytest_finetune.records import to_plain
from pytest_finetune.report import run_json

HOSTILE = "##[add-mask]red\x1b[31m"
REPORT = "import sys; from pytest_finetune import cli; sys.exit(cli.main(['report', '-v', 'run.json']))"


def test_a_mistake_is_one_line_without_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a damaged run holds shows in the error, and acts neither on a runner nor on a terminal."""
    damaged = tmp_path / "run.json"
    damaged.write_text(json.dumps({**to_plain(runs.run()), "outcome": HOSTILE}))
    assert cli.main(["report", str(damaged)]) == 4
    said = capsys.readouterr().err
    assert "add-mask" in said
    assert said.count("\n") == 1
    assert not list(commands(said))
    assert "\x1b" not in said


def test_findings_in_rows_are_no_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels of hostile rows that `curate` tells of do nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("train", "heldout"):
        rows = [{"prompt": f"{name} {i} of {i * i}", "completion": "blue" if i % 3 else HOSTILE} for i in range(99)]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "suite.toml").write_text(
        'model = "embedded"\ntask = "classification"\ndata = { train = "train.jsonl", heldout = "heldout.jsonl" }\n'
        '[prompts]\ncandidates = ["Name the colour."]\n'
    )
    cli.main(["curate", "."])
    said = capsys.readouterr().out
    assert "add-mask" in said
    assert not list(commands(said))
    assert "\x1b" not in said


def test_no_file_but_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that is to be written to a folder, however that is called, is one line."""
    monkeypatch.chdir(tmp_path)
    run_json.write(runs.run(), Path("run.json"))
    for folder in (".", "..", str(tmp_path)):
        assert cli.main(["report", "run.json", "--html", folder]) == 4
        assert capsys.readouterr().err.startswith(f"ERROR: --html={folder}: cannot be written")


def test_any_terminal_and_any_reader(tmp_path: Path) -> None:
    """An encoding without the report's characters shows them as escapes; a reader that leaves ends the command."""
    run_json.write(runs.run(), tmp_path / "run.json")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    made = subprocess.run(
        [sys.executable, "-c", REPORT], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert rb"dev loss \u2588" in made.stdout
    reading, writing = os.pipe()
    os.close(reading)
    left = subprocess.run(
        [sys.executable, "-c", REPORT], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (left.returncode, left.stderr) == (cli.PIPE_CLOSED, b"")
