"""Metrics: what one answer is worth, from 0 to 1, by name or as any Python callable."""

import importlib.util
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pytest_finetune import digest
from pytest_finetune.errors import SuiteError, named_choice, shortened
from pytest_finetune.metrics import structured, text
from pytest_finetune.metrics.code import code_of

Score = Callable[[str, str], float]
Whole = Callable[[Sequence[str], Sequence[str]], float]

BUILT_IN: Mapping[str, Score] = {
    "exact_match": text.exact_match,
    "label_accuracy": text.label_accuracy,
    "contains": text.contains,
    "regex": text.regex,
    "token_f1": text.token_f1,
    "numeric": text.numeric,
    "json_valid": structured.json_valid,
    "json_fields": structured.json_fields,
}
CHOICE = "choice"
HUB = "evaluate"
CORPUS = "corpus"
MACRO_F1 = "macro_f1"
PYTHON = "python"
MODULES = (f"{HUB}:MODULE", f"{CORPUS}:MODULE", f"{PYTHON}:FILE.py:FUNCTION")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric ready to use.

    ``kind`` says where answers come from and are scored: ``text`` by ``score`` here, ``choice`` by
    log-likelihood of the labels, ``hub`` by the ``evaluate`` module ``module`` in the engine.
    ``whole`` marks a metric of all rows together, which single rows do not add up to: ``value`` (or the
    module) computes it, and what a single row is worth only chooses prompts and shows rows.
    ``code`` names the version of a user's own function, so that editing it is a store miss.
    """

    name: str
    kind: Literal["text", "choice", "hub"]
    score: Score = text.exact_match
    module: str = ""
    key: str = ""
    code: str = ""
    whole: bool = False
    value: Whole | None = None

    @property
    def identity(self) -> list[object]:
        """What names it in keys of the store: its name, its code, and the library that runs it."""
        return [self.name, self.module, self.key, self.code, digest.versions("evaluate")]


def resolve(
    name: str | Score,
    folder: Path,
    schema: str = "",
    extra: Mapping[str, Score] | None = None,
) -> Metric:
    """Return the metric that ``name`` means.

    Args:
        name: a callable ``(prediction, reference) -> float``, or one of: a built-in or registered
            name, ``numeric:TOLERANCE``, ``regex:PATTERN``, ``choice``, ``evaluate:MODULE[:KEY]`` (the mean
            over rows), ``macro_f1`` or ``corpus:MODULE[:KEY]`` (of all rows together),
            ``python:FILE.py:FUNCTION``.
        folder: the suite's, which local files are relative to.
        schema: the suite's answer schema as JSON text, for ``json_valid``.
        extra: metrics that ``pytest_finetune_metrics`` hooks registered.

    Raises:
        SuiteError: no such metric, or its argument is wrong.
    """
    if callable(name):
        return Metric(getattr(name, "__name__", "callable"), "text", name, code=code_of(name))
    head, _, argument = name.partition(":")
    known: dict[str, Score] = {**BUILT_IN, **(extra or {})}
    if head == CHOICE and not argument:
        return Metric(name, "choice")
    if head == MACRO_F1 and not argument:
        return Metric(name, "text", text.label_accuracy, whole=True, value=text.macro_f1)
    if head in (HUB, CORPUS) and argument:
        return _hub(name, argument, folder)
    if head == PYTHON and argument:
        function: Score = function_in(f"metric {name!r}", argument, folder)
        return Metric(name, "text", function, code=code_of(function))
    if head not in known:
        raise SuiteError(f"metric {named_choice(name, [*known, CHOICE, MACRO_F1, *MODULES])}")
    score = known[head]
    if head == "json_valid":
        if not schema:
            raise SuiteError("metric json_valid: the suite has no [answer] schema to validate against")
        score = partial(structured.json_valid, schema=schema)
    if not argument:
        return Metric(name, "text", score, code=code_of(score) if head in (extra or {}) else "")
    if head == "numeric":
        return Metric(name, "text", partial(text.numeric, tolerance=_tolerance(name, argument)))
    if head == "regex":
        return Metric(name, "text", partial(_found, _pattern(name, argument)))
    raise SuiteError(f"metric {name!r}: {head} takes no argument")


def _found(pattern: str, prediction: str, reference: str) -> float:
    return text.regex(prediction, pattern)


def _hub(name: str, argument: str, folder: Path) -> Metric:
    module, _, key = argument.partition(":")
    local = folder / module
    if module.startswith((".", "/")) and not local.exists():
        raise SuiteError(f"metric {name!r}: {local} does not exist")
    whole = name.startswith(CORPUS)
    if not local.exists():
        return Metric(name, "hub", module=module, key=key, whole=whole)
    code = digest.of_files(local, ("**/*.py",)) if local.is_dir() else digest.of_file(local)
    return Metric(name, "hub", module=str(local.resolve()), key=key, code=code, whole=whole)


def _tolerance(name: str, argument: str) -> float:
    try:
        tolerance = float(argument)
    except ValueError:
        tolerance = math.nan
    if not 0 <= tolerance < math.inf:
        raise SuiteError(f"metric {shortened(name)!r}: no tolerance; write a number from 0, as in numeric:0.01")
    return tolerance


def _pattern(name: str, argument: str) -> str:
    try:
        return re.compile(argument).pattern
    except (re.error, OverflowError, RecursionError) as error:
        raise SuiteError(f"metric {shortened(name)!r}: no regular expression: {error}") from None


def function_in(place: str, argument: str, folder: Path) -> Callable[..., Any]:
    """Return a function of the user's.

    Args:
        place: where it is named, for messages.
        argument: FILE.py:FUNCTION.
        folder: what the file is relative to.

    Raises:
        SuiteError: there is no such file, or no such function in it.
    """
    file, _, function = argument.rpartition(":")
    path = folder / file
    if not file or not path.is_file():
        raise SuiteError(f"{place}: no file {path}; write FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(f"pytest_finetune_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise SuiteError(f"{place}: {path} has no function {function!r}")
    made: Callable[..., Any] = found
    return made
