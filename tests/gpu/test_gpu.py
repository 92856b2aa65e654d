"""The engine and the gate on a real GPU, with the embedded model."""

from pathlib import Path

import pytest
from colours import CUES, SUITE, rows

from pytest_finetune import suite
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.records import Message
from pytest_finetune.store import Store


@pytest.mark.parametrize(
    ("method", "variant"),
    [
        *((method, "lora") for method in ("lora", "qlora", "full", "soft_prompt")),
        *(("lora", variant) for variant in ("rslora", "pissa")),
        ("qlora", "loftq"),
    ],
)
def test_every_method_trains(method: str, variant: str, tmp_path: Path) -> None:
    """Each method and kind of LoRA lowers the dev loss on the GPU and says how much of its memory it took."""
    settings = "training = {" if variant == "lora" else f'training = {{ method = "{method}", variant = "{variant}",'
    (tmp_path / "suite.toml").write_text(SUITE.replace("training = {", settings))
    (tmp_path / "train.jsonl").write_text(rows(0, 150))
    (tmp_path / "heldout.jsonl").write_text(rows(1000, 150))
    spec = suite.load(tmp_path / "suite.toml", tmp_path).with_training(method, None)
    engine = EngineProcess("cuda", lambda progress: None)
    try:
        pipeline = Pipeline(spec, Workplace(Store(tmp_path / "store"), lambda name: engine, "cuda"))
        curve = pipeline.adapter.curve
    finally:
        engine.close()
    assert curve
    assert curve.peak_bytes > 0
    best = min(loss for _, loss in curve.dev_loss_nats)
    assert best < curve.train_loss_nats[0][1]


def test_gate_passes(pytester: pytest.Pytester, project: Path) -> None:
    """`pytest --finetune` takes the GPU by itself and passes a good adapter."""
    result = pytester.runpytest_subprocess("--finetune", "-p", "no:cacheprovider", timeout=240)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*PASS*beats*"])


def test_answers_are_the_cpus(tmp_path: Path) -> None:
    """Greedy answers of the base model on the GPU (bfloat16) and the CPU (float32) agree on nearly all rows."""
    (tmp_path / "suite.toml").write_text(SUITE)
    (tmp_path / "train.jsonl").write_text(rows(0, 150))
    (tmp_path / "heldout.jsonl").write_text(rows(1000, 150))
    spec = suite.load(tmp_path / "suite.toml", tmp_path)
    asked = [f"Reverse: {a}, {b}" for a in CUES for pair in CUES.values() for b in pair]
    prompts = tuple((Message("user", text),) for text in asked)
    answers = []
    for device in ("cuda", "cpu"):
        engine = EngineProcess(device, lambda progress: None)
        try:
            answers.append(engine.generate(spec.base_model(), None, prompts, spec.generation).texts)
        finally:
            engine.close()
    same = sum(a == b for a, b in zip(*answers, strict=True))
    assert same >= 0.9 * len(prompts)
