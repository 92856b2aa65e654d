"""Per-case tests: one test over each held-out row, of which the rate of passing is judged, not the single case."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_finetune.errors import SuiteError
from pytest_finetune.measure import in_looks
from pytest_finetune.records import Example, Measurement

FIXTURE = "case"
RATE = "pass_rate"
PATIENCE_SECONDS = 600.0  # without any news from the other workers; a case may ask a slow judge


@dataclass(frozen=True, slots=True)
class Case:
    """One held-out row, and what the adapter answered; all are answered when the first is asked for."""

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


def judges(item: pytest.Item) -> bool:
    """Whether an item asks for a pass rate, and so runs after the cases."""
    return RATE in _names(item)


def judged(items: Iterable[pytest.Item]) -> set[str]:
    """Return the per-case tests whose rate one of these items judges; the cases of others fail like any test."""
    asking = [item for item in items if judges(item) and not item.get_closest_marker("skip")]
    return {f"{item.path}::{name}" for item in asking for name in _names(item)}


def further_parameters(item: pytest.Item) -> set[str]:
    """Return the parameters of a case beside its row: of several results for one row, none would be the row's."""
    return set(item.callspec.params) - {FIXTURE} if _row(item) else set()  # type: ignore[attr-defined]  # an item with parameters


def _row(item: pytest.Item) -> Example | None:
    """Return the row of a case; None where an item is none."""
    call = getattr(item, "callspec", None)
    row = call.params.get(FIXTURE) if call else None
    return row if isinstance(row, Example) else None


def _names(item: pytest.Item) -> tuple[str, ...]:
    code = getattr(getattr(item, "function", None), "__code__", None)
    return tuple(code.co_names) if code else ()


class Cases:
    """What the cases of a run came to; xdist's workers tell each other by files in a folder."""

    def __init__(self, folder: Path, worker: str = "") -> None:
        self._folder, self._worker = folder, worker
        self.judged: set[str] = set()  # per-case tests whose rate a selected test judges
        self._own: dict[str, dict[str, float]] = {}
        self._answers: dict[Path, dict[str, str]] = {}

    def answers(self, suite: Path, make: Callable[[], dict[str, str]]) -> dict[str, str]:
        """Return the answers to a suite's held-out rows, by the row's id, made when first asked for."""
        if suite not in self._answers:
            self._answers[suite] = make()
        return self._answers[suite]

    def has(self, item: pytest.Item) -> bool:
        """Whether an item is a case of a per-case test whose rate is judged."""
        return _row(item) is not None and _test(item.path, item.function) in self.judged  # type: ignore[attr-defined]  # a test function

    def note(self, item: pytest.Item, passed: bool) -> None:
        """Note what one case came to."""
        row = _row(item)
        assert row
        test = _test(item.path, item.function)  # type: ignore[attr-defined]  # a test function
        self._own.setdefault(test, {})[_place(row)] = float(passed)
        if self._worker:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{self._worker}.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([test, _place(row), float(passed)]) + "\n")

    def measured(self, path: Path, test: Callable[..., object], rows: Iterable[Example], subject: str) -> Measurement:
        """Return the cases of a test as a measurement: 1 for each that passed.

        Raises:
            SuiteError: some cases did not run.
        """
        examples, key = in_looks(list(rows), 1)[0], _test(path, test)
        known = self._known(key, {_place(example) for example in examples})
        missing = [name(example) for example in examples if _place(example) not in known]
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
            outputs=tuple("passed" if known[_place(example)] else "failed" for example in examples),
            scores=tuple(known[_place(example)] for example in examples),
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


def _place(example: Example) -> str:
    return f"{example.file}:{example.line}"


def _test(path: Path, function: Callable[..., object]) -> str:
    return f"{path}::{function.__name__}"
