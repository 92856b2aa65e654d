"""The baseline: the best prompt for the base model, exhausted on the dev split only.

Instructions first, then examples, then the chat template on or off: in each, successive halving
(Jamieson and Talwalkar 2016, arXiv 1502.07943) asks all candidates a few rows and drops the worse
half, until one is left. Candidates are compared on the same rows.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pytest_finetune import answer_format, digest, shots
from pytest_finetune.errors import PromptTooLong, SuiteError
from pytest_finetune.measure import Measurer, Subject
from pytest_finetune.metrics import Metric
from pytest_finetune.records import Baseline, Candidate, CuratedData, Example, Prompt
from pytest_finetune.suite import SuiteSpec

FEWEST_ROWS = 16  # a candidate is not dropped on less: on 8 rows the best of the example suites' prompts was
LENGTHS_TRIED = 3  # of the longest rows, to see whether a prompt fits


def search(
    spec: SuiteSpec, measurer: Measurer, data: CuratedData, metric: Metric, retriever: shots.Retriever
) -> Baseline:
    """Return the best prompt by mean score on the dev split; ties go to fewer examples.

    The whole search costs about three full evaluations of a dev split of 500 rows or more; a smaller
    one costs more of its evaluations, since no candidate is dropped on fewer than 16 rows.

    Raises:
        PromptTooLong: no instruction fits the model's context, or the best prompt with a held-out row does not.
        SuiteError: a number of shots that the suite names never fits, or exceeds the train rows.
    """
    found = _Search(spec, measurer, data, metric, retriever)
    told = found.fitting(instructions(spec))
    if not told:
        raise PromptTooLong(f"{spec.file}: [prompts] candidates: {found.too_long}")
    plain = told[0]
    best = found.halve(told)
    best = found.halve([best, *found.with_examples(best.prompt)])
    if spec.chat_template == "both":
        best = found.halve([best, *found.fitting([replace(best.prompt, chat=False)])])
    found.ask([plain, best], len(found.rows))
    if plain.score > best.score:
        best = plain
    found.check_judged(best, data.heldout)
    return Baseline(
        prompt=best.prompt,
        score=best.score,
        plain_score=plain.score,
        rows=len(found.rows),
        answers=sum(len(trial.scores) for trial in found.trials),
        candidates=tuple(trial.candidate for trial in found.trials),
    )


def inputs(spec: SuiteSpec, measurer: Measurer, data: CuratedData, metric: Metric) -> dict[str, object]:
    """Return by name what the search depends on."""
    return {
        **measurer.inputs(),
        "[prompts] candidates": digest.of(spec.candidates),
        "[prompts] shots": spec.shots,
        "[prompts] selection": spec.selection,
        "[prompts] chat_template": spec.chat_template,
        "[prompts] answer_format": spec.answer_format,
        "[gate] metric": metric.identity,
        "[generation] max_new_tokens": spec.generation.max_new_tokens,
        "[answer] labels": spec.labels,
        "[answer] schema": digest.of(spec.answer_schema),
        "train rows": [example.id for example in data.train],
        "dev rows": [example.id for example in data.dev],
        "search code": digest.of_code("baseline.py", "shots.py"),
    }


def instructions(spec: SuiteSpec) -> Iterator[Prompt]:
    """Yield every instruction without examples, as written and with the answer format added."""
    chat = spec.chat_template != "off"
    wanted = answer_format.instruction(spec.labels, spec.answer_schema) if spec.answer_format else ""
    for number, text in enumerate(spec.candidates, 1):
        yield Prompt(f"candidate {number}", text, chat=chat)
        if wanted:
            yield Prompt(f"candidate {number} + answer format", f"{text}\n{wanted}", chat=chat)


def examples(spec: SuiteSpec, prompt: Prompt, train: Sequence[Example]) -> Iterator[Prompt]:
    """Yield the prompt with every number of examples, chosen in every way that differs."""
    shuffled = digest.shuffled("shot", train)
    for count in spec.shots:
        chosen: set[tuple[Example, ...]] = set()
        for selection in spec.selection if count else ():
            if selection == "retrieved":
                yield replace(prompt, selection=selection, retrieved=count)
                continue
            rows = (shots.fixed if selection == "fixed" else shots.balanced)(shuffled, count)
            if rows not in chosen:
                chosen.add(rows)
                yield replace(prompt, selection=selection, shots=rows)


def answers_expected(spec: SuiteSpec, data: CuratedData) -> int:
    """Return about how many answers the search asks for, so that a plan can say it before."""
    told = list(instructions(spec))
    shown = list(examples(spec, told[0], data.train))
    brackets = (len(told), 1 + len(shown), 2 if spec.chat_template == "both" else 1)
    rows = len(data.dev)
    halving = sum(trials * more for bracket in brackets for trials, more in _rounds(bracket, rows))
    return halving + 2 * rows  # the plain instruction and the best prompt are asked all rows


def _rounds(trials: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yield the trials left in each round and the rows more that each is asked: half of ``rows`` in all."""
    rounds, left = math.ceil(math.log2(trials)), rows
    while trials > 1:
        more = min(left, max(FEWEST_ROWS, rows // (2 * rounds * trials)))
        yield trials, more
        left -= more
        trials = math.ceil(trials / 2)


@dataclass
class _Trial:
    """One prompt on its way through the search; ``scores`` are those of the first rows."""

    prompt: Prompt
    scores: list[float] = field(default_factory=list)

    @property
    def score(self) -> float:
        return sum(self.scores) / len(self.scores) if self.scores else 0.0

    def rank(self, rows: int) -> tuple[float, int, bool]:
        """Return what sorts the better trial first: by the first ``rows`` rows, then by simplicity."""
        return -sum(self.scores[:rows]), self.prompt.count, not self.prompt.chat

    @property
    def candidate(self) -> Candidate:
        prompt = self.prompt
        return Candidate(prompt.name, prompt.count, prompt.selection, prompt.chat, self.score, len(self.scores))


class _Search:
    """The dev rows in an order of their own, and every prompt tried on them."""

    def __init__(
        self, spec: SuiteSpec, measurer: Measurer, data: CuratedData, metric: Metric, retriever: shots.Retriever
    ) -> None:
        self.spec = spec
        self.measurer = measurer
        self.metric = metric
        self.train = data.train
        self.rows = digest.shuffled("baseline", data.dev)
        self.retriever = retriever
        self.trials: list[_Trial] = []
        self.too_long = ""

    def fitting(self, prompts: Iterator[Prompt] | Sequence[Prompt]) -> list[_Trial]:
        """Return trials of the prompts that fit the context; all are kept for the report."""
        trials = [_Trial(prompt) for prompt in prompts]
        self.trials += trials
        room = self.spec.generation.max_new_tokens
        longest = []
        for trial in trials:
            turns = self._subject(trial).turns(self.rows)
            longest.append(sorted(turns, key=lambda turn: -sum(len(m.content) for m in turn))[:LENGTHS_TRIED])
        lengths = self.measurer.lengths(tuple(turn for some in longest for turn in some))
        fit, at = [], 0
        for trial, some in zip(trials, longest, strict=True):
            tokens = max(lengths.tokens[at : at + len(some)])
            at += len(some)
            if tokens + room <= lengths.context:
                fit.append(trial)
            else:
                self.too_long = (
                    f"{trial.prompt.name} with {trial.prompt.count} examples is {tokens} tokens long; with "
                    f"max_new_tokens = {room} it exceeds the model's context of {lengths.context}"
                )
        return fit

    def with_examples(self, prompt: Prompt) -> list[_Trial]:
        """Return trials of the prompt with examples; a number that the suite names must be possible."""
        fit = self.fitting(examples(self.spec, prompt, self.train))
        if self.spec.shots_given:
            for count in self.spec.shots:
                if count > len(self.train):
                    raise SuiteError(f"{self.spec.file}: [prompts] shots = {count}: train has {len(self.train)} rows")
                if count and count not in {trial.prompt.count for trial in fit}:
                    raise SuiteError(f"{self.spec.file}: [prompts] shots = {count}: {self.too_long}; take fewer shots")
        return fit

    def check_judged(self, trial: _Trial, heldout: Sequence[Example]) -> None:
        """Refuse held-out rows that the prompt leaves no room for, before anything is trained for them."""
        longest = sorted(heldout, key=lambda example: -len(example.text))[:LENGTHS_TRIED]
        lengths = self.measurer.lengths(self._subject(trial).turns(longest))
        room = lengths.context - self.spec.generation.max_new_tokens
        for example, tokens in zip(longest, lengths.tokens, strict=True):
            if tokens > room:
                raise PromptTooLong(
                    f"{example.file}:{example.line}: with the best prompt ({trial.prompt.name}, {trial.prompt.count} "
                    f"examples) the row has {tokens} tokens, more than the model's context of {lengths.context} less "
                    "max_new_tokens; shorten it, or take fewer [prompts] shots"
                )

    def ask(self, trials: Sequence[_Trial], upto: int) -> None:
        """Bring the trials to ``upto`` rows each, in one call of the engine."""
        behind = [trial for trial in trials if len(trial.scores) < upto]
        if not behind:
            return
        asked = [(self._subject(trial), self.rows[len(trial.scores) : upto]) for trial in behind]
        for trial, scores in zip(behind, self.measurer.score_all(asked, self.metric, self.spec.labels), strict=True):
            trial.scores += scores

    def halve(self, trials: list[_Trial]) -> _Trial:
        """Return the best trial, for about half an evaluation of the dev split."""
        rows = 0
        for _, more in _rounds(len(trials), len(self.rows)):
            rows += more
            self.ask(trials, rows)
            trials = sorted(trials, key=lambda trial: trial.rank(rows))[: math.ceil(len(trials) / 2)]
        return trials[0]

    def _subject(self, trial: _Trial) -> Subject:
        return Subject("baseline", trial.prompt, retriever=self.retriever)
