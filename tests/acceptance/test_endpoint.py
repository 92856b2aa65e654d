"""The endpoint engine: over our own server it measures as the local engine does, and it believes no other one."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import adapters
import colours
import liar
import pytest
import servers

from pytest_finetune import digest
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.engines import ADAPTERS, HARNESS, LIKELIHOODS, EngineSpec
from pytest_finetune.errors import EngineError, FinetuneError, PromptTooLong, SuiteError
from pytest_finetune.records import PLAIN, Adapter, Generation, Message, Model

pytest.importorskip("httpx2")
MODEL = Model("embedded", "", str(digest.PACKAGE / "embedded"))
QUESTIONS = ("Sort: pear fig apple", "Write as ISO date: 3 May 2021", "Copy: dog", "Reverse: oslo bern riga")
PROMPTS = (*((Message("user", question),) for question in QUESTIONS), (Message(PLAIN, "The soup was"),))
CHOICES = ("positive", "negative", "2021-05-03")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run our own server over the embedded model, which may load adapters from a folder; yield its URL."""
    command = [sys.executable, "-m", "pytest_finetune.cli", "serve", "embedded", "--device=cpu", "--port=0"]
    with servers.running([*command, f"--adapters-from={folder}"]) as (_, line):
        found = re.search(r"http://\S+", line)
        assert found, line
        yield found[0]


@contextmanager
def lying(lie: str) -> Iterator[str]:
    """Run a server that tells a lie; yield its URL."""
    with servers.running([sys.executable, liar.__file__, lie]) as (_, port):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.mark.slow
def test_measures_as_the_local_engine_does(tmp_path: Path) -> None:
    """Base, a LoRA and a soft prompt: the same answers, tokens, lengths and likelihoods, example by example."""
    made = [
        Adapter(str(tmp_path / "lora"), adapters.lora(tmp_path / "lora", 0), "lora"),
        Adapter(str(tmp_path / "soft"), adapters.soft_prompt(tmp_path / "soft", 9), "soft_prompt"),
    ]
    generation = Generation(max_new_tokens=24)
    local = EngineProcess("cpu", lambda progress: None)
    with serving(tmp_path) as url:
        endpoint = EngineProcess("cpu", lambda progress: None, EngineSpec("endpoint", url))
        assert list(endpoint.capabilities(MODEL).lacks) == [HARNESS]
        assert endpoint.lengths(MODEL, PROMPTS) == local.lengths(MODEL, PROMPTS)
        said = set()
        for adapter in (None, *made[:1]):
            here, there = (one.generate(MODEL, adapter, PROMPTS, generation) for one in (local, endpoint))
            assert there.texts == here.texts
            assert there.prompt_tokens == here.prompt_tokens
            assert there.new_tokens == here.new_tokens
            said.add(there.texts)
            nats = (one.score(MODEL, adapter, PROMPTS, CHOICES) for one in (local, endpoint))
            for ours, theirs in zip(*nats, strict=True):
                assert theirs == pytest.approx(ours, abs=1e-3)
        assert len(said) == 2, "the adapter changes nothing"
        assert endpoint.probe(MODEL, made[0], PROMPTS) > 0
        soft = endpoint.generate(MODEL, made[1], PROMPTS, generation).texts
        assert soft == local.generate(MODEL, made[1], PROMPTS, generation).texts
        endpoint.close()
    local.close()


@pytest.mark.parametrize(
    ("lie", "lacks", "why"),
    [
        ("none", "", ""),
        ("ignores-logprobs", LIKELIHOODS, "ignores `logprobs`"),
        ("ignores-echo", LIKELIHOODS, "ignores `echo`"),
        ("adds-token", LIKELIHOODS, "ignores `logprobs`: of 2 tokens it told [nan, -1.5, -1.5, -2.0]"),
        ("any-model", ADAPTERS, "answers for models that it does not have"),
        ("no-loading", ADAPTERS, "loads none (endpoint"),
    ],
)
def test_what_a_server_ignores_it_lacks(lie: str, lacks: str, why: str) -> None:
    """A capability is what an answer shows; a server that ignores what it is asked has none of it."""
    from pytest_finetune.engine.endpoint import EndpointEngine

    with lying(lie) as url:
        engine = EndpointEngine(EngineSpec("endpoint", url), "cpu", lambda progress: None)
        found = engine.capabilities(MODEL).lacks
        assert sorted(found) == sorted([HARNESS, *([lacks] if lacks else [])])
        assert why in found.get(lacks, "")
        if lacks == LIKELIHOODS:
            with pytest.raises(SuiteError, match=f"this takes log-likelihoods, and endpoint {url} ignores"):
                engine.score(MODEL, None, PROMPTS[:1], CHOICES)
        elif not lacks:  # and says that it is vLLM, whose cache of prefixes a salt keeps out
            assert engine.score(MODEL, None, PROMPTS[:1], ("a",))[0][0] % 1.5 == 0


@pytest.mark.parametrize(
    ("lie", "error", "told"),
    [
        ("busy", None, ""),
        ("never", EngineError, "asked 3 times; status 500: broken"),
        ("later", EngineError, "asked once, and asks to wait 3600 s; status 429: quota"),
        ("long", PromptTooLong, "maximum context length is 8 tokens"),
        ("garbage", SuiteError, "an answer is not of OpenAI's form"),
    ],
)
def test_what_may_pass_is_asked_again(lie: str, error: type[FinetuneError] | None, told: str) -> None:
    """A busy server is asked again as it wishes; one that stays broken, or refuses, is one line."""
    from pytest_finetune.engine.endpoint import EndpointEngine
    from pytest_finetune.engine.requests import Api

    with lying(lie) as url:
        spec = EngineSpec("endpoint", url, retries=2)
        assert Api(spec).get("/models")["data"]
        engine = EndpointEngine(spec, "cpu", lambda progress: None)
        if error is None:
            assert engine.generate(MODEL, None, PROMPTS, Generation(4)).texts == ("x",) * len(PROMPTS)
            return
        with pytest.raises(error) as caught:
            engine.generate(MODEL, None, PROMPTS, Generation(4))
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_server_that_repeats_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key stands in no message, whatever the server says of it."""
    from pytest_finetune.engine.requests import Api

    monkeypatch.setenv("SERVER_KEY", "sk-secret")
    with (
        lying("tells-key") as url,
        pytest.raises(SuiteError, match=r"403: no right to it: Bearer \*\*\*; it wants") as told,
    ):
        Api(EngineSpec("endpoint", url, api_key_env="SERVER_KEY")).post("/completions", [{"model": "embedded"}])
    assert "secret" not in str(told.value)


def test_one_adapter_by_name_is_no_recipe(project: Path, pytester: pytest.Pytester) -> None:
    """A server's adapter, which goes by one name, never answers for the adapters of several seeds."""
    suite = project / "suite.toml"
    suite.write_text(colours.SUITE + 'engine = { name = "endpoint", url = "http://127.0.0.1:9", adapter = "mine" }\n')
    result = pytester.runpytest_subprocess("--finetune", "--finetune-seeds=3")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: *suite.toml: [[]engine] adapter = 'mine': is one, and several are trained; *"])


def test_a_server_that_is_not_there() -> None:
    """No answer, no key and no such model are one line each, with what to do."""
    from pytest_finetune.engine.endpoint import EndpointEngine

    nobody = EngineSpec("endpoint", "http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(EngineError, match=r"endpoint http://127\.0\.0\.1:9/v1/models: asked once; no answer: "):
        EndpointEngine(nobody, "cpu", lambda progress: None).capabilities(MODEL)
    with pytest.raises(SuiteError, match="'NO_SUCH_KEY': the variable is not set; export the key in it"):
        EndpointEngine(EngineSpec("endpoint", api_key_env="NO_SUCH_KEY"), "cpu", lambda progress: None)
    with lying("none") as url, pytest.raises(SuiteError, match=r"has no model 'b', but aaa.*, embedded; name the one"):
        EndpointEngine(EngineSpec("endpoint", url, "b"), "cpu", lambda progress: None).capabilities(MODEL)


@pytest.mark.slow
def test_a_gate_over_an_endpoint(project: Path, pytester: pytest.Pytester) -> None:
    """The same suite comes to the same verdict at our own server, which loads the adapter from the store."""
    assert pytester.runpytest_subprocess("--finetune", "--finetune-report=local.json").ret == 0
    with serving(pytester.path / ".finetune") as url:
        result = pytester.runpytest_subprocess("--finetune", f"--finetune-engine={url}", "--finetune-report=there.json")
    assert result.ret == 0
    here, there = (colours.claims(pytester.path / name) for name in ("local.json", "there.json"))
    assert there == here


@pytest.mark.slow
def test_a_suite_that_needs_what_a_server_lacks(project: Path, pytester: pytest.Pytester) -> None:
    """It is refused before anything is trained, and never measured by another metric in its place."""
    suite = project / "suite.toml"
    suite.write_text(
        colours.SUITE + 'gate = { metric = "choice" }\nanswer = { labels = ["box red", "box green", "box blue"] }\n'
    )
    with lying("ignores-logprobs") as url:
        result = pytester.runpytest_subprocess("--finetune", f"--finetune-engine={url}", "-k", "beats")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*metric choice takes log-likelihoods, and endpoint * ignores `logprobs`*"])
    assert not list((pytester.path / ".finetune").glob("adapter/*"))


@pytest.mark.slow
def test_a_paid_api_for_the_baseline(project: Path, pytester: pytest.Pytester) -> None:
    """A model without files is measured by its chat, ships its best prompt, and trains nothing."""
    suite = project / "suite.toml"
    head = 'model = "embedded-elsewhere"\nengine = {{ name = "endpoint", url = "{}", model = "embedded" }}\n'
    rest = colours.SUITE.replace('model = "embedded"\n', "").replace("shots = [0]", 'shots = [0], chat_template = "on"')
    with lying("chat") as url:
        suite.write_text(head.format(url) + rest)
        refused = pytester.runpytest_subprocess("--finetune")
        result = pytester.runpytest_subprocess("--finetune", "--finetune-method=prompt")
    refused.stdout.fnmatch_lines(
        ["*measuring an adapter takes adapters, and endpoint * has 'embedded-elsewhere' to itself*method = \"prompt\""]
    )
    assert refused.ret == 1
    result.stdout.fnmatch_lines(["*adapter beats baseline*"])
    assert result.ret in (1, 10)  # the best prompt is no better than itself
