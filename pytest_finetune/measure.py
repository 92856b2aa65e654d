"""Measuring: rows in, outputs and a score a row, the same way for every subject."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, pairwise
from typing import TypeVar

from pytest_finetune import digest
from pytest_finetune.engines import LOCAL, EngineSpec
from pytest_finetune.errors import SuiteError
from pytest_finetune.explain import Stages, counted
from pytest_finetune.metrics import Metric
from pytest_finetune.protocol import Engine, Turns
from pytest_finetune.records import (
    Adapter,
    Answers,
    Example,
    Generation,
    Lengths,
    Measurement,
    Message,
    Model,
    Prompt,
    Usage,
    to_plain,
)
from pytest_finetune.rowstore import Asked, RowStore
from pytest_finetune.shots import Retriever
from pytest_finetune.stats import bootstrap
from pytest_finetune.stats.looks import SHARES
from pytest_finetune.store import Store

T = TypeVar("T")
LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: the base model, or an adapter on it, asked with a prompt.

    ``retriever`` finds the examples of a prompt that picks them for each row.
    """

    name: str
    prompt: Prompt
    adapter: Adapter | None = None
    retriever: Retriever | None = None

    def turns(self, examples: Sequence[Example]) -> tuple[Turns, ...]:
        """Return what is asked, a conversation a row."""
        if not self.prompt.retrieved or self.retriever is None:
            return tuple(self.prompt.before(example) for example in examples)
        shots = self.retriever.nearest([example.text for example in examples], self.prompt.retrieved)
        return tuple(self.prompt.before(example, found) for example, found in zip(examples, shots, strict=True))


@dataclass(frozen=True, slots=True)
class Tally:
    """The rows that a subject was measured on, by id, and whether this run asked for the answer.

    ``inputs`` are what answers depend on in place of a prompt and the suite's settings, where lm-eval asks.
    """

    subject: Subject
    fresh: dict[str, bool] = field(default_factory=dict)
    inputs: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurer:
    """Measures subjects over one base model; every output goes through the store.

    ``engine`` starts the engine when it is first needed: a run of hits never calls it.
    """

    rows: RowStore
    engine: Callable[[], Engine]
    model: Model
    generation: Generation
    device: str
    runs_on: EngineSpec = LOCAL
    #: By subject and data set: what was measured so far.
    tally: dict[tuple[str, str], Tally] = field(default_factory=dict)
    #: Of each answer of the search for the baseline, whether this run asked for it.
    searched: list[bool] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """What keeps all that is made."""
        return self.rows.store

    def inputs(self, adapter: Adapter | None = None) -> dict[str, object]:
        """Return by name what every answer of the engine depends on, the question apart."""
        return {
            "base model": [self.model.digest, self.model.quantised],
            "adapter": adapter.digest if adapter else "",
            "device": self.runs_on.place(self.device),
            **digest.versions(*LIBRARIES),
            "engine code": self.runs_on.code,
        }

    def explain(self, stages: Stages, labels: tuple[str, ...]) -> None:
        """Say of all that was measured what it depends on, and how many of its rows this run asked."""
        for (who, on), tally in self.tally.items():
            asked = tally.inputs or self._asking(tally.subject, labels)
            inputs = {**self.inputs(tally.subject.adapter), **asked, f"{on} rows": list(tally.fresh)}
            stages.add(f"outputs of {who} on {on}", inputs, *counted(list(tally.fresh.values()), "rows"))

    def _asking(self, subject: Subject, labels: tuple[str, ...]) -> dict[str, object]:
        """Return by name what a subject is asked with."""
        prompt = subject.prompt
        pool = subject.retriever.pool if prompt.retrieved and subject.retriever else ()
        return {
            "prompt": digest.of(to_plain(prompt)),
            "train rows": [example.id for example in pool],  # that the prompt may show
            "[generation] max_new_tokens": self.generation.max_new_tokens,
            "[answer] labels": labels,
        }

    def key(self, adapter: Adapter | None, *rest: object) -> str:
        """Return the digest of all that an answer of the engine depends on."""
        return digest.of([self.inputs(adapter), to_plain(rest)])

    def answers(self, adapter: Adapter | None, prompts: Sequence[Turns]) -> Answers:
        """Return the greedy answer to each prompt."""
        return _as_answers(self.rows.values(self._generated(adapter), prompts).values)

    def likelihoods(
        self, adapter: Adapter | None, prompts: Sequence[Turns], choices: tuple[str, ...]
    ) -> list[tuple[float, ...]]:
        """Return the log-likelihood in nats of each choice after each prompt."""
        return list(map(tuple, self.rows.values(self._scored(adapter, choices), prompts).values))

    def own_likelihoods(
        self, adapter: Adapter | None, prompts: Sequence[Turns], answers: Sequence[str]
    ) -> list[tuple[float]]:
        """Return the log-likelihood in nats of each prompt's own answer."""

        def ask(requests: tuple[Turns, ...]) -> list[list[float]]:
            # The engine scores the same choices after every prompt, so rows of one answer go together.
            together: dict[str, list[int]] = {}
            for i, request in enumerate(requests):
                together.setdefault(request[-1].content, []).append(i)
            found: dict[int, Sequence[float]] = {}
            for answer, own in together.items():
                asked = tuple(requests[i][:-1] for i in own)
                found |= dict(zip(own, self.engine().score(self.model, adapter, asked, (answer,)), strict=True))
            return [list(found[i]) for i in range(len(requests))]

        requests = [(*prompt, Message("assistant", answer)) for prompt, answer in zip(prompts, answers, strict=True)]
        asked = Asked("likelihoods", self.key(adapter, "own"), ask)
        return [(nats,) for (nats,) in self.rows.values(asked, requests).values]

    def lengths(self, prompts: Sequence[Turns]) -> Lengths:
        """Return each prompt's length in tokens, and the model's context (0 where nothing is asked)."""

        def ask(requests: tuple[Turns, ...]) -> list[list[int]]:
            made = self.engine().lengths(self.model, requests)
            return [[tokens, made.context] for tokens in made.tokens]

        found = self.rows.values(Asked("lengths", self.key(None, "lengths"), ask), prompts).values
        return Lengths(tuple(tokens for tokens, _ in found), found[0][1] if found else 0)

    def expect(
        self, subject: Subject, examples: Sequence[Example], metric: Metric, labels: tuple[str, ...] = ()
    ) -> None:
        """Put down what measuring the subject on these rows will ask; nobody is asked now."""
        asked = self._scored(subject.adapter, labels) if metric.kind == "choice" else self._generated(subject.adapter)
        self.rows.expect(asked, subject.turns(examples))

    def _generated(self, adapter: Adapter | None) -> Asked:
        def ask(requests: tuple[Turns, ...]) -> list[list[object]]:
            made = self.engine().generate(self.model, adapter, requests, self.generation)
            each = zip(made.texts, made.prompt_tokens, made.new_tokens, strict=True)
            return [[*row, made.seconds_each] for row in each]

        # Not the batch size, which changes no answer.
        return Asked("outputs", self.key(adapter, "outputs", self.generation.max_new_tokens), ask)

    def _scored(self, adapter: Adapter | None, choices: tuple[str, ...]) -> Asked:
        return Asked(
            "likelihoods",
            self.key(adapter, "choices", choices),
            lambda requests: self.engine().score(self.model, adapter, requests, choices),
        )

    def measure(
        self,
        subject: Subject,
        on: str,
        examples: Sequence[Example],
        metric: Metric,
        labels: tuple[str, ...] = (),
    ) -> Measurement:
        """Return the subject's outputs and scores on ``examples``.

        Args:
            subject: who answers.
            on: the data set's name, for reports.
            examples: its rows.
            metric: what an answer is worth.
            labels: the choices, for the metric ``choice``.

        Raises:
            SuiteError: there are no rows; ``choice`` without labels; a score is not in [0, 1].
        """
        if not examples:
            raise SuiteError(f"{on}: there are no rows to measure on")
        outputs, usage, fresh = self._asked(subject.adapter, subject.turns(examples), metric, labels)
        told = self.tally.setdefault((subject.name, on), Tally(subject))
        told.fresh.update(zip((example.id for example in examples), fresh, strict=True))
        references = tuple(example.reference for example in examples)
        clusters = tuple(example.cluster for example in examples)
        values = self.redrawn(metric, outputs, references, clusters) if metric.whole else ()
        return Measurement(
            subject=subject.name,
            on=on,
            metric=metric.name,
            ids=tuple(example.id for example in examples),
            outputs=outputs,
            scores=self.scores(metric, outputs, references),
            clusters=clusters,
            slices=tuple(example.slice for example in examples),
            usage=usage,
            whole=values[0] if values else None,
            redrawn=values[1:],
        )

    def score_all(
        self, asked: Sequence[tuple[Subject, Sequence[Example]]], metric: Metric, labels: tuple[str, ...] = ()
    ) -> list[tuple[float, ...]]:
        """Return the scores of several subjects, each the base model on rows of its own, asked in one call."""
        turns = tuple(turn for subject, examples in asked for turn in subject.turns(examples))
        outputs, _, fresh = self._asked(None, turns, metric, labels)
        self.searched.extend(fresh)
        scores = iter(self.scores(metric, outputs, tuple(e.reference for _, examples in asked for e in examples)))
        return [tuple(islice(scores, len(examples))) for _, examples in asked]

    def _asked(
        self, adapter: Adapter | None, prompts: tuple[Turns, ...], metric: Metric, labels: tuple[str, ...]
    ) -> tuple[tuple[str, ...], Usage | None, list[bool]]:
        if metric.kind == "choice":
            if not labels:
                raise SuiteError("metric choice: the suite names no [answer] labels to choose from")
            found = self.rows.values(self._scored(adapter, labels), prompts)
            return tuple(labels[row.index(max(row))] for row in found.values), None, found.fresh
        found = self.rows.values(self._generated(adapter), prompts)
        made, rows = _as_answers(found.values), len(prompts)
        usage = Usage(sum(made.prompt_tokens) / rows, sum(made.new_tokens) / rows, made.seconds_each)
        return made.texts, usage, found.fresh

    def scores(self, metric: Metric, outputs: tuple[str, ...], references: tuple[str, ...]) -> tuple[float, ...]:
        """Return what each output is worth.

        Raises:
            SuiteError: a score is not in [0, 1].
        """
        if metric.kind == "hub":
            pairs = [(Message("", o), Message("", r)) for o, r in zip(outputs, references, strict=True)]

            def ask(asked: tuple[Turns, ...]) -> tuple[float, ...]:
                said, right = tuple(pair[0].content for pair in asked), tuple(pair[1].content for pair in asked)
                return self.engine().evaluate(metric.module, metric.key, said, right)

            scores = tuple(self.rows.values(Asked("scores", digest.of(metric.identity), ask), pairs).values)
        else:
            scores = tuple(float(metric.score(o, r)) for o, r in zip(outputs, references, strict=True))
        for score, output in zip(scores, outputs, strict=True):
            if not 0 <= score <= 1:
                raise SuiteError(f"metric {metric.name}: {score} for {output[:60]!r}; a score must be from 0 to 1")
        return scores

    def redrawn(
        self, metric: Metric, outputs: tuple[str, ...], references: tuple[str, ...], clusters: tuple[str, ...]
    ) -> tuple[float, ...]:
        """Return the value of a metric of the whole data set, and its values on resamples of the rows.

        Raises:
            SuiteError: a value is not in [0, 1].
        """
        if metric.kind == "hub":
            key = digest.of([metric.identity, digest.of_code("stats/bootstrap.py"), outputs, references, clusters])
            make = lambda: self.engine().redraw(metric.module, metric.key, outputs, references, clusters)  # noqa: E731
            values = tuple(self.store.json("redrawn", key, make))
        else:
            assert metric.value
            values = tuple(bootstrap.redraw(metric.value, outputs, references, clusters))
        if not all(0 <= value <= 1 for value in values):
            raise SuiteError(f"metric {metric.name}: {values[0]} for {len(outputs)} rows; a value must be from 0 to 1")
        return values


def _as_answers(rows: Sequence[tuple[str, int, int, float]]) -> Answers:
    texts, read, written, seconds = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Answers(texts, read, written, sum(seconds) / max(1, len(rows)))


def in_looks(examples: Sequence[Example], looks: int) -> list[tuple[Example, ...]]:
    """Return the rows in the parts that are measured from look to look.

    The order is a hash's, which no row's place in its file and no score can sway, also where there is one
    look: the betting bound goes by it. Rows of one cluster stay together.
    """
    order = sorted(examples, key=lambda e: (digest.of(["look", e.cluster or e.id]), e.id))
    ends = [0]
    for share in SHARES if looks > 1 else (1.0,):
        end = max(ends[-1], round(share * len(order)))
        while 0 < end < len(order) and order[end].cluster and order[end].cluster == order[end - 1].cluster:
            end += 1
        ends.append(end)
    return [tuple(order[start:end]) for start, end in pairwise(ends)]


def joined(parts: Sequence[Measurement]) -> Measurement:
    """Return measurements of parts of one data set as one of all their rows."""

    def together(values: Iterable[tuple[T, ...]]) -> tuple[T, ...]:
        return tuple(chain.from_iterable(values))

    if len(parts) == 1:
        return parts[0]
    used = [(part.usage, len(part.ids)) for part in parts if part.usage]
    rows = sum(count for _, count in used)
    usage = (
        Usage(
            sum(u.prompt_tokens * count for u, count in used) / rows,
            sum(u.new_tokens * count for u, count in used) / rows,
            sum(u.seconds * count for u, count in used) / rows,
        )
        if used
        else None
    )
    return replace(
        parts[0],
        ids=together(part.ids for part in parts),
        outputs=together(part.outputs for part in parts),
        scores=together(part.scores for part in parts),
        clusters=together(part.clusters for part in parts),
        slices=together(part.slices for part in parts),
        usage=usage,
    )
