"""What one training step of a suite works on: rows at once, and the tokens of the longest."""

from collections.abc import Sequence

from pytest_finetune.lengths import Lengths
from pytest_finetune.memory import Load
from pytest_finetune.records import Example, Message
from pytest_finetune.suite import SuiteSpec, model_folder

LONGEST = 64  # rows by characters, of which tokens are counted


def load_of(spec: SuiteSpec, examples: Sequence[Example], dev_rows: int, device: str) -> Load:
    """Return what one training step works on; where no tokenizer is at hand, every row counts as ``max_tokens``.

    Args:
        spec: the suite.
        examples: what it trains on, replay rows too.
        dev_rows: rows of its dev split.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """
    training, folder = spec.training, model_folder(spec.model, spec.folder)
    tokens = completion = training.max_tokens
    shared = 0
    if folder is not None and Lengths.available(folder):
        lengths = Lengths(folder)
        serve = (Message("system", spec.serve),) if spec.serve else ()
        shared = sum(lengths.of([serve])) if serve else 0
        whole = [(*serve, *e.messages, Message("assistant", e.reference)) for e in _longest(examples, True)]
        tokens = max(lengths.of(whole))
        completion = max(lengths.of([(Message("assistant", e.reference),) for e in _longest(examples, False)]))
    return Load(
        rows=training.batch_size,
        tokens=min(tokens, training.max_tokens),
        completion_tokens=min(completion, training.max_tokens),
        rank=training.rank,
        virtual_tokens=training.virtual_tokens,
        dev_rows=max(1, dev_rows),
        device=device.partition(":")[0],
        shared_tokens=min(shared, tokens, training.max_tokens),
    )


def _longest(examples: Sequence[Example], prompt_too: bool) -> list[Example]:
    """Return the rows of the most characters, or with the longest references."""

    def characters(example: Example) -> int:
        return len(example.reference) + (len(example.text) if prompt_too else 0)

    return sorted(examples, key=characters, reverse=True)[:LONGEST]
