"""The training mix: train rows by their weights, general rows replayed, and the dev split in an order of its own."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, zip_longest

from pytest_finetune import digest
from pytest_finetune.records import Conversation, CuratedData, Example, Prompt

NO_PROMPT = Prompt("none")


def train_rows(data: CuratedData, serve: Prompt, replay_share: float, class_weights: bool) -> tuple[Conversation, ...]:
    """Return what is trained on.

    Args:
        data: the suite's rows.
        serve: the prompt that train rows are asked with; general rows are asked without.
        replay_share: share of the mix that is general rows, one of each suite in turn, so that none
            is forgotten for being listed last.
        class_weights: weigh rows such that every label counts the same, and the mean row 1.
    """
    weights = _weights(data.train) if class_weights else {}
    rows = [Conversation(serve.before(e), e.reference, weights.get(e.reference, 1.0)) for e in data.train]
    wanted = round(len(rows) * replay_share / (1 - replay_share))
    pools = [digest.shuffled("replay", pool) for pool in data.replay.values()]
    mixed = [example for example in chain.from_iterable(zip_longest(*pools)) if example is not None][:wanted]
    return (*rows, *(Conversation(NO_PROMPT.before(example), example.reference) for example in mixed))


def dev_rows(data: CuratedData, serve: Prompt) -> tuple[Conversation, ...]:
    """Return the dev split, in an order in which the first rows are a sample of all."""
    return tuple(Conversation(serve.before(e), e.reference) for e in digest.shuffled("dev", data.dev))


def _weights(train: Sequence[Example]) -> dict[str, float]:
    counts = Counter(example.reference for example in train)
    return {label: len(train) / (len(counts) * count) for label, count in counts.items()}
