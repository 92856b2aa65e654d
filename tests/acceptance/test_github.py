"""`pytest --finetune` under GitHub Actions: what the runner is told, and that nobody else tells it anything."""

import os
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from colours import rows

from benchmarks.runner_log import Command, commands, heard
from pytest_finetune.report import markdown

HOSTILE = r"""
def test_says_so(heldout):
    print("::add-mask::captured\n##[add-path]/captured")
    said = heldout.examples[-1].text
    assert said == ""
"""


@pytest.mark.slow
@pytest.mark.attack(16)
@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_runner_hears_of_failures_only(
    workers: tuple[str, ...], pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a test that fails and prints hostile data the runner hears one annotation; the summary is written once."""
    (project / "heldout.jsonl").write_text(
        rows(1000, 60) + '{"prompt": "::error::x ##[add-mask]secret", "completion": "box red"}\n'
    )
    (project / "test_colours.py").write_text(HOSTILE)
    summary = pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path.parent))
    result = pytester.runpytest_subprocess(
        "--finetune", "-p", "no:cacheprovider", "--finetune-markdown=run.md", "--junitxml=junit.xml", *workers
    )
    assert result.ret == 1
    log = result.stdout.str()
    assert len(list(commands(log))) > 3  # pytest prints what the test had
    (told,) = heard(log)
    properties = {"file": f"{pytester.path.name}/colours/test_colours.py", "line": "2"}
    assert told == Command("error", {**properties, "title": told.properties["title"]}, told.data)
    assert told.properties["title"] == "FAIL: colours/test_colours.py::test_says_so"
    assert summary.read_text().count(markdown.MARKER) == 1
    assert "secret" in (pytester.path / "run.md").read_text()
    assert ET.parse(pytester.path / "junit.xml").getroot() is not None
    assert os.fspath(pytester.path) not in told.properties["file"]


@pytest.mark.slow
def test_elsewhere_no_command_is_printed(
    pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside GitHub Actions nothing is told to a runner, and no summary is written."""
    summary = pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    (project / "test_colours.py").write_text("def test_fails(heldout):\n    assert not heldout\n")
    result = pytester.runpytest_subprocess("--finetune", "-p", "no:cacheprovider")
    assert result.ret == 1
    assert not list(commands(result.stdout.str()))
    assert not summary.exists()
