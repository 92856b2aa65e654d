"""A test's outcome as people read it: plain lines in place of tracebacks."""

import pytest

from pytest_finetune.errors import FinetuneError, Rejected
from pytest_finetune.handles import ClaimNotProven


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
