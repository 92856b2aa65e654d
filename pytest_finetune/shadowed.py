"""What tests ask of live traffic: the fixture ``shadow``, a spool that the proxy filled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_finetune import ledger
from pytest_finetune.metrics import Metric
from pytest_finetune.records import Example, Outcome, Verdict
from pytest_finetune.shadow import assess, quality
from pytest_finetune.shadow.config import Limits
from pytest_finetune.shadow.spool import Spool
from pytest_finetune.shadow.verdict import DECISIONS


@dataclass(frozen=True)
class ShadowHandle:
    """A spool, and the rows whose references its answers are compared with where the same was asked."""

    path: Path
    rows: Sequence[Example]

    def verdict(self, test: str, limits: Limits, metric: Metric, candidate: str) -> Verdict:
        """Return the verdict on a candidate, as the gate reports it.

        Raises:
            SuiteError: there is no such spool or candidate, or the metric is not of single answers.
        """
        spool = Spool(self.path)
        known = quality.of_rows((_asked(row), row.reference) for row in self.rows)
        found = assess.assess(spool, assess.chosen(spool, candidate), limits, metric, known)
        spool.close()
        outcomes: dict[str, Outcome] = {decision: outcome for outcome, decision in DECISIONS.items()}
        return Verdict(
            test=test,
            outcome=outcomes[found.outcome],
            claims=found.claims,
            digests={"candidate": found.candidate},
            attempt=found.attempt,
            alpha_spent=ledger.alpha_spent(limits.alpha, found.attempt),
        )


def _asked(row: Example) -> str:
    """Return what the last user message of a row asks, by which the spool knows it."""
    return next((turn.content for turn in reversed(row.messages) if turn.role == "user"), "")
