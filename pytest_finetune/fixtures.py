"""The fixtures' values, made from a suite's pipeline."""

import pytest

from pytest_finetune.handles import AdapterHandle, Gate, General, ModelHandle, Rows
from pytest_finetune.methods import PROMPT
from pytest_finetune.pipeline import Pipeline
from pytest_finetune.records import Verdict
from pytest_finetune.report.junit import properties
from pytest_finetune.session import KEY


def heldout(pipeline: Pipeline) -> Rows:
    """Return the held-out rows."""
    return Rows("held-out", pipeline.data.heldout, pipeline.spec.gate.metric)


def general(pipeline: Pipeline) -> General:
    """Return the general suites."""
    rows = pipeline.data.general
    return General({g.name: Rows(g.name, rows[g.name], g.metric, is_general=True) for g in pipeline.spec.general})


def base_model(pipeline: Pipeline) -> ModelHandle:
    """Return the base model with the prompt that the adapter is served with."""
    return ModelHandle(pipeline, "base model", pipeline.serve)


def baseline(pipeline: Pipeline) -> ModelHandle:
    """Return the base model with its best prompt, searched for now.

    Where that prompt is what ships (method ``prompt``), it is compared with the plain instruction.
    """
    ships_prompt = pipeline.training.method == PROMPT and not pipeline.workplace.external
    return ModelHandle(pipeline, "baseline", pipeline.plain if ships_prompt else pipeline.baseline.prompt)


def adapter(pipeline: Pipeline) -> AdapterHandle:
    """Return the adapter, trained now if the store has none."""
    return AdapterHandle(pipeline)


def gate(request: pytest.FixtureRequest, pipeline: Pipeline) -> Gate:
    """Return the gate, which notes its verdicts on the test that asks."""

    def on_verdict(verdict: Verdict) -> None:
        request.node.user_properties.extend(properties(verdict))
        request.config.stash[KEY].decided(pipeline, verdict)

    return Gate(pipeline, request.node.nodeid, on_verdict)
