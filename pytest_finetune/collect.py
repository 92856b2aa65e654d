"""Collection: which tests belong to suites, a suite's `data` item, and what is wrong before a run."""

import inspect
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path

import pytest

from pytest_finetune import cases, curves, data, plan, policy, suite
from pytest_finetune.errors import Overfitted, PolicyLowered, PromptIsEnough, SuiteError
from pytest_finetune.outcomes import usage_errors
from pytest_finetune.report.escape import visible
from pytest_finetune.session import KEY, FinetuneSession


class SuiteFile(pytest.File):
    """A `suite.toml`; it holds an item for each stage that has a verdict of its own."""

    def collect(self) -> Iterable[pytest.Item]:
        """Yield the items that check the suite's policy (where asked for), its data and its training."""
        if self.config.stash[KEY].options.policy_ref is not None:
            yield PolicyItem.from_parent(self, name="policy")
        yield DataItem.from_parent(self, name="data")
        yield TrainingItem.from_parent(self, name="training")


class StageItem(pytest.Item):
    """Checks one stage of a suite."""

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return where the item stands and what it is called."""
        return self.path, 0, f"{self.path.parent.name}: {self.name}"


class PolicyItem(StageItem):
    """Checks that no less must be proven than on the base branch."""

    def runtest(self) -> None:
        """Raise PolicyLowered where the policy is lowered and nobody accepted that."""
        session = self.config.stash[KEY]
        lowering = [change for change in session.policy_of(session.pipeline(self.path.parent)) if change.lowers]
        if lowering and not session.options.accept_policy_change:
            raise PolicyLowered(
                f"{self.path}: less must be proven than at {visible(str(session.options.policy_ref))}, or it is "
                "judged by other rows or code:\n"
                + "".join(f"  {visible(policy.line(change))}\n" for change in lowering)
                + "Undo it, or have it looked at and accepted: --finetune-accept-policy-change"
            )


class DataItem(StageItem):
    """Checks a suite's data: passes, or says what is wrong with it."""

    def runtest(self) -> None:
        """Curate; raises DataRefused where a finding forbids using the data."""
        _ = self.config.stash[KEY].pipeline(self.path.parent).data


class TrainingItem(StageItem):
    """Checks a suite's training: fails where what ships is past its best."""

    def runtest(self) -> None:
        """Train; raises Overfitted, and skips where nothing is trained here."""
        session = self.config.stash[KEY]
        if self.path in session.untrained:
            pytest.skip("no selected test asks for the adapter")
        pipeline = session.pipeline(self.path.parent)
        try:
            curve = pipeline.adapter.curve
        except PromptIsEnough as verdict:
            pytest.skip(f"nothing is trained: {verdict}")
        if curve is None:
            pytest.skip("nothing is trained here")
        if curves.overfits(curve) and curve.shipped_step != curve.best_step:
            raise Overfitted(
                f"the dev loss rose for good, and the last checkpoint ships: {curves.rise(curve)}; "
                f"{curves.remedy(curve, len(pipeline.data.train))}"
            )


def of_suites(items: Sequence[pytest.Item], asking: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the stages' items, and those of ``asking`` (which use a fixture named as ours) in a suite."""
    stages = [item for item in items if isinstance(item, StageItem)]
    return stages + [item for item in asking if _suite_of(item.path.parent, item.config.rootpath)]


def arrange(session: FinetuneSession, items: list[pytest.Item]) -> None:
    """Put the selected items in order, whatever order plugins gave them, and see whose cases are judged.

    Rates come after their cases, and training last: what -x stops before must not train.
    """
    items.sort(key=lambda item: 2 if isinstance(item, TrainingItem) else int(cases.judges(item)))
    session.cases.judged = cases.judged(items)


def parametrise(session: FinetuneSession, metafunc: pytest.Metafunc) -> None:
    """Run a test that uses our ``case`` once for each held-out row of its suite; rows must be on this disk."""
    file = _suite_of(metafunc.definition.path.parent, metafunc.config.rootpath)
    if not file:
        return
    with usage_errors():
        pipeline = session.pipeline(file.parent)
        if not data.is_local(pipeline.spec.sources):
            raise SuiteError(f"{file}: `case` needs rows that are files, since collecting tests touches no network")
        rows = pipeline.curated.heldout
    metafunc.parametrize(cases.FIXTURE, rows, ids=[cases.name(row) for row in rows], indirect=True)


def check(session: FinetuneSession, items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Refuse what is wrong with the suites of ``items`` before anything runs.

    Returns:
        The items of suites that this machine cannot run; the session notes why.

    Raises:
        pytest.UsageError: a mistake in a suite, or a suite that no test gates.
    """
    by_suite: dict[Path, list[pytest.Item]] = {}
    for item in items:
        file = _suite_of(item.path.parent, session.config.rootpath)
        assert file
        by_suite.setdefault(file, []).append(item)
    beyond: list[pytest.Item] = []
    with usage_errors():
        for file, own in by_suite.items():
            pipeline = session.pipeline(file.parent)
            session.check(pipeline)
            for item in own:
                if names := cases.further_parameters(item):
                    raise SuiteError(f"{item.nodeid}: a per-case test takes no parameter beside `case`, not {names}")
            _check_gated(session.config, file, own)
            if not _trains(own):
                session.untrained.add(file)
            if lacking := session.lacks(pipeline):
                note = f"finetune: {pipeline.spec.name}: {len(own)} tests deselected: needs {lacking}"
                session.notes.append(visible(note))
                beyond += own
        session.compare_policy()
    session.checked = True
    return beyond


def check_rows(session: FinetuneSession) -> None:
    """Read the rows of all suites that this machine can run, and note what they cannot prove.

    Raises:
        pytest.UsageError: a row that cannot be read.
    """
    with usage_errors():
        for pipeline in session.pipelines.values():
            if not session.lacks(pipeline) and session.check_rows(pipeline) and not session.options.plan:
                session.notes += [
                    visible(f"finetune: {pipeline.spec.name}: {text}") for text in plan.unproven(pipeline)
                ]


def selected(session: FinetuneSession, items: Sequence[pytest.Item]) -> dict[Path, list[Collection[str]]]:
    """Return the fixtures of each test that was selected, by the suite's file."""
    found: dict[Path, list[Collection[str]]] = {}
    for item in items:
        file = _suite_of(item.path.parent, session.config.rootpath)
        runs = item.get_closest_marker("finetune") and not item.get_closest_marker("skip")
        if file and runs and not isinstance(item, StageItem):
            found.setdefault(file, []).append(getattr(item, "fixturenames", ()))
    return found


@cache
def _suite_of(folder: Path, root: Path) -> Path | None:
    return suite.find(folder, root)


def _check_gated(config: pytest.Config, file: Path, items: list[pytest.Item]) -> None:
    """No eval, no training: an adapter that no test gates is not made."""
    tests = [item for item in items if not isinstance(item, StageItem)]
    only_data = not tests and not any(Path(arg.split("::")[0]).name == file.name for arg in config.args)
    if (_trains(tests) or only_data) and not any(_gates(item) for item in tests):
        raise SuiteError(
            f"{file}: no test gates this suite, so nothing would stop a bad adapter. Add to a test_*.py beside it: "
            "def test_beats_the_prompt(gate, adapter, baseline, heldout): gate.beats(adapter, baseline, on=heldout)"
        )


def _trains(items: list[pytest.Item]) -> bool:
    """Whether a test asks for the adapter."""
    return any({"adapter", cases.FIXTURE} & set(getattr(item, "fixturenames", ())) for item in items)


def _gates(item: pytest.Item) -> bool:
    """Whether the item, or a test that stands beside it and was not selected, asks for the gate."""
    module = getattr(item, "module", None)
    beside = [v for k, v in vars(module).items() if k.startswith("test") and inspect.isfunction(v)] if module else []
    return "gate" in getattr(item, "fixturenames", ()) or any("gate" in inspect.signature(f).parameters for f in beside)
