"""What a whole run came to: the worst of its tests, and the exit code that says so."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.cases import Cases
from pytest_finetune.errors import SuiteError
from pytest_finetune.outcomes import EXIT_CODES, Outcomes, plain
from pytest_finetune.records import RunOutcome

ATTRIBUTE = "finetune_outcome"
TOLD = {"FAIL": "FAIL", "INCONCLUSIVE": "INCONCLUSIVE", "ERROR": "ERROR", "MISTAKE": "FAIL", "": "FAIL"}


def report(
    name: str, outcome: Literal["passed", "failed", "skipped"], told: str = "", when: str = "call", ours: bool = True
) -> pytest.TestReport:
    """Return the report of one phase of a test."""
    made = pytest.TestReport(
        f"s/test_s.py::{name}",
        ("s/test_s.py", 6, name),
        {"finetune": 1} if ours else {},
        outcome,
        "why" if outcome == "failed" else None,
        when,  # type: ignore[arg-type]  # a literal
    )
    if told:
        setattr(made, ATTRIBUTE, told)
    return made


@pytest.fixture
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Nothing has run yet."""
    return Outcomes(ATTRIBUTE, Cases(tmp_path_factory.getbasetemp(), ""))


@pytest.mark.parametrize("told", TOLD)
def test_each_failure_has_its_exit_code(told: str, outcomes: Outcomes) -> None:
    """A refuted claim, an open one and a fault have exit codes of their own; a user's mistake fails."""
    outcomes.pytest_runtest_logreport(report("test_good", "passed"))
    outcomes.pytest_runtest_logreport(report("test_bad", "failed", told))
    expected = {"FAIL": 1, "INCONCLUSIVE": 10, "ERROR": 11}[TOLD[told]]
    assert outcomes.outcome(1) == TOLD[told]
    assert outcomes.exit_code(1) == expected
    (test,) = [test for test in outcomes.tests if test.outcome != "PASS"]
    assert (test.file, test.line, test.message) == ("s/test_s.py", 7, "why")


def test_worst_phase_counts(outcomes: Outcomes) -> None:
    """A test whose teardown broke did not pass, and subtests count for their test."""
    for phase in (report("test", "passed"), report("test", "failed", "INCONCLUSIVE"), report("test", "passed")):
        outcomes.pytest_runtest_logreport(phase)
    assert [test.outcome for test in outcomes.tests] == ["INCONCLUSIVE"]
    outcomes.pytest_runtest_logreport(report("test", "failed", "ERROR", "teardown"))
    assert [test.outcome for test in outcomes.tests] == ["ERROR"]


def test_tests_of_others_count(outcomes: Outcomes) -> None:
    """A plain test that fails beside an open claim is exit code 1, and none of ours."""
    outcomes.pytest_runtest_logreport(report("test_open", "failed", "INCONCLUSIVE"))
    outcomes.pytest_runtest_logreport(report("test_plain", "failed", ours=False))
    assert outcomes.exit_code(1) == 1
    assert len(outcomes.tests) == 1


def test_nothing_and_interrupted_are_no_pass(outcomes: Outcomes) -> None:
    """A run without a test is SKIPPED, and one that was interrupted an ERROR, whatever passed before."""
    assert outcomes.outcome(5) == "SKIPPED"
    outcomes.pytest_runtest_logreport(report("test_good", "passed"))
    assert [outcomes.outcome(code) for code in (0, 2, 3, 4)] == ["PASS", "ERROR", "ERROR", "ERROR"]
    assert [outcomes.exit_code(code) for code in (0, 2, 3, 4, 5)] == [0, 2, 3, 4, 5]


def again(report: pytest.TestReport) -> pytest.TestReport:
    """Return what pytest-rerunfailures makes of the report of an attempt that is not the last."""
    report.outcome = "rerun"  # type: ignore[assignment]  # its own word
    return report


@pytest.mark.parametrize(("told", "code"), [("FAIL", 1), ("INCONCLUSIVE", 10), ("ERROR", 0), ("", 0)])
def test_verdict_stands(told: str, code: int, outcomes: Outcomes) -> None:
    """A verdict is not overruled by a later attempt that passes; a fault, or a test's own failure, may be."""
    outcomes.pytest_runtest_logreport(again(report("test", "failed", told)))
    outcomes.pytest_runtest_logreport(report("test", "passed"))
    assert outcomes.exit_code(0) == code
    assert [test.outcome for test in outcomes.tests] == [told if code else "PASS"]


def test_crashed_worker_is_a_fault(outcomes: Outcomes) -> None:
    """A worker that died says nothing of its test, whose markers are not even known."""
    outcomes.pytest_runtest_logreport(report("test_good", "passed"))
    outcomes.pytest_runtest_logreport(report("test_lost", "failed", "ERROR", "???", ours=False))
    assert outcomes.exit_code(1) == 11


def test_timeout_is_a_fault() -> None:
    """A suite's test that pytest-timeout ended says nothing of its claim; another one failed."""
    with pytest.raises(pytest.fail.Exception) as raised:
        pytest.fail("Timeout (>2.0s) from pytest-timeout.")
    for ours in (True, False):
        failed = report("test", "failed", ours=ours)
        plain(failed, raised.value, ATTRIBUTE)
        assert getattr(failed, ATTRIBUTE, "") == ("ERROR" if ours else "")


@given(st.lists(st.sampled_from(sorted(TOLD)), min_size=1))
def test_order_of_tests_changes_nothing(told: list[str]) -> None:
    """The worst outcome counts, in whatever order tests end."""

    def came_to(order: list[str]) -> RunOutcome:
        outcomes = Outcomes(ATTRIBUTE, Cases.__new__(Cases))
        for i, one in enumerate(order):
            outcomes.pytest_runtest_logreport(report(f"test_{i}", "failed", one))
        return outcomes.outcome(1)

    assert came_to(told) == came_to(told[::-1])
    assert EXIT_CODES[came_to(told)] != 0


def test_messages_are_shown_and_act_nowhere() -> None:
    """What a mistake's message quotes of the user's data keeps its lines, and is no command of a CI runner."""
    failed = report("test", "failed")
    plain(failed, SuiteError("row 1: '::error::x\r##[add-mask]x'\nrow 2: \x1b[2J"), ATTRIBUTE)
    assert failed.longreprtext == "row 1: ':\\x3aerror:\\x3ax\\r##\\x5badd-mask]x'\nrow 2: \\x1b[2J"
