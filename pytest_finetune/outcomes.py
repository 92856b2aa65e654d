"""What tests came to, as people and machines read it: plain lines in place of tracebacks, and exit codes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from pytest_finetune.cases import Cases
from pytest_finetune.claims import ClaimNotProven
from pytest_finetune.errors import EngineError, FinetuneError, Rejected
from pytest_finetune.records import RunOutcome, TestRecord
from pytest_finetune.redaction import redacted
from pytest_finetune.report.escape import visible

# pytest has exit codes 0 to 5, and its plugins those next to them.
EXIT_CODES: dict[RunOutcome, int] = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 10, "ERROR": 11, "SKIPPED": 11}
ORDER: tuple[RunOutcome, ...] = ("SKIPPED", "PASS", "INCONCLUSIVE", "ERROR", "FAIL")  # the worst last
VERDICTS: tuple[RunOutcome, ...] = ("FAIL", "INCONCLUSIVE")
MEASURED = "measured; pytest-finetune merge judges"
TIMEOUT = "from pytest-timeout"  # which has no exception of its own
CASE, OF_CASE = "CASE FAILED", "finetune_case"  # an outcome, and the attribute of a case's report


class Outcomes:
    """Takes down what each test came to, registered as a plugin of the run.

    Args:
        attribute: what :func:`plain` and :func:`case` set on a report.
        cases: the per-case tests, which are judged together and not one by one.
    """

    def __init__(self, attribute: str, cases: Cases) -> None:
        self._attribute, self._cases = attribute, cases
        self._tests: dict[str, TestRecord] = {}
        self._others_failed = False
        self.lowered = False  # whether the policy is, and nobody accepted it: then no run passes

    @property
    def tests(self) -> tuple[TestRecord, ...]:
        """What the suites' tests came to so far."""
        return tuple(self._tests.values())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take down one phase of one test; a test is what its worst phase is."""
        outcome = self._outcome(report)
        crashed = getattr(report, self._attribute, "") == "ERROR"  # its worker did, and whose it was is not known
        if "finetune" not in report.keywords and not crashed:
            self._others_failed |= outcome in ("FAIL", "ERROR")
            return
        if outcome is None or getattr(report, self._attribute, "") == CASE:
            return
        known = self._tests.get(report.nodeid)
        if known and ORDER.index(outcome) < ORDER.index(known.outcome):
            return
        file, line, _ = report.location
        texts = [known.message if known and known.outcome == outcome else "", report.longreprtext]
        message = "\n".join(dict.fromkeys(filter(None, texts))) if outcome not in ("PASS", "SKIPPED") else ""
        if isinstance(report.longrepr, tuple) and report.longrepr[2] == f"Skipped: {MEASURED}":
            message = MEASURED  # by which who judges knows what must be
        self._tests[report.nodeid] = TestRecord(report.nodeid, file, (line or 0) + 1, outcome, message)

    def _outcome(self, report: pytest.TestReport) -> RunOutcome | None:
        told = getattr(report, self._attribute, "")
        if told in VERDICTS:  # also of an attempt that is run again: a verdict stands, whatever comes after it
            return told
        if report.failed:
            return "ERROR" if told == "ERROR" else "FAIL"
        if report.skipped:
            return "SKIPPED"
        return "PASS" if report.passed and report.when == "call" and not getattr(report, OF_CASE, False) else None

    def outcome(self, exit_code: int) -> RunOutcome:
        """Return what the whole run came to; one that was interrupted or broke is no pass."""
        if exit_code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            return "ERROR"
        found = "FAIL" if self._others_failed or self.lowered else worst(test.outcome for test in self.tests)
        # Of which no test is the cause: another plugin asks for more, as --cov-fail-under does.
        return "FAIL" if exit_code == pytest.ExitCode.TESTS_FAILED and found == "PASS" else found

    def exit_code(self, exit_code: int) -> int:
        """Return pytest's own exit code, or in place of "a test failed" that of what kept it from passing."""
        passes = exit_code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if passes and self.outcome(exit_code) in VERDICTS:  # whose tests were run again, deselected, or are gone
            exit_code = pytest.ExitCode.TESTS_FAILED
        return EXIT_CODES[self.outcome(exit_code)] if exit_code == pytest.ExitCode.TESTS_FAILED else exit_code


def worst(outcomes: Iterable[RunOutcome]) -> RunOutcome:
    """Return the worst of outcomes: a refuted claim is certain, whatever else broke."""
    return max(outcomes, key=ORDER.index, default="SKIPPED")


@contextmanager
def usage_errors() -> Iterator[None]:
    """Have pytest print what is wrong as one line, in which nothing that it quotes acts.

    Raises:
        pytest.UsageError: for each FinetuneError.
    """
    try:
        yield
    except FinetuneError as error:
        raise pytest.UsageError(visible(str(error))) from None


def plain(report: pytest.TestReport, error: BaseException, attribute: str) -> None:
    """Write what a gate decided, or what a user or the machinery did wrong, into a failed report.

    A fault is an error in whichever phase it happens: it must never read as a verdict.

    Args:
        report: the report of a phase that raised ``error``.
        error: what was raised.
        attribute: set on the report to FAIL, INCONCLUSIVE, ERROR (of the machinery) or MISTAKE (a user's).
    """
    if isinstance(error, ClaimNotProven):
        setattr(report, attribute, error.verdict.outcome)
    elif isinstance(error, Rejected):
        setattr(report, attribute, "FAIL")
    elif isinstance(error, FinetuneError):
        setattr(report, attribute, "ERROR" if isinstance(error, EngineError) else "MISTAKE")
    elif "finetune" in report.keywords and isinstance(error, pytest.fail.Exception) and TIMEOUT in str(error):
        setattr(report, attribute, "ERROR")
    else:
        return
    if hasattr(report, "wasxfail"):  # a claim that is expected not to hold is not proven by that
        del report.wasxfail
        report.outcome = "failed"
    report.longrepr = "\n".join(map(visible, str(error).split("\n")))


def without_secrets(report: pytest.TestReport) -> None:
    """Take the environment's secrets out of what pytest prints of a suite's test, and writes as JUnit's XML."""
    shown = redacted(report.longreprtext)
    if isinstance(report.longrepr, tuple):
        report.longrepr = redacted(report.longrepr)
    elif shown != report.longreprtext:
        report.longrepr = shown
    report.sections = redacted(report.sections)
    report.user_properties = redacted(report.user_properties)


def measured(report: pytest.TestReport) -> None:
    """Say of a test whose claims were measured and not judged that it proved nothing, nor disproved: what it makes of
    a verdict shows where there is one.
    """
    file, line, _ = report.location
    report.outcome = "skipped"
    report.longrepr = (file, (line or 0) + 1, f"Skipped: {MEASURED}")


def case(report: pytest.TestReport, cases: Cases, item: pytest.Item, attribute: str) -> None:
    """Note what a case came to; one that failed fails no build by itself, and reads like an expected failure.

    A fault of the machinery stays what it is.
    """
    setattr(report, OF_CASE, True)
    if report.passed:
        cases.note(item, True)
    elif report.failed and not hasattr(report, attribute):
        cases.note(item, False)
        setattr(report, attribute, CASE)
        report.outcome = "skipped"
        report.wasxfail = "a failed case; gate.pass_rate judges how many there are"
