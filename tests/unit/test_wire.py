"""OpenAI's wire format: answers are read whole or streamed, and what is none says why."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune import wire

EVENTS = "text/event-stream; charset=utf-8"


def streamed(*bodies: dict[str, Any], end: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(body)}\n\n" for body in bodies) + end).encode()


def delta(**content: Any) -> dict[str, Any]:
    return {"id": "a", "model": "m", "choices": [{"index": 0, "delta": content}]}


@given(st.text(), st.integers(1, 5))
def test_whole_and_streamed_are_the_same_answer(text: str, size: int) -> None:
    """However a text is cut into events, it reads as the same answer in one piece."""
    message = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "id": "a", "model": "m"}
    parts = [delta(content=text[i : i + size]) for i in range(0, len(text), size)]
    last = {"id": "a", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    whole = wire.read(200, "application/json", json.dumps(message).encode())
    assert whole == wire.read(200, EVENTS, streamed(*parts, last))
    assert (whole.text, whole.finish, whole.error) == (text, "stop", "")


def test_tool_calls_are_compared_by_what_they_call() -> None:
    """Ids, blanks and the order of keys are no difference between two calls."""
    one = {"message": {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1, "b": 2}'}}]}}
    calls = [{"index": 0, "id": "9", "function": {"name": "f", "arguments": '{"b":2,'}}]
    rest = [{"index": 0, "function": {"arguments": '"a":1}'}}]
    whole = wire.read(200, "application/json", json.dumps({"choices": [one]}).encode())
    parts = wire.read(200, EVENTS, streamed(delta(tool_calls=calls), delta(tool_calls=rest)))
    assert whole.tool_calls == parts.tool_calls != ""


@pytest.mark.parametrize(
    ("status", "kind", "body", "error"),
    [
        (500, "application/json", b"{}", "HTTP 500"),
        (200, "application/json", b"<html>", "no answer of OpenAI's form"),
        (200, "application/json", b"[1, 2]", "no answer of OpenAI's form"),
        (200, "application/json", b'{"choices": []}', "no answer of OpenAI's form"),
        (200, "application/json", b"\xff\xfe", "no answer of OpenAI's form"),
        (200, EVENTS, streamed(delta(content="x"), end=""), "cut off"),
        (200, EVENTS, b"data: [DONE]\n\n", "held no answer"),
        (200, EVENTS, streamed({"error": {"message": "x"}}), "ended with an error"),
        (200, EVENTS, b"data: {\n\ndata: [DONE]\n\n", "no answer of OpenAI's form"),
    ],
)
def test_what_is_no_answer_says_why(status: int, kind: str, body: bytes, error: str) -> None:
    """Failures, other forms and broken streams are errors in a line."""
    found = wire.read(status, kind, body)
    assert error in found.error
    assert found.text == ""


@given(st.binary())
def test_nothing_of_a_body_ends_the_reader(body: bytes) -> None:
    """Any bytes are an answer or an error, in either form."""
    for kind in ("application/json", EVENTS):
        assert isinstance(wire.read(200, kind, body), wire.Answer)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]}, "a"),
        ({"prompt": "p"}, "p"),
        ({"prompt": [1, 2]}, ""),
        ({"messages": "none"}, ""),
        ({"messages": [{"role": "system", "content": "s"}]}, ""),
    ],
)
def test_what_was_asked(request_: dict[str, Any], text: str) -> None:
    """It is the last user message's text, or the prompt."""
    assert wire.asked_text(request_) == text
