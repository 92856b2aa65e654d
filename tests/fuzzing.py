"""What users, models and attackers write, read as the package reads it: anything but one line about it is a finding.

Hypothesis gives these targets documents with one thing wrong (tests/unit/test_fuzz.py), and atheris bytes that
reach new code (tests/fuzz.py).
"""

import json
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import runs
from colours import rows
from safetensors.numpy import save

from pytest_finetune import data, digest, evidence, outputs, policy, suite, taskfile, wire
from pytest_finetune.answer_format import instruction
from pytest_finetune.cells import cell, matrix, result
from pytest_finetune.cells.cell import Cell
from pytest_finetune.engine import vetting
from pytest_finetune.engine.template import prompt_tokens
from pytest_finetune.errors import FinetuneError
from pytest_finetune.metrics import BUILT_IN, resolve, structured
from pytest_finetune.modelfiles import shapes_in
from pytest_finetune.records import Message, Model, to_plain
from pytest_finetune.release.pointer import Pointers
from pytest_finetune.report import compare, html, markdown, run_json, terminal
from pytest_finetune.report.escape import visible
from pytest_finetune.serve import requests
from pytest_finetune.shadow import config
from pytest_finetune.suite import Fields, OutputsSpec

LONGEST = 2_000  # characters of a line that somebody is to read
WORDS = (  # what files of these kinds break on
    *(
        b"\xef\xbb\xbf",
        b"\xff",
        b"\x00",
        b"\xed\xa0\x80",
        b"\r",
        b"\n",
        b"\\ud800",
        b"\\u0000",
        b"::error::",
        b"##[",
        b"../",
    ),
    *(
        b"nan",
        b"inf",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"-0.0",
        b"9" * 40,
        b"0x" + b"f" * 40,
        b"null",
        b"true",
        b"[]",
        b"{}",
    ),
    *(b"1979-05-27", b"07:32:00", b"hub:a@", b"python:", b"evaluate:", b"numeric:", b"regex:(", b"*", b"**", b"$ref"),
    *(b"&a ", b"*a", b"!function ", b"<<: ", b"include: ", b"data: ", b"[DONE]", b'"doc_id"', b'"messages"'),
)
SUITE = b"""
model = "embedded"
task = "classification"
data = { train = "train.jsonl", heldout = ["heldout.jsonl"], dev_share = 0.2 }
answer = { labels = ["box red", "box blue"], schema = { type = "string" } }
prompts = { candidates = ["Name the box."], shots = [0, 1], chat_template = "on" }
training = { method = "lora", learning_rate = 5e-3, epochs = 4, replay = 0, ladder = [2, 4] }
gate = { metric = "exact_match", target = 0.9, margin = 0.1, slices = { warm = 0.1 } }
generation = { max_new_tokens = 6 }
checks = { near_leakage = { on_issue = "fail", threshold = 0.9 } }
general = [{ name = "sort", data = "heldout.jsonl", replay = "train.jsonl", metric = "numeric:0.1" },
  { name = "made", outputs = { base = "b*.jsonl", adapter = "adapter.jsonl" } }, { lm_eval = "./task.yaml" }]
"""
SHADOW = b"""
traffic = { sample = 0.5, seed = 3, conversation = "x-id", hosts = ["a.example"] }
mirror = { mode = "live", model = "m", waiting = 10, timeout_seconds = 3.0 }
privacy = { keep = "text", patterns = ["[0-9]{6}"], days = 2.0 }
verdict = { alpha = 0.05, schema = { type = "object" }, refusals = ["I cannot"], judge = "judge.py:judge" }
canary = { steps = [0.1, 0.5, 1.0], exchanges = 10, minutes = 1.0 }
"""
TASK = b"""
task: mine
dataset_path: json
dataset_kwargs: { data_files: { test: rows.jsonl } }
doc_to_text: "{{question}}"
doc_to_target: !function mine.answer
include: other.yaml
metric_list: [{ metric: acc, aggregation: mean }]
"""
CELL = Cell("colours", "suites/colours", {"method": "lora", "seed": "1", "engine": ""}, digest="a" * 64, of=1)
CSV = b'prompt,completion\nitem 0: apple,box red\n"item 1, grass",box green\n'
OUTPUTS = b"""{"id": 1, "score": 0.5, "prompt": "a", "output": "b"}
{"doc_id": 2, "filter": "none", "metrics": ["acc"], "acc": 1.0, "doc_hash": "h", "target": "1", "resps": [["x"]],
"""
HARNESS = b"""{"doc_id": 0, "filter": "none", "metrics": ["acc"], "acc": 1.0, "doc_hash": "h", "target": "1",\
 "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": " a"}, "gen_args_1": {"arg_0": "Q", "arg_1": " b"}},\
 "filtered_resps": [["-1.5", "False"], ["-0.5", "True"]]}
"""
MOVE = b'{"before": "", "after": "bbbb", "why": "promote", "forced": "", "by": "me", "time": "2026-01-01T00:00:00"}\n'
REPLY = (
    b'data: {"id": "1", "choices": [{"index": 0, "delta": {"content": "a", "tool_calls": [{"index": 0, "function": '
    b'{"name": "f", "arguments": "{}"}}]}}], "usage": {"prompt_tokens": 3}}\n\ndata: [DONE]\n\n'
)
EMBEDDED = digest.PACKAGE / "embedded"
ADAPTER = (
    b'{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 4},'
    b' "task_type": "CAUSAL_LM", "bias": "none", "use_dora": false, "init_lora_weights": true, "modules_to_save": null}'
)
CHAT = (
    b'{"model": "m", "messages": [{"role": "user", "content": "a"}], "stop": ["x"], "max_tokens": 4, "logprobs": true}'
)


def _suite(file: Path) -> None:
    for name in ("train.jsonl", "heldout.jsonl", "base.jsonl", "adapter.jsonl"):
        (file.parent / name).write_text(rows(0, 2))
    (file.parent / "task.yaml").write_bytes(TASK)
    spec = suite.load(file, file.parent)
    for source in spec.sources:
        assert source.startswith("hub:") or Path(source).is_relative_to(file.parent.resolve()), source
    try:
        resolve(spec.gate.metric, spec.folder, spec.answer_schema)
    except FinetuneError as error:
        raise FinetuneError(f"{file}: {error}") from error  # as a session does
    instruction(spec.labels, spec.answer_schema)
    structured.json_valid('{"a": [1]}', "", spec.answer_schema or "{}")


def _policy(file: Path) -> None:
    """Read a suite as that of a base branch, whose files nobody has."""
    raw = suite.read(file)
    policy._said(raw)
    policy._sources(raw)


def _parquet() -> bytes:
    """Return rows as Parquet, with columns of every odd kind."""
    import pyarrow.parquet

    columns = {"prompt": ["a", "b"], "completion": ["c", "d"], "cluster": [1, None], "day": [date(2026, 1, 1)] * 2}
    stream = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns | {"inner": [{"x": b"y"}, {"x": None}]}), stream)
    return bytes(stream.getvalue())


def _shadow(file: Path) -> None:
    (file.parent / "judge.py").write_text("def judge(): ...\n")
    config.load(file)


def _rows(file: Path) -> None:
    for example in data.load([str(file)], Fields()):
        digest.of([example.id, example.reference])


def _outputs(file: Path) -> None:
    other = file.with_name("other.jsonl")
    other.write_bytes(file.read_bytes())
    outputs.read(OutputsSpec(str(file), str(other)), "made")


def _run(file: Path) -> None:
    run = run_json.read(file)
    html.page(run)
    markdown.text(run)
    list(terminal.run_lines(run, verbose=True))
    list(terminal.outcome_lines(run))
    list(compare.run_lines(run, run))


def _result(file: Path) -> None:
    folder = file.parent / CELL.result
    folder.mkdir(exist_ok=True)
    (folder / result.FILE).write_bytes(file.read_bytes())
    result.found(file.parent, CELL)


def _evidence(file: Path) -> None:
    evidence.read(file.parent)


def _task(file: Path) -> None:
    (file.parent / "other.yaml").write_text("output_type: generate_until\n")
    list(taskfile.files(taskfile.find(file)))


def _moves(file: Path) -> None:
    Pointers(file.parent).history()


def _request(file: Path) -> None:
    for chat in (True, False):
        try:
            requests.read(json.loads(file.read_bytes()), chat)
        except (requests.Refused, ValueError, RecursionError):  # the last of what is no JSON, which the server says
            continue


def _reply(file: Path) -> None:
    """Read what a server said, as the proxy and the endpoint's client do."""
    body = file.read_bytes()
    for kind in ("application/json", "text/event-stream"):
        said = wire.read(200, kind, body)
        json.dumps([said.text, said.tool_calls, said.error], ensure_ascii=False).encode()
    wire.asked_text(wire.request(body) or {})


def _answer(file: Path) -> None:
    """Score what a model said, and show it."""
    said = file.read_bytes().decode("utf-8", "surrogateescape")  # a tokenizer may give halves of characters
    prediction, _, reference = said.partition("\0")
    assert visible(said).isprintable()
    for name, score in BUILT_IN.items():
        if name == "regex":  # whose reference is the suite's own
            continue
        for worth in (score(prediction, reference), score(reference, prediction), score(said, said)):
            assert 0 <= worth <= 1, name
    structured.json_valid(said, "", '{"type": "object", "properties": {"a": {"type": "integer"}}}')


def _model(file: Path) -> None:
    """Look at the files of a model before a library reads them."""
    vetting.vet(Model("made", "", str(file.parent)))


def _template(file: Path) -> None:
    """Write a prompt by a model's chat template."""
    tokenizer = _tokenizer()
    tokenizer.name_or_path, tokenizer.chat_template = str(file.parent), file.read_bytes().decode("utf-8", "replace")
    prompt_tokens(tokenizer, (Message("system", "be brief"), Message("user", "say a")))


def _line(name: str) -> bytes:
    """Return a table of the embedded model on one line."""
    return json.dumps(json.loads((EMBEDDED / name).read_text())).encode()


@cache
def _tokenizer() -> Any:
    from transformers import AutoTokenizer  # 2 s to import, which other targets never need

    return AutoTokenizer.from_pretrained(EMBEDDED)


# What each file is called, how it is read, and a right one.
TARGETS: dict[str, tuple[str, Callable[[Path], None], bytes]] = {
    "suite": (suite.FILE, _suite, SUITE),
    "policy": (suite.FILE, _policy, SUITE),
    "shadow": ("shadow.toml", _shadow, SHADOW),
    "jsonl": ("rows.jsonl", _rows, rows(0, 2).encode()),
    "csv": ("rows.csv", _rows, CSV),
    "parquet": ("rows.parquet", _rows, _parquet()),
    "outputs": ("base.jsonl", _outputs, HARNESS),
    "matrix": (
        "matrix.json",
        lambda file: _ignored(matrix.planned(file)),
        b'{"include": [{"suite": "a", "path": "a"}]}',
    ),
    "cell": ("cell.json", lambda file: _ignored(cell.read(file)), json.dumps(to_plain(CELL)).encode()),
    "result": ("given.json", _result, json.dumps(to_plain(result.Result(CELL, 1.0))).encode()),
    "evidence": (
        evidence.NOTE,
        _evidence,
        json.dumps(to_plain(evidence.Made("cpu", 1, {}, digest.of_package(), {}))).encode(),
    ),
    "run": ("run.json", _run, json.dumps(to_plain(runs.run(1, 3))).encode()),
    "reply": ("reply.txt", _reply, REPLY),
    "task": ("task.yaml", _task, TASK),
    "moves": ("history.jsonl", _moves, MOVE),
    "request": ("request.json", _request, CHAT),
    "config": ("config.json", _model, _line("config.json")),
    "tokenizer": ("tokenizer_config.json", _model, _line("tokenizer_config.json")),
    "adapter": ("adapter_config.json", lambda file: _ignored(vetting.adapter_settings(file.parent)), ADAPTER),
    "weights": ("adapter_model.safetensors", lambda file: _ignored(shapes_in(file)), save({"a": np.zeros((2, 3))})),
    "template": ("chat_template.jinja", _template, (EMBEDDED / "chat_template.jinja").read_bytes()),
    "answer": ("answer.txt", _answer, b'{"a": 1}\x001,234.5e6 the box is red'),
}


def _ignored(_: object) -> None:
    """Take a value, since a target returns nothing."""


def check(target: str, content: bytes, folder: Path) -> str:
    """Read bytes as the package does.

    Args:
        target: which of the TARGETS.
        content: of its file.
        folder: where it is written.

    Returns:
        What a user is told; nothing where the file is good.

    Raises:
        AssertionError: it is not one line that names the file.
        Exception: what would reach a user as a traceback.
    """
    name, read, _ = TARGETS[target]
    file = folder / name
    file.write_bytes(content)
    try:
        read(file)
    except FinetuneError as error:
        told = visible(str(error))  # as every edge prints it
        assert file.name in told or str(folder) in told, f"the file is not named: {told[:300]}"
        assert len(told) < LONGEST, f"too long: {len(told):,} characters: {told[:300]}"
        return told
    return ""
