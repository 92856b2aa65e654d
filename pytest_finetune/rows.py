"""Rows as tests hold them: one data set, or the general suites by name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_finetune.harness import Harness
from pytest_finetune.outputs import Outputs
from pytest_finetune.records import Example


@dataclass(frozen=True)
class Rows(Sequence[Example]):
    """Rows of one data set, as a sequence of examples.

    ``outputs`` are scores that were made elsewhere, of the base model and of the adapter; where they
    are given, nobody is asked. ``harness`` asks and scores in our place, as lm-eval does.
    """

    name: str
    examples: tuple[Example, ...]
    metric: str
    is_general: bool = False
    outputs: Outputs | None = None
    harness: Harness | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        found = self.examples[index]
        return replace(self, examples=found) if isinstance(index, slice) else found


@dataclass(frozen=True)
class General(Mapping[str, Rows]):
    """The general suites by name."""

    suites: dict[str, Rows]

    def __getitem__(self, name: str) -> Rows:
        return self.suites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.suites)

    def __len__(self) -> int:
        return len(self.suites)
