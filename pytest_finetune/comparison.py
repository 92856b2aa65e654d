"""A comparison: one data set and who is compared on it, measured as far as the looks have come."""

from pytest_finetune import digest
from pytest_finetune.errors import SuiteError
from pytest_finetune.gate import Pair
from pytest_finetune.handles import AdapterHandle, ModelHandle
from pytest_finetune.measure import Subject, in_looks, joined
from pytest_finetune.metrics import Metric
from pytest_finetune.pipeline import Pipeline
from pytest_finetune.records import Example, Measurement, to_plain
from pytest_finetune.rows import Rows


class Comparison:
    """Who is compared on one data set.

    Args:
        pipeline: the suite's.
        rows: the data set.
        metric: what an answer is worth.
        after: who must prove itself.
        before: what it is compared with; None judges its own level.
        known: the measurement of ``after``, where it was made already.

    Raises:
        SuiteError: the rows' outputs are of another adapter than ``after``.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        rows: Rows,
        metric: Metric,
        after: ModelHandle,
        before: ModelHandle | None = None,
        known: Measurement | None = None,
    ) -> None:
        self.rows, self.metric, self.after, self.known = rows, metric, after, known
        self._pipeline = pipeline
        self._refuse_other()
        self._after = after.subjects(rows.is_general)
        self._before = before.subject(rows.is_general) if before else None
        self._cut: list[tuple[Example, ...]] = []
        self._parts: dict[tuple[int, int], Measurement] = {}
        given = rows.outputs or rows.harness
        #: All that what is measured depends on.
        self.inputs: dict[str, object] = {
            "rows": [[example.id, example.cluster, example.slice] for example in rows],
            "metric": metric.identity,
            "subjects": [self._named(subject) for subject in (*self._after, self._before) if subject],
            "given": digest.of(to_plain(known)) if known else given.digest if given else "",
        }

    @property
    def row_names(self) -> list[str]:
        """What names each row: its digest, with its cluster and slice where it has one."""
        return [digest.of([e.id, e.cluster, e.slice]) if e.cluster or e.slice else e.id for e in self.rows]

    def expect(self, look: int, looks: int) -> None:
        """Put down what the rows up to a look will ask."""
        if self.known or self.rows.outputs or self.rows.harness:
            return
        for part in self._parts_of(look, looks):
            for subject in filter(None, (*self._after, self._before)):
                self._pipeline.expect(subject, part, self.metric)

    def pair(self, look: int, looks: int) -> Pair:
        """Return what the rows up to a look show."""
        if self.known:
            return Pair((self.known,))
        parts = self._parts_of(look, looks)

        def up_to_now(number: int, subject: Subject) -> Measurement:
            for i, part in enumerate(parts):
                if (number, i) not in self._parts:
                    self._parts[number, i] = self._measured(subject, part)
            return joined([self._parts[number, i] for i in range(len(parts))])

        before = up_to_now(-1, self._before) if self._before else None
        return Pair(tuple(up_to_now(i, subject) for i, subject in enumerate(self._after)), before)

    def _parts_of(self, look: int, looks: int) -> list[tuple[Example, ...]]:
        self._cut = self._cut or in_looks(self.rows, looks)
        return [part for part in self._cut[:look] if part]

    def _measured(self, subject: Subject, part: tuple[Example, ...]) -> Measurement:
        if self.rows.outputs:
            of_adapter = subject is not self._before
            return self.rows.outputs.measured(subject.name, self.rows.name, part, of_adapter)
        if self.rows.harness:
            return self.rows.harness.measured(subject, part)
        return self._pipeline.measure(subject, self.rows.name, part, self.metric)

    def _named(self, subject: Subject) -> list[object]:
        """Return what names a subject: its weights, and its prompt with the rows that it may show."""
        shown = [example.id for example in self._pipeline.data.train] if subject.prompt.retrieved else []
        return [subject.adapter.digest if subject.adapter else "", to_plain(subject.prompt), shown]

    def _refuse_other(self) -> None:
        """Refuse scores of another adapter than the one that is judged: what ships is what was scored."""
        outputs, adapter = self.rows.outputs, self.after
        if outputs is None or not isinstance(adapter, AdapterHandle):
            return
        place, own, of = f"{self._pipeline.spec.file}: general {self.rows.name}", adapter.digest, outputs.of
        if self._pipeline.workplace.seeds > 1:
            raise SuiteError(
                f"{place}: its outputs are of one adapter, and --finetune-seeds judges a recipe; leave one of them out"
            )
        if not of or not own.startswith(of):
            known = f"are of the adapter {of}" if of else "do not say which adapter they are of"
            raise SuiteError(
                f"{place}: its outputs {known}, and {own[:12]} is judged; "
                f'score that one, and write outputs.of = "{own[:12]}"'
            )
