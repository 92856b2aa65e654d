"""The engine process over the embedded model: answers, likelihoods, every method, and its faults."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from colours import SUITE, rows

from pytest_finetune import digest, suite
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.errors import EngineError, PromptTooLong
from pytest_finetune.methods import METHODS
from pytest_finetune.pipeline import SHIPPED, Pipeline, Workplace
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Adapter, Generation, Message, Model
from pytest_finetune.store import Store
from pytest_finetune.suite import SuiteSpec

MODEL = Model("embedded", "", str(digest.PACKAGE / "embedded"))
SHORT = Generation(max_new_tokens=16, batch_size=4)


def ask(text: str) -> Turns:
    """Return a conversation of one question."""
    return (Message("user", text),)


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    """One engine for all tests here: its start costs seconds."""
    process = EngineProcess("cpu", lambda progress: None)
    yield process
    process.close()


@pytest.fixture
def spec(tmp_path: Path) -> SuiteSpec:
    """A suite of 90 training rows that is learned in seconds."""
    (tmp_path / "suite.toml").write_text(SUITE)
    (tmp_path / "train.jsonl").write_text(rows(0, 90))
    (tmp_path / "heldout.jsonl").write_text(rows(1000, 30))
    return suite.load(tmp_path / "suite.toml", tmp_path)


def train(spec: SuiteSpec, engine: EngineProcess) -> Adapter:
    """Train as a run would, in a store of its own."""
    store = Store(spec.folder / "store")
    return Pipeline(spec, Workplace(store, lambda name: engine, retrain=True)).adapter


def test_answers_keep_their_order(engine: EngineProcess) -> None:
    """Answers come in the order of the prompts, whatever the batches, and equal prompts get equal ones."""
    questions = [f"Write as ISO date: {day} May 2021" for day in range(10, 19)]
    prompts = tuple(ask(q) for q in (*questions, *reversed(questions)))
    answers = engine.generate(MODEL, None, prompts, SHORT)
    assert answers == answers[::-1]
    assert len(set(answers)) == len(questions)


def test_greedy_answer_is_the_likeliest(engine: EngineProcess) -> None:
    """The likelihoods of two labels rank them as the greedy answer does, and are those of a distribution."""
    prompts = (ask("Sentiment: The soup was wonderful."), ask("Sentiment: The soup was awful."))
    answers = engine.generate(MODEL, None, prompts, SHORT)
    nats = engine.score(MODEL, None, prompts, ("positive", "negative"))
    assert answers == ("positive", "negative")
    assert [row.index(max(row)) for row in nats] == [0, 1]
    assert all(0 < math.fsum(map(math.exp, row)) <= 1 for row in nats)


def test_long_prompt_is_refused(engine: EngineProcess) -> None:
    """A prompt beyond the context is an error that says how long both are."""
    with pytest.raises(PromptTooLong, match=r"a prompt of \d+ tokens .* context of 768"):
        engine.generate(MODEL, None, (ask("word " * 900),), SHORT)


def test_evaluate_module_by_path(engine: EngineProcess, tmp_path: Path) -> None:
    """A local `evaluate` module scores each pair, in the engine process."""
    folder = tmp_path / "same_length"
    folder.mkdir()
    (folder / "same_length.py").write_text(
        "import datasets\nimport evaluate\n\n\nclass SameLength(evaluate.Metric):\n"
        "    def _info(self):\n        text = datasets.Value('string')\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='',\n"
        "            features=datasets.Features({'predictions': text, 'references': text}))\n\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'same_length': float(len(predictions[0]) == len(references[0]))}\n"
    )
    assert engine.evaluate(str(folder), "", ("ab", "a"), ("cd", "cd")) == (1.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method: str, spec: SuiteSpec, engine: EngineProcess) -> None:
    """Each method lowers the dev loss on the CPU, changes the model's answers, and ships safetensors."""
    adapter = train(spec.with_training(method, None), engine)
    assert adapter.curve
    first = adapter.curve.train_loss_nats[0][1]
    assert min(loss for _, loss in adapter.curve.dev_loss_nats) < first
    assert list(Path(adapter.path).glob("*.safetensors"))
    assert not list(Path(adapter.path).glob("checkpoint*"))


def test_equal_training_gives_equal_bytes(spec: SuiteSpec, engine: EngineProcess) -> None:
    """The same inputs and seed give the same adapter to the byte; another seed gives another."""
    first, again = train(spec, engine), train(spec, engine)
    assert first.digest == again.digest
    assert train(spec.with_training(None, 1), engine).digest != first.digest


def test_loss_that_is_not_finite_stops(spec: SuiteSpec, engine: EngineProcess) -> None:
    """A learning rate that blows training up ends it at once, with the step and the remedy."""
    text = spec.file.read_text().replace("learning_rate = 5e-3", "learning_rate = 1e6")
    spec.file.write_text(text)
    with pytest.raises(EngineError, match=r"loss is (nan|inf) at step \d+ of \d+; lower \[training\] learning_rate"):
        train(suite.load(spec.file, spec.folder), engine)


def test_adapter_of_nan_is_an_error(spec: SuiteSpec, engine: EngineProcess) -> None:
    """PEFT loads NaN silently; the probe names the tensor."""
    import torch
    from safetensors.torch import load_file, save_file

    path = Path(train(spec, engine).path)
    weights = load_file(path / "adapter_model.safetensors")
    next(iter(weights.values())).fill_(torch.nan)
    save_file(weights, path / "adapter_model.safetensors")
    broken = Adapter(str(path), digest.of_files(path, SHIPPED), "external")
    with pytest.raises(EngineError, match="holds NaN or infinity"):
        engine.probe(MODEL, broken, (ask("hello"),))
