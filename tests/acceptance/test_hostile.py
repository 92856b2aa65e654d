"""Hostile models and adapters in the engine process: refused in one line, or loaded without what they ask for."""

import json
import math
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapters
import hostile
import pytest

from pytest_finetune import digest
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.errors import EngineError, FinetuneError, SuiteError
from pytest_finetune.records import Adapter, Generation, Message, Model
from pytest_finetune.report import run_json

MODEL = Model("embedded", "", str(hostile.EMBEDDED))
PROMPTS = ((Message("user", "Sort: pear fig apple"),), (Message("user", "Copy: dog"),))
CANARY = "megatron.canary"  # of the one package from which PEFT itself would import


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the canaries make when they sing; there is none."""
    return tmp_path_factory.mktemp("canary") / "sang"


@pytest.fixture(scope="module")
def engine(marker: Path) -> Iterator[EngineProcess]:
    """One engine for all tests here, in which a canary can be imported by its name."""
    (marker.parent / "megatron").mkdir()
    (marker.parent / "megatron" / "canary.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(marker.parent), os.environ.get("PYTHONPATH", "")]))
        process = EngineProcess("cpu", lambda progress: None)
    yield process
    process.close()


@pytest.fixture(autouse=True)
def silent(marker: Path) -> Iterator[None]:
    """See that no canary sang."""
    yield
    sang = marker.exists()
    marker.unlink(missing_ok=True)
    assert not sang


def refusal(engine: EngineProcess, model: Model, adapter: Path | None = None) -> str:
    """Return the line in which the engine refuses a model, or an adapter; it lives on."""
    given = Adapter(str(adapter), digest.of_files(adapter, digest.SHIPPED), "external") if adapter else None
    with pytest.raises(FinetuneError) as caught:
        engine.generate(model, given, PROMPTS, Generation(4))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 800
    return message


def answers(engine: EngineProcess, adapter: Path) -> tuple[str, ...]:
    """Return what an adapter answers."""
    given = Adapter(str(adapter), digest.of_files(adapter, digest.SHIPPED), "external")
    return engine.generate(MODEL, given, PROMPTS, Generation(8)).texts


def at(folder: Path) -> Model:
    """Return the model in a folder."""
    return Model("hostile", digest.of_files(folder, ["*"]), str(folder))


def change(file: Path, **changes: Any) -> None:
    """Change keys of a file of JSON."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# --- pickles ---------------------------------------------------------------------------------


def bin_only(folder: Path, marker: Path) -> None:
    """Pickled weights in place of the safetensors."""
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pt", "model.pkl"):
        (folder / name).write_bytes(hostile.pickled(marker))


def disguised(folder: Path, marker: Path) -> None:
    """Pickled weights that are called safetensors."""
    (folder / "model.safetensors").write_bytes(hostile.pickled(marker))


def indexed(folder: Path, marker: Path) -> None:
    """Pickled weights as a shard."""
    bin_only(folder, marker)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.attack(6)
@pytest.mark.parametrize("attack", [bin_only, disguised, indexed])
def test_pickled_models_are_not_loaded(
    attack: Callable[[Path, Path], None], engine: EngineProcess, marker: Path, tmp_path: Path
) -> None:
    """Pickled weights are an error whatever they are called, as a model and as an adapter, and nothing of them runs."""
    pickle.loads(hostile.pickled(tmp_path / "sang"))
    assert (tmp_path / "sang").exists()  # so this canary can
    folder = hostile.model(tmp_path / "model")
    attack(folder, marker)
    assert "safetensors" in refusal(engine, at(folder))
    assert "safetensors" in refusal(engine, MODEL, folder)


@pytest.mark.attack(6)
@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
def test_pickled_adapters_are_not_loaded(name: str, engine: EngineProcess, marker: Path, tmp_path: Path) -> None:
    """The same of an adapter's weights."""
    folder = hostile.adapter(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    (folder / name).write_bytes(hostile.pickled(marker))
    assert "safetensors" in refusal(engine, MODEL, folder)


# --- code ------------------------------------------------------------------------------------


@pytest.mark.attack(7)
def test_own_code_runs_only_when_asked_for(engine: EngineProcess, marker: Path, tmp_path: Path) -> None:
    """A model's own code, or an adapter's, is refused; a model that may run it does, and answers."""
    own = hostile.own_code(tmp_path / "own", marker)
    for message in (refusal(engine, at(own)), refusal(engine, MODEL, own)):
        assert "config.json: auto_map runs the model's own code" in message
        assert "--finetune-trust-remote-code" in message
    assert not marker.exists()
    allowed = Model("hostile", "", str(own), remote_code=True)
    assert engine.generate(allowed, None, PROMPTS, Generation(4)).texts
    assert marker.exists()
    marker.unlink()


@pytest.mark.attack(7)
@pytest.mark.parametrize("file", ["tokenizer_config", "generation_config", "special_tokens_map"])
def test_own_code_in_other_files(file: str, engine: EngineProcess, marker: Path, tmp_path: Path) -> None:
    """Code is refused wherever it is named, and never taken from another repository."""
    own = hostile.own_code(tmp_path / "own", marker)
    change(own / "config.json", auto_map=None)
    model = hostile.model(tmp_path / "model", **{file: {"auto_map": {"AutoTokenizer": ["modeling_own.Own", None]}}})
    shutil.copy(own / "modeling_own.py", model)
    assert f"{file}.json: auto_map runs" in refusal(engine, at(model))
    change(model / f"{file}.json", auto_map={"AutoTokenizer": "someone/else--modeling_own.Own"})
    assert "another repository" in refusal(engine, Model("hostile", "", str(model), remote_code=True))


ASKS = """
def test_asks(base_model, heldout):
    base_model.generate(heldout[:2])
"""


@pytest.mark.slow
@pytest.mark.attack(7)
def test_own_code_in_a_run(pytester: pytest.Pytester, project: Path, marker: Path) -> None:
    """A suite's model with code of its own is an error in one line, with the option it runs; addopts cannot give it."""
    hostile.own_code(project / "own", marker)
    (project / "suite.toml").write_text((project / "suite.toml").read_text().replace('"embedded"', '"own"'))
    (project / "test_colours.py").write_text(ASKS)
    refused = pytester.runpytest_subprocess("--finetune", timeout=120)
    assert refused.ret == 1  # a user's mistake
    refused.stdout.fnmatch_lines(["*config.json: auto_map runs the model's own code*"])
    refused.stdout.no_fnmatch_line("*Traceback*")
    assert not marker.exists()
    pytester.makeini("[pytest]\naddopts = --finetune-trust-remote-code\n")
    smuggled = pytester.runpytest_subprocess("--finetune", timeout=120)
    assert smuggled.ret == pytest.ExitCode.USAGE_ERROR
    smuggled.stderr.fnmatch_lines(["ERROR: --finetune-trust-remote-code: give it on the command line*"])
    assert not marker.exists()
    pytester.makeini("[pytest]\n")
    allowed = pytester.runpytest_subprocess("--finetune", "--finetune-trust-remote-code", timeout=120)
    allowed.assert_outcomes(passed=2, skipped=1)
    assert marker.exists()
    marker.unlink()


# --- configurations --------------------------------------------------------------------------

CONFIGS: dict[str, dict[str, Any]] = {
    "an unknown architecture": {"architectures": ["EvilForCausalLM"]},
    "a classifier": {"architectures": ["LlamaForSequenceClassification"]},
    "an unknown kind": {"model_type": "evil"},
    "no causal language model": {"model_type": "vit"},
    "a kind that is no name": {"model_type": ["llama"]},
    "a kernel of the hub's": {"_attn_implementation": "org/kernel"},
    "the same by another key": {"attn_implementation": "org/kernel:Layer"},
    "experts of the hub's": {"experts_implementation": "org/kernel"},
    "a pipeline": {"custom_pipelines": {"text": {"impl": "pipe.Pipe"}}},
    "layers that differ": {"per_layer_config": {"0": {"hidden_size": 1 << 40}}},
    "an unknown table": {"evil": {"a": "b"}},
    "quantised by code": {"quantization_config": {"quant_method": "evil"}},
    "quantised by a path": {"quantization_config": {"quant_method": "gptq", "tokenizer": "../../evil"}},
    "quantised by a list": {"quantization_config": ["evil"]},
    "a billion layers": {"num_hidden_layers": 10**9},
    "more layers than weights": {"num_hidden_layers": 9_000},
    "a negative width": {"hidden_size": -1},
    "a vast vocabulary": {"vocab_size": 10**12},
    "a vocabulary beyond the weights": {"vocab_size": 10**7},
    "a billion labels": {"num_labels": 10**9},
    "a wide middle": {"intermediate_size": 10**10},
    "a number that is none": {"num_attention_heads": "4; rm -rf"},
    "heads of nothing": {"num_attention_heads": 0},
    "a wrong type": {"hidden_size": [128]},
    "a dtype that is a function": {"dtype": "load"},
    "an activation that is none": {"hidden_act": "os.system"},
    "a method's name": {"get_text_config": "x"},
    "a huge number": {"max_position_embeddings": 10**30},
    "deep nesting": {"rope_parameters": json.loads("[" * 900 + "]" * 900)},
}


@pytest.mark.attack(8)
@pytest.mark.parametrize("config", [pytest.param(value, id=key) for key, value in CONFIGS.items()])
def test_hostile_configurations(config: dict[str, Any], engine: EngineProcess, tmp_path: Path) -> None:
    """A configuration that asks for code, kernels or more than its weights hold is refused, within seconds."""
    started = time.monotonic()
    assert "hostile" in refusal(engine, at(hostile.model(tmp_path / "hostile", config=config)))
    assert time.monotonic() - started < 60


@pytest.mark.attack(8)
@pytest.mark.parametrize(
    ("file", "config", "said"),
    [
        ("generation_config", {"custom_generate": "org/code"}, "custom_generate"),
        ("tokenizer_config", {"init_inputs": ["/etc/passwd"]}, "init_inputs"),
        ("tokenizer_config", {"added_tokens_decoder": {"0": 1}}, "cannot be loaded"),
        ("adapter_config", {"peft_type": "LORA", "base_model_name_or_path": "org/evil"}, "an adapter lies in"),
    ],
)
def test_hostile_files_beside_it(
    file: str, config: dict[str, Any], said: str, engine: EngineProcess, tmp_path: Path
) -> None:
    """So are the other files of a model's folder that transformers would heed."""
    assert said in refusal(engine, at(hostile.model(tmp_path / "hostile", **{file: config})))


# --- adapters --------------------------------------------------------------------------------


@pytest.mark.attack(9)
@pytest.mark.attack(10)
def test_what_an_adapter_says_beside_its_weights(engine: EngineProcess, marker: Path, tmp_path: Path) -> None:
    """Another base model, another revision and modules to import are not heeded: its answers are the same."""
    other = hostile.own_code(tmp_path / "other", marker)
    wanted = answers(engine, hostile.adapter(tmp_path / "plain"))
    hostile_ones: list[dict[str, Any]] = [
        {"base_model_name_or_path": str(other), "revision": "f" * 40},
        {"base_model_name_or_path": "https://127.0.0.1:9/evil"},
        {"task_type": None, "auto_mapping": {"parent_library": CANARY, "base_model_class": "Own"}},
        {"megatron_config": {"a": 1}, "megatron_core": CANARY},
        {"auto_map": hostile.AUTO_MAP, "runtime_config": {"ephemeral_gpu_offload": True}, "unheard_of": "x/y"},
    ]
    for number, config in enumerate(hostile_ones):
        folder = hostile.adapter(tmp_path / str(number), **config)
        shutil.copy(other / "modeling_own.py", folder)
        engine.lengths(replace(MODEL, name=str(number)), PROMPTS)  # an adapter beside others asks for less
        assert answers(engine, folder) == wanted


EVIL = "(.*.*.*.*.*.*.*.*.*.*.*.*)*x"
EXPRESSIONS: list[dict[str, Any]] = [
    {"target_modules": EVIL},
    {"target_modules": r".*\.q_proj"},
    {"exclude_modules": EVIL},
    {"rank_pattern": {EVIL: 2}},
    {"alpha_pattern": {EVIL: 2}},
    {"layers_to_transform": [0], "layers_pattern": EVIL},
    {"layers_to_transform": [0], "layers_pattern": [EVIL]},
    {"modules_to_save": [EVIL]},
]


@pytest.mark.attack(11)
@pytest.mark.timeout(120)
@pytest.mark.parametrize("config", EXPRESSIONS, ids=lambda config: next(reversed(config)))
def test_no_expression_is_compiled(config: dict[str, Any], engine: EngineProcess, tmp_path: Path) -> None:
    """An expression in an adapter's configuration is refused before anything is matched by it."""
    started = time.monotonic()
    message = refusal(engine, MODEL, hostile.adapter(tmp_path / "adapter", **config))
    assert "adapter_config.json" in message
    assert "neither paths nor expressions" in message
    assert time.monotonic() - started < 60


@pytest.mark.attack(13)
def test_soft_prompts_bring_no_tokenizer(engine: EngineProcess, marker: Path, tmp_path: Path) -> None:
    """A soft prompt's own tokenizer and its arguments are not heeded: its answers are the same."""
    own = hostile.own_code(tmp_path / "own", marker)
    change(own / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_own.Own", None]})
    for name in ("plain", "hostile"):
        adapters.soft_prompt(tmp_path / name, 3)
    change(
        tmp_path / "hostile" / "adapter_config.json",
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text="x",
        tokenizer_name_or_path=str(own),
        tokenizer_kwargs={"trust_remote_code": True},
        inference_mode=False,
    )
    assert answers(engine, tmp_path / "hostile") == answers(engine, tmp_path / "plain")


@pytest.mark.attack(10)
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "XLORA"}, "is not supported"),
        ({"peft_type": "EVIL"}, "is not supported"),
        ({"peft_type": ["LORA"]}, "names no peft_type"),
        ({"r": 10**9}, "r = 1000000000"),
        ({"r": -1}, "r = -1"),
        ({"r": "2"}, "adapter"),
        ({"lora_alpha": 10**30}, "too large"),
        ({"rank_pattern": {"q_proj": 10**9}}, "rank_pattern"),
        ({"rank_pattern": ["q_proj"]}, "adapter"),
        ({"loftq_config": {"loftq_bits": "../x"}}, "loftq_config"),
        ({"target_modules": 7}, "adapter"),
        ({"target_modules": ["no_such_layer"]}, "does not fit"),
        ({"layer_replication": [[0, 10**6]]}, "adapter"),
    ],
    ids=str,
)
def test_hostile_adapter_configurations(
    config: dict[str, Any], said: str, engine: EngineProcess, tmp_path: Path
) -> None:
    """Values that no adapter of this size can have are refused in one line, within seconds."""
    started = time.monotonic()
    assert said in refusal(engine, MODEL, hostile.adapter(tmp_path / "adapter", **config))
    assert time.monotonic() - started < 60


# --- files -----------------------------------------------------------------------------------


def linked(folder: Path) -> None:
    """Weights elsewhere on the disk."""
    file = folder / "adapter_model.safetensors"
    file.rename(folder.parent / "elsewhere.safetensors")
    file.symlink_to("../elsewhere.safetensors")


def piped(folder: Path) -> None:
    """A pipe, from which nothing ever comes, for a configuration."""
    (folder / "adapter_config.json").unlink()
    os.mkfifo(folder / "adapter_config.json")


def endless_header(folder: Path) -> None:
    """A header of 100 GB, in a file that has them, as holes."""
    file = folder / "adapter_model.safetensors"
    hostile.safetensors(file, b"{", length=100 << 30)
    os.truncate(file, 101 << 30)


def overlapping(folder: Path) -> None:
    """Tensors that lie over each other."""
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    hostile.safetensors(folder / "adapter_model.safetensors", {"a": entry, "b": entry}, bytes(16))


def vast(folder: Path) -> None:
    """A tensor of more numbers than the file has bytes."""
    entry = {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 16]}
    hostile.safetensors(folder / "adapter_model.safetensors", {"a": entry}, bytes(16))


def many(folder: Path) -> None:
    """A hundred thousand tensors of nothing."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    hostile.safetensors(folder / "adapter_model.safetensors", {f"t{i}": entry for i in range(100_000)})


def cut(folder: Path) -> None:
    """Half a file."""
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.attack(6)
@pytest.mark.timeout(120)
@pytest.mark.parametrize("attack", [linked, piped, endless_header, overlapping, vast, many, cut])
def test_hostile_adapter_files(attack: Callable[[Path], None], engine: EngineProcess, tmp_path: Path) -> None:
    """Files that lead elsewhere, never end or contradict themselves are refused in one line."""
    folder = hostile.adapter(tmp_path / "adapter")
    given = Adapter(str(folder), "0" * 64, "external")  # their digest would be waited for
    attack(folder)
    with pytest.raises(SuiteError, match="adapter") as caught:
        engine.generate(MODEL, given, PROMPTS, Generation(4))
    assert len(str(caught.value)) < 800
    assert "\n" not in str(caught.value)


@pytest.mark.attack(6)
@pytest.mark.parametrize(
    "names", [{"a": "../model.safetensors"}, {"a": "/etc/passwd"}, {"a": 1}, ["model.safetensors"], None], ids=str
)
def test_hostile_shards(names: Any, engine: EngineProcess, tmp_path: Path) -> None:
    """An index of weights that lead out of the model's folder is refused."""
    folder = hostile.model(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert "safetensors beside it" in refusal(engine, at(folder))


# --- weights ---------------------------------------------------------------------------------


NAN = b"\xc0\x7f"  # of bfloat16, little-endian; and of float32, twice


def renamed(header: dict[str, Any]) -> dict[str, Any]:
    """Name tensors as another architecture has them."""
    return {name.replace("self_attn", "attention"): entry for name, entry in header.items()}


def one_renamed(header: dict[str, Any]) -> dict[str, Any]:
    """Misname the first tensor only."""
    first = min(name for name in header if "layers.0.self_attn" in name)
    return {f"x{name}" if name == first else name: entry for name, entry in header.items()}


@pytest.mark.fault(7)
@pytest.mark.parametrize("make", [hostile.adapter, hostile.model])
def test_nan_is_an_error(make: Callable[[Path], Path], engine: EngineProcess, tmp_path: Path) -> None:
    """NaN in an adapter, or in a whole model that full fine-tuning made, is found before anything is asked of it."""
    folder = make(tmp_path / "nan")
    for file in folder.glob("*.safetensors"):
        hostile.rewritten(file, dict, NAN)
    with pytest.raises(EngineError, match="holds NaN or infinity"):
        engine.probe(MODEL, Adapter(str(folder), digest.of_files(folder, digest.SHIPPED), "full"), PROMPTS)


@pytest.mark.fault(8)
@pytest.mark.parametrize("make", [hostile.adapter, hostile.model])
def test_wrong_names_are_an_error(make: Callable[[Path], Path], engine: EngineProcess, tmp_path: Path) -> None:
    """Tensors that are named for another model, all or one of them, are an error that names the first."""
    for number, rename in enumerate((renamed, one_renamed)):
        folder = make(tmp_path / str(number))
        for file in folder.glob("*.safetensors"):
            hostile.rewritten(file, rename)
        with pytest.raises(EngineError, match=r"layers\.0\."):
            engine.probe(MODEL, Adapter(str(folder), digest.of_files(folder, digest.SHIPPED), "full"), PROMPTS)


@pytest.mark.slow
@pytest.mark.fault(7, 8)
@pytest.mark.parametrize(
    ("seed", "size", "names", "said"),
    [(1, math.nan, dict, "*holds NaN or infinity*"), (1, 1.0, renamed, "*does not fit the base model*")],
    ids=["nan", "names"],
)
def test_broken_adapters_are_no_verdict(
    seed: int,
    size: float,
    names: Callable[[dict[str, Any]], dict[str, Any]],
    said: str,
    pytester: pytest.Pytester,
    project: Path,
) -> None:
    """A run that is to gate such an adapter ends with the error's exit code, before anything is measured."""
    adapters.lora(pytester.path / "broken", seed, size=size)
    hostile.rewritten(pytester.path / "broken" / "adapter_model.safetensors", names)
    report = pytester.path / "run.json"
    result = pytester.runpytest_subprocess(
        "--finetune", "--finetune-adapter=broken", f"--finetune-report={report}", timeout=240
    )
    assert result.ret == 11
    result.stdout.fnmatch_lines([said, "*2 errors*"])
    for line in ("*FAIL*", "*Traceback*"):
        result.stdout.no_fnmatch_line(line)
    assert not any(suite.measurements or suite.verdicts for suite in run_json.read(report).suites)
