"""vLLM in process answers and scores as the local engine does."""

from pathlib import Path

import adapters
import pytest

from pytest_finetune import digest
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.engines import EngineSpec
from pytest_finetune.records import Adapter, Generation, Message, Model

MODEL = Model("embedded", "", str(digest.PACKAGE / "embedded"))
PROMPTS = tuple(
    (Message("user", text),) for text in ("Sort: pear fig apple", "Copy: dog", "Write as ISO date: 3 May 2021")
)


def test_vllm_measures_as_the_local_engine_does(tmp_path: Path) -> None:
    """Base and LoRA: the same answers to nearly all, likelihoods within bfloat16's error, and an adapter that tells."""
    pytest.importorskip("vllm")
    adapter = Adapter(str(tmp_path / "lora"), adapters.lora(tmp_path / "lora", 0, rank=8), "lora")
    local = EngineProcess("cuda", lambda progress: None)
    vllm = EngineProcess("cuda", lambda progress: None, EngineSpec("vllm"))
    for who in (None, adapter):
        ours, theirs = (e.generate(MODEL, who, PROMPTS, Generation(24)).texts for e in (local, vllm))
        assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= len(PROMPTS) - 1
        scored, other = (e.score(MODEL, who, PROMPTS, ("dog", "fig")) for e in (local, vllm))
        for one, two in zip(scored, other, strict=True):
            assert two == pytest.approx(one, rel=0.05, abs=0.5)
    assert vllm.probe(MODEL, adapter, PROMPTS) > 0
    vllm.close()
    local.close()
