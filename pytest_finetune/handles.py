"""What tests ask: the base model, the baseline and the adapter."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.errors import SuiteError
from pytest_finetune.measure import Subject
from pytest_finetune.mix import NO_PROMPT
from pytest_finetune.pipeline import Pipeline
from pytest_finetune.records import Adapter, Example, Message, Prompt
from pytest_finetune.rows import Rows


class ModelHandle:
    """A model that tests can ask: the base model, the baseline, or the adapter.

    Suite rows are asked with the subject's own prompt, general rows without any.
    """

    def __init__(self, pipeline: Pipeline, name: str, prompt: Prompt, adapter: Adapter | None = None) -> None:
        self._pipeline = pipeline
        self._adapter = adapter
        self.name = name
        self.prompt = prompt

    def __repr__(self) -> str:
        return f"<{self.name} of {self._pipeline.spec.name}>"

    def subject(self, general: bool = False) -> Subject:
        """Return the record of who is measured."""
        if general:
            return Subject(self.name, NO_PROMPT, self._adapter)
        return Subject(self.name, self.prompt, self._adapter, self._pipeline.retriever)

    def subjects(self, general: bool = False) -> tuple[Subject, ...]:
        """Return the record of who is measured, one a seed where a recipe is judged."""
        return (self.subject(general),)

    def generate(self, rows: Sequence[Example] | Sequence[str]) -> list[str]:
        """Return the greedy answer to each row (an example, or the text of a user's message)."""
        subject = self.subject(isinstance(rows, Rows) and rows.is_general)
        turns = subject.turns([_as_example(row) for row in rows])
        return list(self._pipeline.measurer.answers(self._adapter, turns).texts)

    def score(self, row: Example | str, choices: Sequence[str]) -> dict[str, float]:
        """Return the log-likelihood in nats of each choice as the answer to ``row``."""
        prompts = self.subject().turns([_as_example(row)])
        nats = self._pipeline.measurer.likelihoods(self._adapter, prompts, tuple(choices))
        return dict(zip(choices, nats[0], strict=True))

    def load(self) -> tuple[Any, Any]:
        """Return the real transformers (or peft) model and its tokenizer, in this process, on the CPU."""
        if self._pipeline.workplace.recompute:
            pytest.skip("--finetune-recompute: this test loads the model; what it came to stands in the evidence")
        if not self._pipeline.model.has_files:
            spec = self._pipeline.spec
            raise SuiteError(
                f"{spec.file}: model = {spec.model!r}: only {spec.engine} has it; a test that loads it needs its "
                "folder, or its hub id and revision"
            )
        from pytest_finetune.engine.models import Models, choose_device  # imports torch, as the caller asked

        loaded = Models(choose_device("cpu")).get(self._pipeline.model, self._adapter)
        return loaded.model, loaded.tokenizer


class AdapterHandle(ModelHandle):
    """The fine-tune; ``path`` is the folder that ships and ``digest`` names its bytes.

    What the method ``prompt`` ships is a prompt for the base model, and no weights.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        adapter = pipeline.adapter
        super().__init__(pipeline, "adapter", adapter.prompt or pipeline.serve, None if adapter.prompt else adapter)
        self.path = Path(adapter.path)
        self.digest = adapter.digest
        self.curve = adapter.curve

    def subjects(self, general: bool = False) -> tuple[Subject, ...]:
        """Return one subject a seed of ``--finetune-seeds``, the adapter that ships first."""
        first = self.subject(general)
        others = enumerate(self._pipeline.other_seeds, 2)
        return (first, *(replace(first, name=f"{self.name} {i}", adapter=adapter) for i, adapter in others))


def _as_example(row: Example | str) -> Example:
    return row if isinstance(row, Example) else Example("", (Message("user", row),), "", "", 0)
