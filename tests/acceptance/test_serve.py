"""A real server over the embedded model: its answers are the engine's, and real clients work with it unchanged."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import adapters
import httpx2
import openai
import pytest
import servers

from pytest_finetune import cli, digest
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.records import Adapter, Generation, Message, Model

pytest.importorskip("uvicorn")
EMBEDDED = digest.PACKAGE / "embedded"
MODEL = Model("embedded", "", str(EMBEDDED))
QUESTIONS = (
    "Sort: pear fig apple",
    "Write as ISO date: 3 May 2021",
    "Sentiment: The soup was wonderful, and so was everything that came after it, until we had to leave.",
    "Copy: dog",
    "Reverse: oslo bern riga",
)

NOTHING = SimpleNamespace(content=[])


@dataclass(frozen=True)
class Served:
    """A running server, the folder of its adapters, and their digests by name."""

    process: "subprocess.Popen[str]"
    url: str
    folder: Path
    digests: dict[str, str]
    http: httpx2.Client

    @property
    def client(self) -> openai.OpenAI:
        """A client of OpenAI's package, which asks once only."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def post(self, path: str, **body: Any) -> httpx2.Response:
        """Send JSON."""
        return self.http.post(path, json=body)

    def number(self, name: str, **labels: str) -> float:
        """Return one of the server's numbers."""
        wanted = "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}" if labels else ""
        for line in self.http.get("/metrics").text.splitlines():
            if line.rpartition(" ")[0] == f"finetune_serve_{name}{wanted}":
                return float(line.rpartition(" ")[2])
        return 0.0


def command(*options: str) -> list[str]:
    """Return the command line of a server of the embedded model, on a port that the kernel chooses."""
    return [sys.executable, "-m", "pytest_finetune.cli", "serve", "embedded", "--device=cpu", "--port=0", *options]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests here, with LoRAs, a DoRA and a soft prompt, and a LoRA that it may load."""
    folder = tmp_path_factory.mktemp("adapters")
    digests = {name: adapters.lora(folder / name, seed) for seed, name in enumerate(("red", "blue", "late"))}
    digests["endless"] = adapters.lora(folder / "endless", 40, size=3)  # its greedy answers do not end
    digests["dora"] = adapters.lora(folder / "dora", 11, use_dora=True)
    digests["soft"] = adapters.soft_prompt(folder / "soft", 9)
    given = [f"--adapter={name}={folder / name}" for name in ("red", "blue", "dora", "soft", "endless")]
    with servers.running(command(*given, f"--adapters-from={folder}", "--queue=130")) as (process, line):
        found = re.fullmatch(r"serving embedded and 5 adapters on (http://127\.0\.0\.1:\d+)/v1", line)
        assert found, line
        with httpx2.Client(base_url=found[1], timeout=servers.PATIENCE_SECONDS) as http:
            yield Served(process, found[1], folder, digests, http)


def ask(served: Served, model: str, question: str, **more: Any) -> Any:
    """Return the chat's whole answer."""
    body = {"max_tokens": 24, "temperature": 0, **more}
    return served.client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}], **body)


def text(served: Served, model: str, question: str, **more: Any) -> str:
    """Return the text of the first choice."""
    content = ask(served, model, question, **more).choices[0].message.content
    assert isinstance(content, str)
    return content


def tokens_of(chunks: list[Any]) -> list[Any]:
    """Return the tokens that the first choices of a stream tell of."""
    return [token for chunk in chunks for token in (chunk.choices[0].logprobs or NOTHING).content]


@pytest.mark.slow
def test_greedy_answers_are_the_engines(served: Served) -> None:
    """Base, LoRAs, DoRA and soft prompt answer as the gate measured them, one at a time and all in one batch."""
    engine = EngineProcess("cpu", lambda progress: None)
    prompts = tuple((Message("user", question),) for question in QUESTIONS)
    wanted = {}
    for name in ("embedded", "red", "blue", "dora", "soft"):
        digest_of = served.digests.get(name, "")
        adapter = Adapter(str(served.folder / name), digest_of, "lora") if digest_of else None
        wanted[name] = engine.generate(MODEL, adapter, prompts, Generation(max_new_tokens=24)).texts
    engine.close()
    pairs = [(name, question) for name in wanted for question in QUESTIONS]
    alone = [text(served, *pair).strip() for pair in pairs]
    assert alone == [answer for answers in wanted.values() for answer in answers]
    assert len({tuple(answers) for answers in wanted.values()}) == len(wanted), "an adapter changes nothing"

    before = served.number("batch_rows_sum") - served.number("batch_rows_count")
    with ThreadPoolExecutor(len(pairs)) as threads:
        together = list(threads.map(lambda pair: text(served, *pair).strip(), pairs))
    assert together == alone
    assert served.number("batch_rows_sum") - served.number("batch_rows_count") > before, "no two rows shared a pass"


def test_openai_chat(served: Served) -> None:
    """The openai package gets whole answers, streams with usage, and likelihoods of the tokens in both."""
    whole = ask(served, "embedded", QUESTIONS[1], logprobs=True, top_logprobs=3)
    choice = whole.choices[0]
    assert (choice.message.content, choice.finish_reason, whole.model) == ("2021-05-03", "stop", "embedded")
    told = choice.logprobs.content
    assert "".join(token.token for token in told) == "2021-05-03<|end|>"
    assert all(token.top_logprobs[0].token == token.token and len(token.top_logprobs) == 3 for token in told)
    assert all(bytes(token.bytes).decode() == token.token and -1 < token.logprob < 0 for token in told)
    assert whole.usage.completion_tokens == len(told)

    options = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
    chunks = list(ask(served, "embedded", QUESTIONS[1], **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "2021-05-03"
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 3, "not streamed"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert (chunks[-1].usage, chunks[-1].choices) == (whole.usage, [])
    streamed = [
        token for chunk in chunks[:-1] if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content
    ]
    assert [token.logprob for token in streamed] == pytest.approx([token.logprob for token in told], abs=1e-4)


def test_openai_completions(served: Served) -> None:
    """Completions take lists of texts and of tokens, ``n``, ``echo`` and likelihoods of the prompt."""
    create = served.client.completions.create
    prompt = "Sort: pear fig apple"
    plain = create(model="embedded", prompt=[prompt, "Copy: dog"], n=2, max_tokens=6, temperature=0)
    assert [choice.index for choice in plain.choices] == [0, 1, 2, 3]
    assert plain.choices[0].text == plain.choices[1].text != plain.choices[2].text == plain.choices[3].text

    echoed = create(model="red", prompt=prompt, max_tokens=3, temperature=0, echo=True, logprobs=2)
    assert echoed.model == served.digests["red"]
    choice, told = echoed.choices[0], cast(Any, echoed.choices[0].logprobs)
    assert choice.text.startswith(prompt)
    assert "".join(told.tokens).removesuffix("<|end|>") == choice.text
    assert told.text_offset == [len("".join(told.tokens[:at])) for at in range(len(told.tokens))]
    assert told.token_logprobs[0] is None
    assert len(told.tokens) == cast(Any, echoed.usage).total_tokens
    only = create(model="red", prompt=prompt, max_tokens=0, temperature=0, echo=True, logprobs=0).choices[0]
    assert (only.text, only.finish_reason) == (prompt, "length")
    own = cast(Any, only.logprobs).token_logprobs
    assert own[1:] == pytest.approx(told.token_logprobs[1 : len(own)], abs=1e-4)

    streamed = "".join(
        chunk.choices[0].text
        for chunk in create(model="red", prompt=prompt, echo=True, max_tokens=3, temperature=0, stream=True)
    )
    assert streamed == choice.text
    with pytest.raises(openai.BadRequestError, match="token 99999 is not one of 1536"):
        create(model="embedded", prompt=[[99999]])


def test_models_by_their_names(served: Served) -> None:
    """An adapter is asked for by its name, its digest or the beginning of it; answers say the whole digest."""
    red = served.digests["red"]
    listed = {model.id for model in served.client.models.list()}
    assert listed == {"embedded", *(served.digests[name] for name in ("red", "blue", "dora", "soft", "endless"))}
    assert served.client.models.retrieve("red").id == red
    for name in ("red", red, red[:8]):
        assert ask(served, name, "Copy: dog", max_tokens=1).model == red
    for name in (red[:7], "green", "f" * 64):
        with pytest.raises(openai.NotFoundError, match="is not served; there are embedded, red="):
            ask(served, name, "Copy: dog")


def test_stop_strings_never_show(served: Served) -> None:
    """An answer ends before a stop string, also one that begins inside a token and ends in another, in streams too."""
    question = QUESTIONS[1]
    assert text(served, "embedded", question) == "2021-05-03"
    for stop, left in (("-05", "2021"), ("1-0", "202"), ("2021-05-03", ""), (["x", "5-"], "2021-0")):
        assert text(served, "embedded", question, stop=stop) == left
        chunks = list(ask(served, "embedded", question, stop=stop, stream=True, logprobs=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == left
        told = [
            token.token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content
        ]
        assert left.startswith("".join(told))
        assert chunks[-1].choices[0].finish_reason == "stop"
    assert text(served, "embedded", question, stop="03x") == "2021-05-03", "what was held back is lost"


def test_seeds_do_not_depend_on_others(served: Served) -> None:
    """The same seed draws the same answer alone and among others; another one, and each of ``n``, draws another."""
    hot: dict[str, Any] = {"temperature": 1.5, "top_p": 0.95, "max_tokens": 12}
    alone = text(served, "red", "Copy: dog", seed=7, **hot)
    with ThreadPoolExecutor(12) as threads:
        seeds = [7, *range(100, 110), 7]
        among = list(threads.map(lambda seed: text(served, "red", "Copy: dog", seed=seed, **hot), seeds))
    assert among[0] == among[-1] == alone
    assert len(set(among)) > 6
    many = ask(served, "red", "Copy: dog", seed=7, n=3, **hot)
    assert many.choices[0].message.content == alone
    assert len({choice.message.content for choice in many.choices}) > 1


def test_streams_are_whole_characters(served: Served) -> None:
    """Characters of several tokens come whole: the pieces of a stream make up the answer."""
    options: dict[str, Any] = {"temperature": 2.0, "max_tokens": 200, "seed": 3}
    prompt = "Copy: é ü 漢字 🙂"
    create = served.client.completions.create
    whole = create(model="soft", prompt=prompt, **options).choices[0].text
    pieces = [chunk.choices[0].text for chunk in create(model="soft", prompt=prompt, stream=True, **options)]
    assert "".join(pieces) == whole
    assert len(pieces) > 20


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "tools": ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    "schema": ("response_format", {"response_format": {"type": "json_object"}}),
    "bias": ("logit_bias", {"logit_bias": {"5": 1}}),
    "penalty": ("frequency_penalty", {"frequency_penalty": 0.5}),
    "unknown": ("top_k", {"top_k": 5}),
    "too long": ("messages", {"messages": [{"role": "user", "content": "word " * 900}]}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused(served: Served, name: str) -> None:
    """A parameter that would change the answer is a 400 that names it, in OpenAI's form, and counted."""
    param, more = REFUSED[name]
    body = {"model": "embedded", "messages": [{"role": "user", "content": "Copy: dog"}], **more}
    answer = served.post("/v1/chat/completions", **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert name != "too long" or (error["code"] == "context_length_exceeded" and "768" in error["message"])


def test_bodies_that_are_none(served: Served) -> None:
    """No JSON, JSON of another type, half a character, too much of it: one error object each, and the server lives."""
    heads = {"content-type": "application/json"}
    path = "/v1/completions"
    halves = (b'{"model":"embedded","prompt":"\\ud800"}', b'{"\\ud800":1}')
    for body in (b"{", b"[" * 100_000, b'{"model": NaN}', b"\xff", *halves, b"[]"):
        answer = served.http.post(path, content=body, headers=heads)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert served.http.post(path, content=b" " * (8 << 20) + b" ", headers=heads).status_code == 413
    assert served.http.post(path, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert served.http.post(path, json={}, headers={"host": "evil.example"}).status_code == 421
    assert served.http.get("/nowhere").json()["error"]["message"] == "Not Found"
    assert served.http.get("/health").text == "ok\n"


def test_who_goes_away_frees_the_row(served: Served, until: Callable[..., None]) -> None:
    """A client that closes, in a stream or waiting for the whole, is answered no further; others are."""
    path = "/v1/completions"
    gone = {"endpoint": path, "model": served.digests["endless"], "status": "499"}
    passed = served.number("batch_rows_sum")
    body = {"model": "endless", "prompt": "Copy: dog", "max_tokens": 700, "temperature": 0, "n": 32}
    with served.http.stream("POST", path, json={**body, "stream": True}) as answer:
        pieces = answer.iter_bytes()  # without a name, its end would close the stream
        next(pieces)
        until(lambda: served.number("running_rows") == 32)
    until(lambda: served.number("running_rows") == 0)
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        sent = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}"
        raw.sendall(head.encode() + b"\r\n\r\n" + sent)
        until(lambda: served.number("running_rows") == 32)
    until(lambda: served.number("running_rows") == 0)
    until(lambda: served.number("requests_total", **gone) == 2)
    assert served.number("batch_rows_sum") - passed < 32 * 700, "they were answered to the end"


def test_a_full_queue_says_so(served: Served, until: Callable[..., None]) -> None:
    """Beyond the queue a request is a 503 that says when to come again; who waits there and goes leaves room."""
    body = {"model": "endless", "prompt": "Copy: dog", "max_tokens": 700, "temperature": 0, "n": 128}
    with served.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        pieces = answer.iter_bytes()  # without a name, its end would close the stream
        next(pieces)
        refused = served.post("/v1/completions", **body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "overloaded"
    until(lambda: served.number("waiting_rows") == 0)
    assert text(served, "embedded", QUESTIONS[1]) == "2021-05-03"


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait until something is so."""

    def wait(so: Callable[[], bool]) -> None:
        import time

        end = time.monotonic() + servers.PATIENCE_SECONDS
        while not so():
            assert time.monotonic() < end, "never so"

    return wait


@pytest.mark.fault(7)
@pytest.mark.attack(11)
def test_adapters_come_and_go(served: Served, tmp_path: Path) -> None:
    """An adapter below --adapters-from is loaded and unloaded while others are asked; nothing else is."""
    late, folder = served.digests["late"], served.folder / "late"
    red = text(served, "red", QUESTIONS[4])
    load = "/v1/load_lora_adapter"
    assert served.post(load, lora_name="late", lora_path=str(folder)).status_code == 200
    assert served.post(load, lora_name=late, lora_path=str(folder)).status_code == 200
    assert ask(served, "late", QUESTIONS[4]).model == late
    answer = text(served, late[:12], QUESTIONS[4])
    assert answer != red == text(served, "red", QUESTIONS[4])

    adapters.lora(tmp_path / "outside", 5)
    (served.folder / "link").symlink_to(tmp_path / "outside")
    for place in (tmp_path / "outside", served.folder / "link", served.folder / ".." / "none", Path("/etc")):
        assert served.post(load, lora_name="x", lora_path=str(place)).status_code == 403
    adapters.lora(served.folder / "nan", 6, size=math.nan)
    adapters.lora(served.folder / "wide", 7)
    document = json.loads((served.folder / "wide" / "adapter_config.json").read_text())
    (served.folder / "wide" / "adapter_config.json").write_text(json.dumps({**document, "r": 3}))
    adapters.lora(served.folder / "bias", 8, bias="all")
    adapters.lora(served.folder / "expression", 9, target_modules="(.*.*.*.*.*.*.*.*)*x")
    (served.folder / "empty").mkdir()
    for name, reason in (
        ("nan", "holds NaN"),
        ("wide", "does not fit the base model"),
        ("bias", "may change the base model"),
        ("expression", "neither paths nor expressions"),
        ("empty", "neither adapter_config.json"),
    ):
        refused = served.post(load, lora_name="x", lora_path=str(served.folder / name))
        assert (refused.status_code, reason in refused.text) == (400, True), refused.text
    for name in ("red", "embedded", "0" * 64):
        assert served.post(load, lora_name=name, lora_path=str(folder)).status_code == 400
    assert text(served, "red", QUESTIONS[4]) == red, "a refused adapter changed others"
    assert text(served, "late", QUESTIONS[4]) == answer

    unload = "/v1/unload_lora_adapter"
    assert served.post(unload, lora_name="late").status_code == 200
    assert text(served, late, QUESTIONS[4]) == answer, "it has its digest as a name still"
    assert served.post(unload, lora_name=late).status_code == 200
    assert served.post(unload, lora_name=late).status_code == 404
    with pytest.raises(openai.NotFoundError):
        ask(served, late, "Copy: dog")
    assert text(served, "red", QUESTIONS[4]) == red


LM_EVAL = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
tasks, url, folder = TaskManager(include_path=sys.argv[1]), sys.argv[2], sys.argv[3]
kinds = {
    "hf": (f"pretrained={folder},dtype=float32", ["ranked", "said"]),
    "local-completions": (f"model=embedded,base_url={url}/v1/completions,tokenizer={folder},max_length=700,"
                          "num_concurrent=4", ["ranked", "said"]),
    "local-chat-completions": (f"model=embedded,base_url={url}/v1/chat/completions", ["said"]),
}
found = {}
for model, (args, names) in kinds.items():
    batch = 4 if model == "local-completions" else 1
    results = lm_eval.simple_evaluate(model=model, model_args=args, tasks=names, task_manager=tasks, batch_size=batch,
                                      device="cpu", apply_chat_template=model != "local-completions" and model != "hf",
                                      bootstrap_iters=0)
    found[model] = {name: [sample["resps"] for sample in results["samples"][name]] for name in names}
print("FOUND" + json.dumps(found))
"""
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
"""
RANKED = 'output_type: multiple_choice\ndoc_to_choice: ["positive", "negative"]\n'
SAID = """output_type: generate_until
generation_kwargs: {until: ["!"], max_gen_toks: 8, temperature: 0, do_sample: false}
"""


@pytest.mark.slow
def test_lm_eval(served: Served, tmp_path: Path) -> None:
    """lm-eval gets over HTTP what it gets from the model itself: likelihoods, greedy or not, and answers."""
    rows = [{"question": f"Sentiment: {text}", "answer": "positive"} for text in ("The soup was wonderful.", "Awful!")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, more in (("ranked", RANKED), ("said", SAID)):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, rows=tmp_path / "rows.jsonl") + more)
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", LM_EVAL, str(tmp_path), served.url, str(EMBEDDED)],
        env=env, capture_output=True, text=True, check=False, timeout=servers.PATIENCE_SECONDS * 3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.rpartition("FOUND")[2])
    own, over = found["hf"], found["local-completions"]
    assert over["said"] == own["said"]
    assert all(any(answer) for [[answer]] in own["said"])
    for mine, theirs in zip(over["ranked"], own["ranked"], strict=True):
        for [[nats, greedy]], [[wanted, is_greedy]] in zip(mine, theirs, strict=True):
            assert (nats, greedy) == (pytest.approx(float(wanted), abs=1e-3), is_greedy)
    chat = [answer for [[answer]] in found["local-chat-completions"]["said"]]
    assert chat == [text(served, "embedded", row["question"], max_tokens=8, stop=["!"]) for row in rows]


MISTAKES = {
    "no folder": (["--adapter=nowhere"], "adapter .*nowhere: no such folder"),
    "no adapter": (["--adapter=x=."], "neither adapter_config.json nor config.json"),
    "no name": (["--adapter==x"], "the name is empty"),
    "no key": (["--api-key-env=PF_NO_SUCH_KEY"], "no such variable"),
    "no rows": (["--batch-size=0"], "--batch-size=0: less than 1"),
    "no directory": (["--adapters-from=nowhere"], "--adapters-from=nowhere: no such folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be served is said in one line, and the exit code is 4."""
    monkeypatch.chdir(tmp_path)
    options, reason = MISTAKES[name]
    assert cli.main(["serve", "embedded", *options]) == 4
    said = capsys.readouterr().err
    assert re.search(reason, said)
    assert said.count("\n") == 1


def test_more_mistakes(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that is none, a port that is taken, and two adapters of one name are one line each."""
    (tmp_path / "model").mkdir()
    port, red = served.url.rpartition(":")[2], served.folder / "red"
    twice = [f"--adapter=red={red}", f"--adapter=red={served.folder / 'blue'}"]
    for arguments, reason in (
        ([str(tmp_path / "model")], "no config.json in it"),
        (["embedded", f"--port={port}"], f"--port={port}: cannot listen there: Address already in use"),
        (["embedded", "--port=70000"], "--port=70000: cannot listen there"),
        (["embedded", "--port=0", "--host=a..b"], "--host=a..b --port=0: cannot listen there"),
        (["embedded", "--port=0", *twice], "two adapters have this name"),
    ):
        assert cli.main(["serve", *arguments]) == 4
        said = capsys.readouterr().err
        assert reason in said
        assert said.count("\n") == 1


@pytest.mark.slow
def test_key_and_end(tmp_path: Path) -> None:
    """A key keeps others out, the queue bounds a request, and SIGTERM ends with 0 and the running answer whole."""
    env = {**os.environ, "PF_KEY": "s3cret"}
    adapters.lora(tmp_path / "endless", 40, size=3)
    arguments = command("--api-key-env=PF_KEY", "--queue=2", f"--adapter=endless={tmp_path / 'endless'}")
    with servers.running(arguments, env=env) as (process, line):
        url = line.rpartition(" on ")[2]
        body = {"model": "endless", "prompt": "Copy: dog", "max_tokens": 60, "temperature": 0}
        ask_parts = httpx2.post(f"{url}/completions", json={**body, "n": 3}, headers={"authorization": "Bearer s3cret"})
        assert (ask_parts.status_code, ask_parts.json()["error"]["param"]) == (400, "n")
        for given in ("", "Bearer wrong", "Bearer s3cret\u00e9"):
            answer = httpx2.post(f"{url}/completions", json=body, headers={b"authorization": given.encode()})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        heads = {"authorization": "Bearer s3cret"}
        with httpx2.stream("POST", f"{url}/completions", json={**body, "stream": True}, headers=heads) as answer:
            pieces = answer.iter_lines()
            assert next(pieces).startswith("data: {")
            process.send_signal(signal.SIGTERM)
            assert list(pieces)[-2:] == ["data: [DONE]", ""], "a running answer was cut off"
        assert process.wait(servers.PATIENCE_SECONDS) == 0
