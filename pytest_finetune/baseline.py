"""The baseline: the best prompt for the base model, found on the dev split only."""

from collections.abc import Iterator, Sequence

from pytest_finetune import digest
from pytest_finetune.errors import PromptTooLong
from pytest_finetune.measure import Measurer, Subject
from pytest_finetune.metrics import Metric
from pytest_finetune.records import Baseline, Candidate, Example, Prompt
from pytest_finetune.suite import SuiteSpec


def search(
    spec: SuiteSpec, measurer: Measurer, train: Sequence[Example], dev: Sequence[Example], metric: Metric
) -> Baseline:
    """Return the best of all candidates x shots by mean score on the dev split.

    A prompt that does not fit the model's context is kept in the list with ``n`` 0. Ties go to
    fewer shots, then to the candidate named first.

    Raises:
        PromptTooLong: none of the prompts fits.
    """
    tried: list[tuple[Candidate, Prompt]] = []
    for prompt in prompts(spec, train):
        try:
            score = measurer.measure(Subject("baseline", prompt), "dev", dev, metric, spec.labels).mean
            tried.append((Candidate(prompt.name, len(prompt.shots), score, len(dev)), prompt))
        except PromptTooLong as error:
            tried.append((Candidate(prompt.name, len(prompt.shots), 0.0, 0), prompt))
            too_long = error
    fitting = [(candidate, prompt) for candidate, prompt in tried if candidate.n]
    if not fitting:
        raise PromptTooLong(f"{spec.file}: no prompt candidate fits: {too_long}")
    best = min(fitting, key=lambda pair: (-pair[0].score, pair[0].shots))
    return Baseline(best[1], tuple(candidate for candidate, _ in tried))


def prompts(spec: SuiteSpec, train: Sequence[Example]) -> Iterator[Prompt]:
    """Yield every candidate with every number of shots."""
    for shots in sorted(spec.shots):
        chosen = choose_shots(train, shots)
        for number, system in enumerate(spec.candidates, 1):
            yield Prompt(f"candidate {number}", system, chosen)


def choose_shots(train: Sequence[Example], count: int) -> tuple[Example, ...]:
    """Return ``count`` rows chosen by digest, of as many different references as there are."""
    groups: dict[str, list[Example]] = {}
    for example in sorted(train, key=lambda e: digest.of(["shot", e.id])):
        groups.setdefault(example.reference, []).append(example)
    turns = [example for rank in range(count) for rows in groups.values() for example in rows[rank : rank + 1]]
    return tuple(turns[:count])
