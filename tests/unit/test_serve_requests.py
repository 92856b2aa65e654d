"""What the server takes from clients and writes to them; no model is needed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pytest_finetune import digest, wire
from pytest_finetune.engine.asking import Piece, Token
from pytest_finetune.engine.detokenizer import Detokenizer
from pytest_finetune.errors import SuiteError
from pytest_finetune.records import PLAIN, Adapter, Message
from pytest_finetune.serve import requests, responses
from pytest_finetune.serve.catalogue import Catalogue
from pytest_finetune.serve.requests import Prompt, Refused

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PLAIN_TEXT: dict[str, Any] = {"model": "m", "prompt": "hi"}
TOKENIZER = Tokenizer.from_file(str(digest.PACKAGE / "embedded" / "tokenizer.json"))


def refused(body: dict[str, Any], chat: bool) -> Refused:
    """Return why a body is refused."""
    with pytest.raises(Refused) as caught:
        requests.read(body, chat)
    return caught.value


def test_defaults_are_openais() -> None:
    """What is not said is as OpenAI has it: temperature 1, 16 tokens of a completion, a chat as long as it fits."""
    chat, plain = requests.read(CHAT, True), requests.read(PLAIN_TEXT, False)
    assert (chat.temperature, chat.top_p, chat.n, chat.max_tokens, chat.seed, chat.logprobs) == (
        1,
        1,
        1,
        None,
        None,
        None,
    )
    assert (plain.max_tokens, plain.echo, plain.stream, plain.stop) == (16, False, False, ())
    assert chat.prompts == (Prompt((Message("user", "hi"),)),)
    assert plain.prompts == (Prompt((Message(PLAIN, "hi"),)),)


HARMLESS: list[dict[str, Any]] = [
    {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "parallel_tool_calls": False},
    {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [], "tool_choice": "auto"},
    {"response_format": {"type": "text"}, "seed": None, "stop": None, "n": 1, "functions": None},
]


@pytest.mark.parametrize("more", HARMLESS)
def test_what_changes_nothing_is_taken(more: dict[str, Any]) -> None:
    """Parameters that change no answer, at values that change none, make no other request."""
    assert requests.read({**CHAT, **more}, True) == requests.read(CHAT, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"1": 5}),
        ("frequency_penalty", 0.1),
        ("presence_penalty", -1),
        ("presence_penalty", True),
        ("best_of", 2),
        ("suffix", "x"),
        ("top_k", 3),
        ("min_p", 0.1),
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("temperature", float("nan")),
        ("top_p", -0.1),
        ("n", 0),
        ("n", 129),
        ("n", True),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("stop", [""]),
        ("stop", ["a"] * 17),
        ("stop", 5),
        ("seed", "x"),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("logprobs", "all"),
        ("model", 3),
    ],
)
def test_what_would_change_the_answer_is_refused(name: str, value: object) -> None:
    """Each is a 400 whose param is its name, at both endpoints."""
    for body, chat in ((CHAT, True), (PLAIN_TEXT, False)):
        error = refused({**body, name: value}, chat)
        assert (error.status, error.param) == (400, name)
        assert name in error.message


@pytest.mark.parametrize(
    "message",
    [
        "hi",
        {"role": ["user"], "content": "x"},
        {"role": "tool", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": "x", "name": "Ann"},
        {"role": "assistant", "content": "x", "tool_calls": [{}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "input_audio"}]},
        {"role": "user", "content": "\ud800"},
    ],
)
def test_messages_that_are_none(message: object) -> None:
    """A message that the template would not show whole is refused by its place."""
    error = refused({**CHAT, "messages": [*CHAT["messages"], message]}, True)
    assert "messages[1]" in error.message


def test_messages_of_real_clients() -> None:
    """Parts of text are joined, a developer is the system, and lm-eval's type is nothing."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "c", "tool_calls": None, "refusal": None},
        {"role": "user", "content": "d", "type": "text"},
    ]
    read = requests.read({**CHAT, "messages": messages}, True).prompts[0].turns
    assert [(turn.role, turn.content) for turn in read] == [
        ("system", "s"),
        ("user", "ab"),
        ("assistant", "c"),
        ("user", "d"),
    ]


def test_prompts_of_every_form() -> None:
    """A text, tokens, or lists of them; nothing else."""
    for value, wanted in (([5, 6], [(5, 6)]), ([[5], [6, 7]], [(5,), (6, 7)]), (["a", "b"], [(), ()])):
        assert [prompt.ids for prompt in requests.read({**PLAIN_TEXT, "prompt": value}, False).prompts] == wanted
    none: list[object] = [None, "", [], [[]], [True], [-1], [[5], [1.5]], {"a": 1}, [None], ["x"] * 129]
    for bad in none:
        assert refused({**PLAIN_TEXT, "prompt": bad}, False).param == "prompt"
    assert refused({**PLAIN_TEXT, "prompt": ["x"] * 100, "n": 2}, False).param == "n"


def test_logprobs_of_both_forms() -> None:
    """Completions say how many, chats whether and how many."""
    assert requests.read({**PLAIN_TEXT, "logprobs": 0}, False).logprobs == 0
    assert requests.read({**CHAT, "logprobs": True}, True).logprobs == 0
    assert requests.read({**CHAT, "logprobs": True, "top_logprobs": 5}, True).logprobs == 5
    assert refused({**CHAT, "top_logprobs": 5}, True).param == "top_logprobs"
    assert refused({**CHAT, "max_tokens": 1, "max_completion_tokens": 2}, True).param == "max_tokens"


@pytest.mark.parametrize("chat", [True, False])
def test_forms_are_what_readers_expect(chat: bool) -> None:
    """An answer and its stream read alike by the project's own reader of the wire."""
    form = responses.Form("id-1", 5, "m", chat, logprobs=True)
    token = Token("é", 0, -0.5, (("é", -0.5),))
    pieces = [Piece("é", (token,), made=1), Piece(" fin", (), "stop", made=2)]
    whole = wire.read(200, "application/json", JSON.encode(form.whole([pieces], responses.usage(3, 2))).encode())
    parts: list[dict[str, Any] | str] = [form.role(0, usage=True)] if chat else []
    parts += [*(form.chunk(0, piece, usage=True) for piece in pieces), form.end(responses.usage(3, 2)), wire.DONE]
    body = "".join(map(responses.event, parts)).encode()
    assert wire.read(200, "text/event-stream; charset=utf-8", body) == whole
    assert whole == wire.Answer("é fin", "", "stop", "id-1", "m", 3, 2)


JSON = json.JSONEncoder(allow_nan=False)


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_streamed_text_is_whole(text: str, stops: list[str]) -> None:
    """Whatever the tokens: shown text only grows, has no half characters, and ends before the first stop string."""
    stream = Detokenizer(TOKENIZER, tuple(stops))
    whole, shown = TOKENIZER.decode(ids := TOKENIZER.encode(text).ids), ""
    for token in ids:
        stream.push(token)
        now = stream.text[: stream.released]
        assert now.startswith(shown)
        shown = now
        assert not any(stop in shown for stop in stops)
        if stream.stopped:
            break
    stream.end()
    ends = [whole.find(stop) for stop in stops if stop in whole]
    assert stream.stopped == bool(ends)
    final = stream.text[: stream.released]
    assert final == whole if not ends else final == whole[: len(final)]
    assert final.startswith(shown)
    assert not any(stop in final for stop in stops)


def test_half_a_character_waits() -> None:
    """Nothing of a character is shown before its last token."""
    ids = TOKENIZER.encode("🙂").ids
    assert len(ids) > 1
    stream = Detokenizer(TOKENIZER)
    for token in ids[:-1]:
        stream.push(token)
        assert not stream.text
    stream.push(ids[-1])
    assert stream.text == "🙂"


def test_names_of_adapters() -> None:
    """A name, a digest and eight of its characters name an adapter; nothing names two."""
    one, other = "a" * 64, "a" * 10 + "b" * 54
    catalogue = Catalogue("base")
    catalogue.add("x", Adapter("p", one, ""))
    catalogue.add("", Adapter("q", other, ""))
    assert [catalogue.find(name) for name in ("base", "x", one, "a" * 11, other, "a" * 10 + "b")] == [
        "", one, one, one, other, other,
    ]  # fmt: skip
    for name, reason in (("a" * 8, "names several"), ("a" * 7, "is not served"), ("", "is not served")):
        with pytest.raises(Refused, match=reason):
            catalogue.find(name)
    for name in ("x", one, "base", "c" * 64):
        with pytest.raises(SuiteError):
            catalogue.add(name, Adapter("q", other, ""))
    catalogue.add("y", Adapter("p", one, ""))
    assert catalogue.remove("x") == ""
    assert catalogue.remove("y") == one
    assert catalogue.summary() == "base and 1 adapter"
