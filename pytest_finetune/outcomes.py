"""A test's outcome as people read it: plain lines in place of tracebacks."""

import pytest

from pytest_finetune.cases import Cases
from pytest_finetune.claims import ClaimNotProven
from pytest_finetune.errors import FinetuneError, Rejected


def plain(report: pytest.TestReport, error: BaseException, attribute: str) -> None:
    """Write what a gate decided, or what a user or the machinery did wrong, into a failed report.

    A fault is an error in whichever phase it happens: it must never read as a verdict.

    Args:
        report: the report of a phase that raised ``error``.
        error: what was raised.
        attribute: set on the report to FAIL, INCONCLUSIVE or ERROR.
    """
    if isinstance(error, ClaimNotProven):
        setattr(report, attribute, error.verdict.outcome)
    elif isinstance(error, Rejected):
        setattr(report, attribute, "FAIL")
    elif isinstance(error, FinetuneError):
        setattr(report, attribute, "ERROR")
    else:
        return
    report.longrepr = str(error)


def case(report: pytest.TestReport, cases: Cases, item: pytest.Item, attribute: str) -> None:
    """Note what a case came to; one that failed fails no build by itself, and reads like an expected failure.

    A fault of the machinery stays what it is.
    """
    if report.passed:
        cases.note(item, True)
    elif report.failed and not hasattr(report, attribute):
        cases.note(item, False)
        setattr(report, attribute, "CASE FAILED")
        report.outcome = "skipped"
        report.wasxfail = "a failed case; gate.pass_rate judges how many there are"
