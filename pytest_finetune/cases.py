"""Per-case tests: one test over each held-out row, of which the rate of passing is judged, not the single case."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_finetune.errors import SuiteError
from pytest_finetune.records import Example, Measurement

FIXTURE = "case"
RATE = "pass_rate"
PATIENCE_SECONDS = 60.0  # without any news from the other workers


@dataclass(frozen=True, slots=True)
class Case:
    """One held-out row, and what the adapter answered; all are answered in one batch when the first is asked for."""

    example: Example
    output: str

    @property
    def id(self) -> str:
        """The row's digest."""
        return self.example.id

    @property
    def prompt(self) -> str:
        """What is asked."""
        return self.example.text

    @property
    def reference(self) -> str:
        """The right answer."""
        return self.example.reference


def name(example: Example) -> str:
    """Return how a case is called in test ids: the place of its row."""
    return f"{Path(example.file).stem}-{example.line}"


def is_case(item: pytest.Item) -> bool:
    """Whether an item is one case of a per-case test whose rate a test of the same module judges."""
    call = getattr(item, "callspec", None)
    row = call.params.get(FIXTURE) if call else None
    return isinstance(row, Example) and _is_judged(item)


def judges(item: pytest.Item) -> bool:
    """Whether an item asks for a pass rate, and so runs after the cases."""
    function = getattr(item, "function", None)
    return function is not None and RATE in function.__code__.co_names


def _is_judged(item: pytest.Item) -> bool:
    function = getattr(item, "function", None)
    tests = [value for value in vars(getattr(item, "module", None)).values() if hasattr(value, "__code__")]
    named = {name for test in tests if RATE in test.__code__.co_names for name in test.__code__.co_names}
    return function is not None and function.__name__ in named


class Cases:
    """What the cases of a run came to; xdist's workers tell each other by files in a folder."""

    def __init__(self, folder: Path, worker: str = "") -> None:
        self._folder, self._worker = folder, worker
        self._own: dict[str, dict[str, float]] = {}
        self._answers: dict[Path, dict[str, str]] = {}

    def answers(self, suite: Path, make: Callable[[], dict[str, str]]) -> dict[str, str]:
        """Return the answers to a suite's held-out rows, by the row's id, made when first asked for."""
        if suite not in self._answers:
            self._answers[suite] = make()
        return self._answers[suite]

    def note(self, item: pytest.Item, passed: bool) -> None:
        """Note what one case came to."""
        row: Example = item.callspec.params[FIXTURE]  # type: ignore[attr-defined]  # an item with parameters
        test = _test(item.path, item.function)  # type: ignore[attr-defined]  # a test function
        self._own.setdefault(test, {})[name(row)] = float(passed)
        if self._worker:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{self._worker}.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([test, name(row), float(passed)]) + "\n")

    def measured(self, path: Path, test: Callable[..., object], rows: Iterable[Example], subject: str) -> Measurement:
        """Return the cases of a test as a measurement: 1 for each that passed.

        Raises:
            SuiteError: some cases did not run.
        """
        examples, key = list(rows), _test(path, test)
        known = self._known(key, {name(example) for example in examples})
        missing = [name(example) for example in examples if name(example) not in known]
        if missing:
            raise SuiteError(
                f"gate.pass_rate({test.__name__}): {len(missing)} of {len(examples)} cases did not run (first: "
                f"{missing[0]}); a rate is of all held-out rows, so run {path.name} whole"
            )
        return Measurement(
            subject=subject,
            on=f"cases of {test.__name__}",
            metric="passed",
            ids=tuple(example.id for example in examples),
            outputs=tuple("passed" if known[name(example)] else "failed" for example in examples),
            scores=tuple(known[name(example)] for example in examples),
            clusters=tuple(example.cluster for example in examples),
            slices=tuple(example.slice for example in examples),
        )

    def _known(self, test: str, wanted: set[str]) -> dict[str, float]:
        known = dict(self._own.get(test, {}))
        news = time.monotonic()
        while self._worker and not wanted <= known.keys() and time.monotonic() - news < PATIENCE_SECONDS:
            time.sleep(0.05)
            before = len(known)
            known |= self._told(test)
            news = time.monotonic() if len(known) > before else news
        return known

    def _told(self, test: str) -> dict[str, float]:
        found = {}
        for file in self._folder.glob("*.jsonl"):
            for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):  # a line that is being written is read the next time
                    about, case, passed = json.loads(line)
                    if about == test:
                        found[case] = passed
        return found


def _test(path: Path, function: Callable[..., object]) -> str:
    return f"{path}::{function.__name__}"
