"""The fixtures' values, made from a suite's pipeline."""

from collections.abc import Callable

import pytest

from pytest_finetune.cases import Case
from pytest_finetune.claims import Asked, Gate
from pytest_finetune.errors import SuiteError
from pytest_finetune.handles import AdapterHandle, ModelHandle
from pytest_finetune.pipeline import Pipeline
from pytest_finetune.records import Example, Measurement, Verdict
from pytest_finetune.report.junit import properties
from pytest_finetune.rows import General, Rows
from pytest_finetune.session import KEY
from pytest_finetune.shadowed import ShadowHandle


def heldout(pipeline: Pipeline) -> Rows:
    """Return the held-out rows."""
    return Rows("held-out", pipeline.data.heldout, pipeline.spec.gate.metric)


def general(pipeline: Pipeline) -> General:
    """Return the general suites; the base model is asked now what lm-eval asks."""
    checked, given, asked = pipeline.data.general, pipeline.outputs, pipeline.asked_harness()
    rows = {**pipeline.general, **checked}
    metrics = {name: task.metric for name, task in asked.items()}
    return General(
        {
            g.name: Rows(
                g.name, rows[g.name], metrics.get(g.name, g.metric), True, given.get(g.name), asked.get(g.name)
            )
            for g in pipeline.spec.general
        }
    )


def base_model(pipeline: Pipeline) -> ModelHandle:
    """Return the base model with the prompt that the adapter is served with."""
    return ModelHandle(pipeline, "base model", pipeline.serve)


def baseline(pipeline: Pipeline) -> ModelHandle:
    """Return the base model with its best prompt, searched for now.

    Where that prompt is what ships (method ``prompt``), it is compared with the plain instruction.
    """
    return ModelHandle(pipeline, "baseline", pipeline.rival)


def adapter(pipeline: Pipeline) -> AdapterHandle:
    """Return the adapter, trained now if the store has none."""
    return AdapterHandle(pipeline)


def gate(request: pytest.FixtureRequest, pipeline: Pipeline) -> Gate:
    """Return the gate, which notes its verdicts on the test that asks."""

    def on_verdict(verdict: Verdict) -> None:
        request.node.user_properties.extend(properties(verdict))
        request.config.stash[KEY].decided(pipeline, verdict)

    def cases(test: Callable[..., object]) -> Measurement:
        _answers(request, pipeline)  # first: where another worker trains or answers now, its cases wait for that, too
        return request.config.stash[KEY].cases.measured(request.path, test, pipeline.data.heldout, "adapter")

    def on_measured() -> None:
        request.config.stash[KEY].measured.add(request.node.nodeid)

    subtests = request.getfixturevalue("subtests")
    return Gate(pipeline, Asked(request.node.nodeid, on_verdict, subtests, cases, on_measured))


def shadow(request: pytest.FixtureRequest, pipeline: Pipeline) -> ShadowHandle:
    """Return the spool that ``--finetune-shadow`` names."""
    options = request.config.stash[KEY].options
    if options.recompute:
        pytest.skip(
            "--finetune-recompute: live traffic is no part of the evidence; see `pytest-finetune shadow verdict`"
        )
    if options.shadow is None:
        raise SuiteError("fixture shadow: which spool? name the proxy's file with --finetune-shadow=FILE")
    return ShadowHandle(options.shadow, pipeline.data.heldout)


def case(request: pytest.FixtureRequest, pipeline: Pipeline) -> Case:
    """Return one held-out row with the adapter's answer; the first one asked for has all rows answered."""
    row: Example = request.param
    return Case(row, _answers(request, pipeline)[row.id])


def _answers(request: pytest.FixtureRequest, pipeline: Pipeline) -> dict[str, str]:
    def make() -> dict[str, str]:
        rows = heldout(pipeline)
        return dict(zip((example.id for example in rows), adapter(pipeline).generate(rows), strict=True))

    return request.config.stash[KEY].cases.answers(pipeline.spec.file, make)
