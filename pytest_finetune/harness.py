"""General suites that are tasks of lm-evaluation-harness: their documents as rows, and anybody's scores on them."""

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

from pytest_finetune import digest, taskfile
from pytest_finetune.errors import SuiteError
from pytest_finetune.measure import Measurer, Subject, Tally
from pytest_finetune.metrics import Metric
from pytest_finetune.mix import NO_PROMPT
from pytest_finetune.records import Document, Example, HarnessTask, Measurement, Message, from_plain, to_plain
from pytest_finetune.suite import GeneralSpec, SuiteSpec

CODE = ("choices.py", "engine/harness.py", "engine/lm.py", "taskfile.py")
NO_FILTER = ",none"  # ends a metric's name where the task has no filter of its own


def check(spec: SuiteSpec) -> None:
    """Find what is wrong with a suite's tasks of lm-eval that can be found without it; touches no network.

    Raises:
        SuiteError: lm-eval is not installed; a task's file cannot be read, or is none.
    """
    for general in spec.general:
        if general.task:
            place = f"{spec.file}: general {general.name}"
            if importlib.util.find_spec("lm_eval") is None:
                raise SuiteError(f"{place}: lm_eval is not installed; pip install 'pytest-finetune[lm-eval]'")
            inputs_of(general.task, place)


def inputs_of(task: HarnessTask, place: str) -> dict[str, object]:
    """Return by name what an answer to a task depends on, whoever is asked.

    Raises:
        SuiteError: its file cannot be read, or is none; ``place`` says which suite it is of.
    """
    made_of: object = task.name
    try:
        if task.file:
            file = taskfile.find(Path(task.file))
            # Not where they lie: a project may be anywhere.
            made_of = [file.name, sorted({(p.name, digest.of_file(p)) for p in taskfile.files(file)})]
    except SuiteError as error:
        raise SuiteError(f"{place}: {error}") from error
    return {
        "lm-eval task": digest.of(made_of),
        "limit": task.limit,
        "num_fewshot": task.num_fewshot,
        **digest.versions("lm_eval"),
        "lm-eval code": digest.of_code(*CODE),
    }


class Harness:
    """One such suite. The base model is asked at once, which tells the rows; others when they are measured.

    Args:
        measurer: the suite's.
        general: the general suite.
        place: what a user's mistake begins with.

    Raises:
        SuiteError: the task cannot be run, or its metric is not from 0 to 1 in every document.
    """

    def __init__(self, measurer: Measurer, general: GeneralSpec, place: str) -> None:
        assert general.task
        self.name, self._task, self._place, self._measurer = general.name, general.task, place, measurer
        self.inputs = inputs_of(general.task, place)
        self._found: dict[str, tuple[Document, ...]] = {}  # by the adapter's digest
        self._fresh: dict[str, bool] = {}  # and whether this run asked for them
        base = self._documents(Subject("base model", NO_PROMPT))
        self._scored = self._chosen(general.metric, base)
        self.metric = self._scored.removesuffix(NO_FILTER)
        self.examples = tuple(
            Example(one.id, (Message("user", one.asked),), one.reference, general.name, number)
            for number, one in enumerate(base)
        )

    @property
    def digest(self) -> str:
        """What names the task, its settings and lm-eval."""
        return digest.of(self.inputs)

    def as_metric(self) -> Metric:
        """Return the metric as a name; lm-eval scores by it."""
        return Metric(self.metric, "text")

    def measured(self, subject: Subject, part: Sequence[Example]) -> Measurement:
        """Return what a subject makes of some of the rows; all of them are asked when the first ones are.

        Raises:
            SuiteError: the task has other documents than it had for the base model, or one without a score.
        """
        found = {one.id: one for one in self._documents(subject)}
        if [*found] != [example.id for example in self.examples]:
            raise SuiteError(
                f"{self._place}: its data set changed: {subject.name} was asked other documents than the base model; "
                "name its revision in the task's dataset_kwargs"
            )
        own = [found[example.id] for example in part]
        scores = [one.scores.get(self._scored) for one in own]
        told = self._measurer.tally.setdefault((subject.name, self.name), Tally(subject, inputs=self.inputs))
        told.fresh.update(dict.fromkeys((one.id for one in own), self._fresh[_name(subject)]))
        _, _, kind = self._scored.partition(",")
        return Measurement(
            subject=subject.name,
            on=self.name,
            metric=self.metric,
            ids=tuple(one.id for one in own),
            outputs=tuple(one.answers[kind] for one in own),
            scores=tuple(math.nan if score is None else score for score in scores),
        )

    def _documents(self, subject: Subject) -> tuple[Document, ...]:
        name = _name(subject)
        if name not in self._found:
            self._fresh[name] = False
            key = self._measurer.key(subject.adapter, "lm-eval", self.inputs)
            plain = self._measurer.store.json("lm-eval", key, lambda: self._asked(subject))
            self._found[name] = from_plain(tuple[Document, ...], plain)
        return self._found[name]

    def _asked(self, subject: Subject) -> object:
        self._fresh[_name(subject)] = True
        try:
            return to_plain(self._measurer.engine().harness(self._measurer.model, subject.adapter, self._task))
        except SuiteError as error:
            raise SuiteError(f"{self._place}: {error}") from error

    def _chosen(self, metric: str, base: Sequence[Document]) -> str:
        """Return the metric and filter that scores are taken of."""
        names = list(base[0].scores)
        fit = [name for name in names if all(_is_share(one.scores.get(name)) for one in base)]
        meant = [name for name in names if metric in (name, name.partition(",")[0])] if metric else names[:1]
        if len(meant) != 1 or meant[0] not in fit:
            shown = metric or (names[0].removesuffix(NO_FILTER) if names else "")
            others = ", ".join(name.removesuffix(NO_FILTER) for name in fit) or "none; take another task"
            raise SuiteError(
                f"{self._place}: metric {shown!r} is not one score from 0 to 1 a document, more being better; "
                f"those that are: {others}"
            )
        return meant[0]


def _is_share(score: float | None) -> bool:
    return score is not None and 0 <= score <= 1


def _name(subject: Subject) -> str:
    return subject.adapter.digest if subject.adapter else ""
