"""The engine process over the embedded model: answers, likelihoods, every method, and its faults."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from colours import SUITE, rows

from pytest_finetune import digest, suite
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.engine.models import load_tokenizer
from pytest_finetune.engine.template import training_tokens
from pytest_finetune.errors import EngineError, PromptTooLong, SuiteError
from pytest_finetune.measure import Subject
from pytest_finetune.methods import METHODS
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Adapter, Conversation, Generation, Message, Model, Training, TrainSpec
from pytest_finetune.stats import bootstrap
from pytest_finetune.store import Store
from pytest_finetune.suite import SuiteSpec
from pytest_finetune.tuning import SHIPPED

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


@pytest.mark.slow
def test_quantised_model_after_a_plain_one() -> None:
    """A model in NF4 is served by an engine that served a plain adapter before; it is another model, and stays so."""
    engine = EngineProcess("cpu", lambda progress: None)
    prompts = (ask("Sort: pear fig apple"),)
    plain, quantised = (
        engine.score(model, None, prompts, ("apple fig pear", "fig"))
        for model in (MODEL, replace(MODEL, quantised=True))
    )
    assert plain != quantised
    assert engine.score(MODEL, None, prompts, ("apple fig pear", "fig")) == plain
    engine.close()


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
    answers = engine.generate(MODEL, None, prompts, SHORT).texts
    assert answers == answers[::-1]
    assert len(set(answers)) == len(questions)


def test_greedy_answer_is_the_likeliest(engine: EngineProcess) -> None:
    """The likelihoods of two labels rank them as the greedy answer does, and are those of a distribution."""
    prompts = (ask("Sentiment: The soup was wonderful."), ask("Sentiment: The soup was awful."))
    answers = engine.generate(MODEL, None, prompts, SHORT).texts
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
    whole, *redrawn = engine.redraw(str(folder), "", ("ab", "a"), ("cd", "cd"), ())
    assert whole == 1.0  # this module looks at the first pair only
    assert len(redrawn) == bootstrap.DRAWS
    assert 0.4 < sum(redrawn) / len(redrawn) < 0.6


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method: str, spec: SuiteSpec, engine: EngineProcess) -> None:
    """Each method lowers the dev loss on the CPU, changes the model's answers, and ships safetensors."""
    adapter = train(spec.with_training(method, None), engine)
    assert adapter.curve
    first = adapter.curve.train_loss_nats[0][1]
    assert min(loss for _, loss in adapter.curve.dev_loss_nats) < first
    assert list(Path(adapter.path).glob("*.safetensors"))
    assert not list(Path(adapter.path).glob("checkpoint*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "variant"),
    [("lora", "rslora"), ("lora", "dora"), ("lora", "pissa"), ("qlora", "rslora"), ("qlora", "dora")],
)
def test_every_variant_trains(method: str, variant: str, spec: SuiteSpec, engine: EngineProcess) -> None:
    """Each kind of LoRA learns, and what ships works on the unchanged base model: it answers as it did in training."""
    layers = ["v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] if variant == "dora" else ["all-linear"]
    settings = f'training = {{ method = "{method}", variant = "{variant}", target_modules = {layers},'
    spec.file.write_text(SUITE.replace("training = {", settings))
    pipeline = Pipeline(
        suite.load(spec.file, spec.folder), Workplace(Store(spec.folder / "store"), lambda name: engine)
    )
    adapter = pipeline.adapter
    assert adapter.curve
    assert min(loss for _, loss in adapter.curve.dev_loss_nats) < adapter.curve.train_loss_nats[0][1]
    metric = pipeline.metric("exact_match")
    shipped = pipeline.measurer.measure(Subject("adapter", pipeline.serve, adapter), "dev", pipeline.data.dev, metric)
    assert shipped.mean == pytest.approx(dict(adapter.curve.dev_scores)[adapter.curve.best_step], abs=0.12)


def test_dora_names_layers_it_cannot_adapt(spec: SuiteSpec, engine: EngineProcess) -> None:
    """Rows of zeros, which DoRA divides by, are an error that names the layers; not a loss of NaN."""
    spec.file.write_text(SUITE.replace("training = {", 'training = { variant = "dora",'))
    with pytest.raises(SuiteError, match=r"dora.*k_proj, q_proj have rows of zeros"):
        train(suite.load(spec.file, spec.folder), engine)


def test_loftq_needs_a_gpu(spec: SuiteSpec, engine: EngineProcess) -> None:
    """LoftQ on the CPU is refused in one line."""
    spec.file.write_text(SUITE.replace("training = {", 'training = { method = "qlora", variant = "loftq",'))
    with pytest.raises(SuiteError, match=r"loftq.*needs a GPU"):
        train(suite.load(spec.file, spec.folder), engine)


def test_evaluation_leaves_qlora_gradients_right(tmp_path: Path) -> None:
    """On processors where bitsandbytes packs NF4 weights to answer, training goes on with the right gradients."""
    import torch

    from pytest_finetune.engine.adapters import prepare
    from pytest_finetune.engine.models import load_base

    quantised, settings = replace(MODEL, quantised=True), Training(method="qlora")
    model = prepare(load_base(quantised, torch.device("cpu"), "qlora"), quantised, settings, tmp_path)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # it starts at zero, where lora_A has no gradient
            torch.nn.init.normal_(weight, std=0.02)
    ids = torch.arange(20, 60).reshape(2, 20)

    def gradients() -> torch.Tensor:
        model.train()
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    before = gradients()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    assert torch.nn.functional.cosine_similarity(before, gradients(), dim=0) > 0.999


@pytest.mark.slow
def test_equal_training_gives_equal_bytes(spec: SuiteSpec, engine: EngineProcess) -> None:
    """The same inputs and seed give the same adapter to the byte; another seed gives another."""
    first, again = train(spec, engine), train(spec, engine)
    assert first.digest == again.digest
    assert train(spec.with_training(None, 1), engine).digest != first.digest


@pytest.mark.fault(19)
def test_loss_that_is_not_finite_stops(spec: SuiteSpec, engine: EngineProcess) -> None:
    """A learning rate that blows training up ends it at once, with the step and the remedy."""
    text = spec.file.read_text().replace("learning_rate = 5e-3", "learning_rate = 1e6")
    spec.file.write_text(text)
    with pytest.raises(EngineError, match=r"loss is (nan|inf) at step \d+ of \d+; lower \[training\] learning_rate"):
        train(suite.load(spec.file, spec.folder), engine)


@pytest.mark.fault(7)
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


def test_dev_loss_is_of_all_tokens(spec: SuiteSpec, engine: EngineProcess, tmp_path: Path) -> None:
    """The dev loss is the mean over completion tokens of likelihoods asked for one by one, however dev is batched."""
    rows = [
        Conversation((Message("user", f"Copy this: {'word ' * (n % 5)}n"),), "word " * (n % 7) + "n") for n in range(41)
    ]
    training = replace(
        spec.training, method="lora", batch_size=8, epochs=1, evaluations_per_epoch=1, learning_rate=1e-3
    )
    curve = engine.train(TrainSpec(spec.base_model(), training, tuple(rows), tuple(rows)), str(tmp_path))
    adapter = Adapter(str(tmp_path), digest.of_files(tmp_path, SHIPPED), "lora")
    nats = sum(engine.score(spec.base_model(), adapter, (row.messages,), (row.completion,))[0][0] for row in rows)
    tokenizer = load_tokenizer(spec.base_model())
    tokens = sum(len(training_tokens(tokenizer, row)[1]) for row in rows)
    assert curve.dev_loss_nats[-1][1] == pytest.approx(-nats / tokens, abs=1e-4)


def test_scripts_of_the_user_are_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: SuiteSpec) -> None:
    """A script in the project that is called like a library is never run by the engine."""
    for name in ("queue.py", "evaluate.py", "tokenizers.py"):
        (tmp_path / name).write_text("raise SystemExit('usage: my script')\n")
    monkeypatch.chdir(tmp_path)
    engine = EngineProcess("cpu", lambda progress: None)
    try:
        assert engine.lengths(spec.base_model(), ((Message("user", "hello"),),)).tokens[0] > 1
    finally:
        engine.close()
