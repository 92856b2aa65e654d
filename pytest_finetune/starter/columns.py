"""What the user's rows look like: which columns to ask and to answer, and what an answer is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_finetune import data
from pytest_finetune.errors import SuiteError
from pytest_finetune.suite import Fields

# What columns are commonly called; a row with two of a kind has no clear one.
PROMPTS = ("prompt", "question", "text", "input", "instruction", "query", "sentence", "message", "utterance", "source")
COMPLETIONS = (
    "completion", "answer", "output", "response", "reference", "target", "expected", "label_text", "label", "intent",
    "category",
)  # fmt: skip
LABELS = 100  # more different answers are no classification
ROWS_A_LABEL = 5
KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


@dataclass(frozen=True, slots=True)
class Answers:
    """What the references are: labels, or JSON objects of a schema, or text; and how long the longest is."""

    labels: tuple[str, ...]
    schema: Mapping[str, Any]
    longest_bytes: int

    @property
    def task(self) -> str:
        """The kind of task that such answers are of."""
        return "classification" if self.labels else "extraction" if self.schema else "instruction"


def fields_of(source: str, given: Sequence[str] | None = None) -> Fields:
    """Return which columns of a file's first row are the prompt and the completion.

    Args:
        source: a file, a folder of files, or a hub data set.
        given: the two names, where the user says them.

    Raises:
        SuiteError: the file cannot be read, or its columns are called what nobody can know.
    """
    place, line, row = next(data.rows([source]), (source, 0, {}))
    if not line:
        raise SuiteError(f"{source}: the file has no rows")
    if given:
        for name in set(given).difference(row):
            raise SuiteError(f"{place}:{line}: the row has no field {name!r} (it has {', '.join(map(repr, row))})")
        return Fields(*given)
    if "messages" in row or {"prompt", "completion"} <= row.keys():
        return Fields()
    asked, answered = (sorted(set(names).intersection(row)) for names in (PROMPTS, COMPLETIONS))
    if len(asked) != 1 or len(answered) != 1:
        raise SuiteError(
            f"{place}:{line}: it is not clear which of {', '.join(map(repr, row))} is the prompt and which the "
            "completion; name them: --fields PROMPT COMPLETION"
        )
    return Fields(asked[0], answered[0])


def answers(references: Sequence[str]) -> Answers:
    """Return what the references of train and held-out rows have in common."""
    labels = tuple(sorted(set(references)))
    few = 1 < len(labels) <= min(LABELS, len(references) // ROWS_A_LABEL)
    # An empty or unprintable label is a mistake in the data, which the checks will tell of.
    sound = all(label and label.isprintable() for label in labels)
    schema = _schema(references)
    longest = max(len(text.encode(errors="backslashreplace")) for text in references)
    return Answers(labels if few and sound and not schema else (), schema, longest)


def _schema(references: Sequence[str]) -> dict[str, Any]:
    """Return a JSON Schema that all references are valid by, if they are JSON objects; else nothing."""
    try:
        rows = [json.loads(text) for text in references]
    except (ValueError, RecursionError):
        return {}
    if not all(isinstance(row, dict) for row in rows):
        return {}
    kinds: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set()).add(KINDS.get(type(value), "null"))
    properties = {name: {"type": kind.pop() if len(kind) == 1 else sorted(kind)} for name, kind in kinds.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": [name for name in kinds if all(name in row for row in rows)],
        "additionalProperties": False,
    }
