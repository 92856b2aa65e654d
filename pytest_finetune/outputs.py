"""Outputs made elsewhere: scores of the base model and of the adapter, paired by id."""

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_finetune.metrics import Metric
from pytest_finetune.records import Example, Measurement


@dataclass(frozen=True, slots=True)
class Outputs:
    """Scores that were made elsewhere on the same rows in the same order.

    Args:
        examples: the rows; one whose text is not in the files has its id as text.
        base: score of the base model on each, from 0 to 1.
        adapter: score of the adapter.
        base_texts: what the base model answered, or nothing.
        adapter_texts: what the adapter answered.
        metric: what the scores are of.
        digest: names the bytes of both sides' files.
    """

    examples: tuple[Example, ...]
    base: tuple[float, ...]
    adapter: tuple[float, ...]
    base_texts: tuple[str, ...]
    adapter_texts: tuple[str, ...]
    metric: str
    digest: str

    def as_metric(self) -> Metric:
        """Return the name of the metric as one that a verdict is made of; nothing is scored by it."""
        return Metric(self.metric, "text")

    def measured(self, subject: str, on: str, part: Sequence[Example], of_adapter: bool) -> Measurement:
        """Return one side's scores of some of the rows."""
        scores, texts = (self.adapter, self.adapter_texts) if of_adapter else (self.base, self.base_texts)
        place = {example.id: i for i, example in enumerate(self.examples)}
        rows = [place[example.id] for example in part]
        return Measurement(
            subject=subject,
            on=on,
            metric=self.metric,
            ids=tuple(example.id for example in part),
            outputs=tuple(texts[i] for i in rows),
            scores=tuple(scores[i] for i in rows),
            clusters=tuple(example.cluster for example in part),
            slices=tuple(example.slice for example in part),
        )
