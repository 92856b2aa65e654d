"""The policy of the base branch: a pull request that lowers its own bar does not pass unless somebody accepts it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from colours import SUITE, TEST, rows

import pytest_finetune.collect  # noqa: F401 # once for all runs, which are in this process since that saves their seconds
from pytest_finetune.cli import main

REF, ACCEPT = "--finetune-policy-ref=main", "--finetune-accept-policy-change"
LOWER = SUITE + "gate = { margin = 0.01 }\n"
GPU = SUITE + 'requires = ["gpu"]\n'


def commit(folder: Path) -> None:
    """Make a folder a repository, with all that is in it on main."""
    who = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "x"]):
        environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull}
        subprocess.run(["git", *command], cwd=folder, env=environment, check=True)


@pytest.fixture
def branch(pytester: pytest.Pytester, project: Path) -> Path:
    """A suite's folder in a working tree of main, beside a test of the project's own."""
    pytester.makeini("[pytest]\naddopts = --import-mode=importlib\n")
    pytester.makepyfile(test_own="def test_own():\n    pass\n")
    commit(project.parent)
    return project


def gate(pytester: pytest.Pytester, *options: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    """Run the gate; return what it said and its report. Without training, which no test here is about."""
    result = pytester.runpytest_inprocess("--finetune", "--finetune-report=run.json", "--finetune-device=cpu", *options)
    report = pytester.path / "run.json"
    return result, json.loads(report.read_text()) if report.exists() else {}


@pytest.mark.attack(3)
def test_lowered_bar_fails(pytester: pytest.Pytester, branch: Path) -> None:
    """A lowered margin fails the suite's policy item in plain lines with before, after and remedy."""
    (branch / "suite.toml").write_text(LOWER)
    result, run = gate(pytester, REF, "-k", "policy or data")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1, deselected=3)
    lines = ["*suite.toml: less must be proven than at main*", "  colours: [[]gate[]] margin: 0.05 -> 0.01"]
    result.stdout.fnmatch_lines([*lines, "*--finetune-accept-policy-change"])
    assert "Traceback" not in result.stdout.str()
    assert run["outcome"] == "FAIL"
    assert not run["policy_accepted"]
    told = {"suite": "colours", "what": "[gate] margin", "before": "0.05", "after": "0.01", "lowers": True}
    assert run["policy"] == [told]


def test_accepted_change_passes_and_is_flagged(pytester: pytest.Pytester, branch: Path) -> None:
    """What somebody accepted passes, and the record says both what was lowered and that it was accepted."""
    (branch / "suite.toml").write_text(LOWER)
    result, run = gate(pytester, REF, ACCEPT, "-k", "policy")
    assert result.ret == 0
    assert run["outcome"] == "PASS"
    assert run["policy_accepted"]
    assert [change["what"] for change in run["policy"]] == ["[gate] margin"]


def test_raised_bar_passes(pytester: pytest.Pytester, branch: Path) -> None:
    """A raised bar is told and passes."""
    (branch / "suite.toml").write_text(SUITE + "gate = { margin = 0.2 }\n")
    result, run = gate(pytester, REF, "-k", "policy")
    assert result.ret == 0
    assert [change["lowers"] for change in run["policy"]] == [False]


@pytest.mark.attack(3)
def test_held_out_rows_edited(pytester: pytest.Pytester, branch: Path) -> None:
    """Edited held-out rows fail, also where the item that says so is not selected."""
    (branch / "heldout.jsonl").write_text(rows(5000, 150))
    result, run = gate(pytester, REF, "-k", "data")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert [change["what"] for change in run["policy"]] == ["held-out: colours/heldout.jsonl edited"]
    assert run["outcome"] == "FAIL"


def test_removed_suite_fails(pytester: pytest.Pytester, branch: Path) -> None:
    """A suite that is gone fails the run, though nothing of it is left to run."""
    for file in branch.iterdir():
        file.unlink()
    result, run = gate(pytester, REF)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1)
    assert [(change["suite"], change["what"]) for change in run["policy"]] == [("colours", "suite removed")]
    assert gate(pytester, REF, ACCEPT)[0].ret == 0


def test_only_the_suite_in_question_fails(pytester: pytest.Pytester, branch: Path) -> None:
    """A change of one suite fails no other suite's item; one of all suites fails each."""
    paint = pytester.mkdir("paint")
    for name in ("train.jsonl", "heldout.jsonl"):
        (paint / name).write_text((branch / name).read_text())
    (paint / "suite.toml").write_text(SUITE)
    (paint / "test_paint.py").write_text(TEST)
    commit(branch.parent)
    (branch / "suite.toml").write_text(LOWER)
    result, _ = gate(pytester, REF, "-k", "policy")
    result.assert_outcomes(passed=1, failed=1, deselected=7)
    (branch / "suite.toml").write_text(SUITE)
    pytester.makeconftest("")
    result, _ = gate(pytester, REF, "-k", "policy")
    result.assert_outcomes(failed=2, deselected=7)
    result.stdout.fnmatch_lines(["  all suites: pytest: conftest.py added: none -> *"])


@pytest.mark.slow
def test_workers_tell_the_controller(pytester: pytest.Pytester, branch: Path) -> None:
    """Under xdist the run fails the same, and each change is told once."""
    (branch / "suite.toml").write_text(LOWER)
    result, run = gate(pytester, REF, "-n1", "-k", "data or own")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2)
    assert len(run["policy"]) == 1
    assert gate(pytester, REF, ACCEPT, "-n1", "-k", "data or own")[0].ret == 0


@pytest.mark.attack(3)
def test_pull_request_cannot_accept_itself(pytester: pytest.Pytester, branch: Path) -> None:
    """The acceptance counts on the command line only, and not in addopts, which stands in the repository."""
    pytester.makeini(f"[pytest]\naddopts = {ACCEPT}\n")
    result, _ = gate(pytester, REF, "-k", "policy")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {ACCEPT}: give it on the command line*"])


def test_plan_tells_and_passes(pytester: pytest.Pytester, branch: Path) -> None:
    """A plan, which is all that a fork gets, tells what is lowered before anybody lends it a GPU."""
    (branch / "suite.toml").write_text(LOWER)
    result = plan(pytester, REF)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["  policy*colours: [[]gate[]] margin: 0.05 -> 0.01; lowers the bar*"])


def test_unknown_ref_is_one_line(pytester: pytest.Pytester, branch: Path) -> None:
    """A base branch that a shallow clone lacks is a usage error that says how to fetch it."""
    result, _ = gate(pytester, "--finetune-policy-ref=origin/main")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --finetune-policy-ref=origin/main: no such commit here; fetch it *fetch-depth*"]
    )


@pytest.mark.attack(3)
def test_verdict_over_cells_holds_the_bar(
    branch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`pytest-finetune verdict` compares by itself, without the pull request's code: lowered is a fail."""
    monkeypatch.chdir(branch.parent)
    Path("matrix.json").write_text(json.dumps({"include": [{"suite": "colours", "path": "colours"}]}))
    (branch / "suite.toml").write_text(LOWER)
    (branch / "conftest.py").write_text("raise SystemExit(0)\n")
    command = ["verdict", "--matrix=matrix.json", "--evidence=cells", "--policy-ref=main", "--report=all.json"]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "colours: [gate] margin: 0.05 -> 0.01; lowers the bar, not accepted\n" in said
    assert "verdict: FAIL" in said
    assert main([*command, "--accept-policy-change"]) == 11  # its cell is lost
    run = json.loads(Path("all.json").read_text())
    assert run["policy_accepted"]
    assert {change["what"] for change in run["policy"]} == {"[gate] margin", "code: colours/conftest.py added"}


def plan(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Plan, and ask for the matrix."""
    return pytester.runpytest_inprocess(
        "--finetune-plan", "--finetune-matrix=matrix.json", "--finetune-device=cpu", *options
    )


def test_matrix_has_every_suite(pytester: pytest.Pytester, project: Path) -> None:
    """The matrix names each suite and its folder, also where this machine lacks what all of them need."""
    nested = pytester.mkdir("more") / "paint"
    nested.mkdir()
    for name in ("train.jsonl", "heldout.jsonl", "test_colours.py"):
        (nested / name.replace("colours", "paint")).write_text((project / name).read_text())
    (nested / "suite.toml").write_text(GPU)
    assert plan(pytester, "more").ret == 0
    matrix = pytester.path / "matrix.json"
    assert json.loads(matrix.read_text()) == {"include": [{"suite": "paint", "path": "more/paint"}]}
    assert plan(pytester).ret == 0
    cells = [{"suite": "colours", "path": "colours"}, {"suite": "paint", "path": "more/paint"}]
    assert json.loads(matrix.read_text()) == {"include": cells}
    matrix.unlink()
    (nested / "suite.toml").write_text('name = "colours"\n' + GPU)
    result = plan(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *suite.toml: name = 'colours' is another suite's, too*"])
    (nested / "suite.toml").write_text('name = "../paint"\n' + GPU)
    result = plan(pytester)
    result.stderr.fnmatch_lines(["ERROR: *suite.toml: name = '../paint' must be of letters*"])
    assert not matrix.exists()


def test_no_matrix_of_refused_data(pytester: pytest.Pytester, project: Path) -> None:
    """A plan that refuses data fails as it does, and writes no matrix; a matrix without a plan is a usage error."""
    (project / "heldout.jsonl").write_text((project / "train.jsonl").read_text())
    assert plan(pytester).ret == pytest.ExitCode.TESTS_FAILED
    assert not (pytester.path / "matrix.json").exists()
    result = pytester.runpytest_inprocess("--finetune", "--finetune-matrix=matrix.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --finetune-matrix: is written by a plan; add --finetune-plan"])
