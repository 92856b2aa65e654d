"""Beside other plugins of pytest: a suite trains once, and nothing that runs a test again makes a pass of a verdict."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from colours import SUITE, TEST

from pytest_finetune.ledger import Ledger

for plugin in ("pytest_cov", "pytest_html", "pytest_randomly", "pytest_rerunfailures", "pytest_timeout", "xdist"):
    pytest.importorskip(plugin)

ALL = ("-prandomly", "--reruns=2", "--html=report.html", "--self-contained-html", "--cov", "--cov-report=json")
# Of the base model, so that nothing is trained. The last attempt claims nothing.
REFUTED = """
import itertools
import pytest

ATTEMPTS = itertools.count()


def test_refuted(gate, baseline, heldout):
    gate.reaches(baseline, on=heldout, at_least=0.9)


@pytest.mark.flaky(reruns=3)
def test_asks_less_each_time(gate, baseline, heldout):
    attempt = next(ATTEMPTS)
    if attempt < 2:
        gate.reaches(baseline, on=heldout[10 * attempt :], at_least=0.9 - 0.1 * attempt)
"""
CUT = """
def test_first(heldout):
    assert heldout


def test_second(heldout):
    assert heldout
"""
OPEN = """
def test_open(gate, baseline, heldout):
    gate.reaches(baseline, on=heldout[:5], at_least=0.1)
"""


def run(pytester: pytest.Pytester, *options: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    """Run the gate; return what it said and its report."""
    result = pytester.runpytest_subprocess("--finetune", "--finetune-report=run.json", *options, timeout=500)
    return result, json.loads((pytester.path / "run.json").read_text())


@pytest.mark.slow
@pytest.mark.fault(13)
def test_all_at_once(pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all of them and four workers that need one adapter it is trained once, as by pytest alone, and passes."""
    for number in range(3):
        (project / f"test_again_{number}.py").write_text(TEST.replace("the_best_prompt", f"it_again_{number}"))
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    result, found = run(pytester, "-n4", *ALL)
    assert result.ret == 0
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["*PASS*adapter beats baseline*"])
    assert found["outcome"] == "PASS"
    assert "test_beats_it_again_2" in (pytester.path / "report.html").read_text()
    assert "colours/test_colours.py" in json.loads((pytester.path / "coverage.json").read_text())["files"]
    store = pytester.path / ".finetune"
    [adapter] = (store / "adapter").iterdir()
    assert [entry.attempt for entry in Ledger(store).entries()] == [1]

    monkeypatch.setenv("PYTHONHASHSEED", "8")
    alone, other = run(pytester, "--finetune-store=alone", "-p", "no:xdist", "-p", "no:rerunfailures")
    assert alone.ret == 0
    assert [path.name for path in (pytester.path / "alone" / "adapter").iterdir()] == [adapter.name]
    assert other["suites"][0]["adapter"]["digest"] == found["suites"][0]["adapter"]["digest"]


@pytest.mark.slow
def test_no_rerun_makes_a_pass(pytester: pytest.Pytester, project: Path) -> None:
    """What is refuted or open stays so however often it is run again, by whatever option; each look at other rows is
    an attempt, and the same look is none.
    """
    (project / "test_colours.py").write_text(TEST + REFUTED + OPEN)
    chosen = ("-k", "refuted or asks or open")
    result, found = run(pytester, *ALL, *chosen, "--only-rerun=ClaimNotProven", "--reruns-delay=0")
    assert result.ret == 1
    outcomes = {test["name"].rpartition("::")[2]: test["outcome"] for test in found["tests"]}
    named = ("test_refuted", "test_asks_less_each_time", "test_open")
    assert [outcomes[name] for name in named] == ["FAIL", "FAIL", "INCONCLUSIVE"]
    result.stdout.fnmatch_lines(["*1 failed, 1 passed, * 6 rerun, 1 inconclusive*"])  # the pass is the third attempt
    page = (pytester.path / "report.html").read_text()
    assert "FAIL: baseline reaches" in page
    ledger = Ledger(pytester.path / ".finetune")
    assert [entry.attempt for entry in ledger.entries() if entry.outcome == "FAIL"] == [1, 2]
    assert len(ledger.entries()) == 3
    for options in (["--lf"], ["--ff", "-x"], ["--stepwise"]):
        again, _ = run(pytester, "-k", "refuted or open", "--reruns=1", *options)
        assert again.ret in (1, 2, 10), options  # --stepwise ends as interrupted
        again.stdout.no_fnmatch_line("* passed*")
    assert len(ledger.entries()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["signal", "thread"])
def test_timeout_amid_training(pytester: pytest.Pytester, project: Path, method: str) -> None:
    """pytest-timeout ends a test that trains, whatever its method: a fault; no engine and nothing half made stays."""
    (project / "suite.toml").write_text(SUITE.replace("epochs = 4", "epochs = 4000"))
    result, found = run(pytester, "-k", "beats", "--timeout=25", f"--timeout-method={method}")
    assert result.ret == 11
    assert found["outcome"] == "ERROR"
    result.stdout.fnmatch_lines(["*Timeout (>25*"])
    store = pytester.path / ".finetune"
    until = time.monotonic() + 20
    while (left := engines(pytester.path)) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left
    assert not list((store / "adapter").glob("*/*"))
    assert not list(store.glob("work-*"))


def test_a_run_that_is_cut_short_is_no_pass(pytester: pytest.Pytester, project: Path) -> None:
    """Where the time of all tests is over before some have run, and where too little is covered, no run passes."""
    (project / "test_colours.py").write_text(CUT)
    result, found = run(pytester, "--session-timeout=0.01")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert found["outcome"] == "ERROR"
    result.stdout.fnmatch_lines(["*session-timeout*", "*1 passed*"])
    result, found = run(pytester, "--cov=pytest_finetune.engine", "--cov-fail-under=100")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert found["outcome"] == "FAIL"
    result.stdout.fnmatch_lines(["*3 passed*"])  # and its row of the data


@pytest.mark.slow
def test_lost_worker_is_a_fault(pytester: pytest.Pytester, project: Path) -> None:
    """An xdist worker that the host kills is an error of the machinery, and not a refuted claim."""
    dies = "import os, signal\n\n\ndef test_dies(base_model):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    (project / "test_colours.py").write_text(dies + TEST)
    result, found = run(pytester, "-n1", "-k", "dies")
    assert result.ret == 11
    assert found["outcome"] == "ERROR"
    [lost] = [test for test in found["tests"] if test["outcome"] == "ERROR"]
    assert "crashed while running" in lost["message"]


def engines(folder: Path) -> list[str]:
    """Return the engines that work in a folder, by their command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
            if "pytest_finetune.engine.worker" in command and (process / "cwd").resolve() == folder.resolve():
                found.append(command)
        except OSError:  # it has just ended, or is somebody else's
            continue
    return found
