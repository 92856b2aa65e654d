"""The gist of a run: what it came to, and by which tests, in the same words in every report."""

from collections import Counter

from pytest_finetune.records import RunOutcome, RunRecord

SAID: dict[RunOutcome, str] = {
    "INCONCLUSIVE": "The rows do not settle every claim; that is no pass.",
    "ERROR": "The machinery failed; that is no verdict on the model.",
    "SKIPPED": "Nothing was judged; that is no pass.",
}


WORST_FIRST: tuple[RunOutcome, ...] = ("FAIL", "ERROR", "INCONCLUSIVE", "PASS", "SKIPPED")


def said(run: RunRecord) -> str:
    """Return why a run came to its outcome; only one whose every claim is proven says so."""
    claims = {claim.outcome for suite in run.suites for verdict in suite.verdicts for claim in verdict.claims}
    if run.outcome == "PASS":
        if not claims:
            return "No test failed, and no claim was made."
        return "Every claim is proven." if claims == {"PASS"} else "No claim is refuted, but not every one is proven."
    if run.outcome == "FAIL":
        if "FAIL" in claims:
            return "A claim is refuted."
        lowered = any(change.lowers for change in run.policy) and not run.policy_accepted
        return "The bar is lowered, and nobody accepted that." if lowered else "A test failed."
    return SAID[run.outcome]


def tests(run: RunRecord) -> str:
    """Return how many tests came to what, the worst first."""
    counts = Counter(test.outcome for test in run.tests)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in WORST_FIRST if counts[outcome]) or "none"
