"""A whole run among secrets: none of them is in what it prints, writes or keeps."""

import base64
import json
import zlib
from contextlib import closing
from pathlib import Path

import pytest
from colours import SUITE, rows

from pytest_finetune import digest, redaction
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.errors import EngineError
from pytest_finetune.records import Generation, Message, Model

TOLD = "told-c4nary-5f2e8d1b"  # only in the environment
ROW = "row-c4nary-91ab7c3e"  # also in a row, and so in what a model is asked
LEAKS = """
import os


def test_shows_examples(gate, adapter, heldout):
    gate.reaches(adapter, on=heldout, at_least=0.9)


def leaks(prediction, reference):
    raise ValueError(str(dict(os.environ)))


def test_metric_of_ones_own(gate, adapter, heldout):
    print("I have", os.environ["TOLD_TOKEN"])
    gate.reaches(adapter, on=heldout, metric=leaks, at_least=0.5)


def test_library(gate, adapter, heldout):
    gate.reaches(adapter, on=heldout, metric="evaluate:./leaky", at_least=0.5)
"""
LIBRARY = """
import base64
import os

import datasets
import evaluate


class Leaky(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        held = str(dict(os.environ))
        raise RuntimeError(f"GET https://host/?all={held} {base64.b64encode(held.encode()).decode()}")
"""


def forms(secret: str) -> set[bytes]:
    """Return a secret as it is, and the middle of its base64 wherever that begins."""
    return {secret.encode(), *(base64.b64encode(b"x" * n + secret.encode())[4:-4] for n in range(3))}


@pytest.mark.slow
@pytest.mark.attack(19)
def test_no_secret_is_told(pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither log, reports, annotations, store nor evidence hold a token of the environment, whoever says it; one that
    rows hold is in no report, either.
    """
    (project / "suite.toml").write_text(SUITE.replace("training = {", 'training = { method = "prompt",'))
    hides = [ROW, base64.b64encode(f"a{ROW}".encode()).decode()]
    held = [json.loads(line) for line in rows(1000, 60).splitlines()]
    asked = [{**row, "prompt": f"{row['prompt']} {hides[i % 2]}"} for i, row in enumerate(held)]
    (project / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (project / "test_colours.py").write_text(LEAKS)
    (project / "leaky").mkdir()
    (project / "leaky" / "leaky.py").write_text(LIBRARY)
    for name, value in {
        "TOLD_TOKEN": TOLD,
        "ROW_PASSWORD": ROW,
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(pytester.path / "summary.md"),
    }.items():
        monkeypatch.setenv(name, value)
    written = [f"--finetune-{name}=told.{name}" for name in ("report", "html", "markdown", "evidence")]
    result = pytester.runpytest_subprocess("--finetune", "-vv", "-l", "--junitxml=told.xml", *written, timeout=240)
    said = "\n".join((*result.outlines, *result.errlines)).encode()
    assert b"3 failed" in said or b"error" in said
    assert said.count(b"[redacted]") > 2
    kept = {file: file.read_bytes() for file in pytester.path.rglob("*") if file.is_file()}
    told = {file: text for file, text in kept.items() if file.parent == pytester.path}
    assert len(told) >= 5  # the evidence is a folder
    assert any(file.is_relative_to(pytester.path / ".finetune") for file in kept)
    ours = {file: text for file, text in kept.items() if not file.is_relative_to(project)}
    for where, texts, secrets in (
        ("stdout", {"": said}, (TOLD, ROW)),
        ("kept", ours, (TOLD,)),
        ("told", told, (TOLD, ROW)),
    ):
        for file, text in texts.items():
            for secret in secrets:
                assert not [form for form in forms(secret) if form in unpacked(text)], (where, file)


@pytest.mark.attack(19)
def test_an_answer_that_holds_a_secret_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model said is measured as it was said; where that is a secret of its process, nothing is."""
    asked = ((Message("user", "Copy this: lanterns"),),)
    model = Model("embedded", "", str(digest.PACKAGE / "embedded"))
    with closing(EngineProcess("cpu", lambda progress: None)) as engine:
        [said] = engine.generate(model, None, asked, Generation(max_new_tokens=16)).texts
    assert len(said) >= redaction.LEAST
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{said}@127.0.0.1:9")
    with closing(EngineProcess("cpu", lambda progress: None)) as engine:
        assert engine.lengths(model, asked)
        with pytest.raises(EngineError, match=r"an answer holds .* HTTPS_PROXY; take another secret") as error:
            engine.generate(model, None, asked, Generation(max_new_tokens=16))
    assert said not in str(error.value)


def unpacked(text: bytes) -> bytes:
    """Return a text, and what a page holds packed."""
    found = [text]
    for part in text.replace(b'"', b">").replace(b"<", b">").split(b">"):
        if len(part) > 100:
            try:
                found.append(zlib.decompress(base64.b64decode(part, validate=True), 47))
            except (ValueError, zlib.error):
                continue
    return b"\n".join(found)
