"""OpenAI's wire format, as far as clients, servers and what stands between them agree on it."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CHAT, COMPLETIONS = "/chat/completions", "/completions"
DONE = "[DONE]"
MOST_TOKENS = 1 << 53


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, whole or as a stream.

    ``error`` says in one line why it is none, and is empty where it is one. ``tool_calls`` are canonical JSON of
    what would be called, ids apart; nothing is ever called. Tokens are 0 where the server did not count them.
    """

    text: str = ""
    tool_calls: str = ""
    finish: str = ""
    id: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""


def is_asked(method: str, path: str) -> bool:
    """Whether a request asks a model for an answer."""
    return method == "POST" and path.rstrip("/").endswith(COMPLETIONS)


def request(body: bytes) -> dict[str, Any] | None:
    """Return a request's body as plain data; None of what is no request."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def asked_text(request: dict[str, Any]) -> str:
    """Return what was asked: the last user message, or the prompt; empty where neither can be read."""
    return _whole_text(_asked(request))


def _asked(request: dict[str, Any]) -> str:
    messages = request.get("messages")
    if isinstance(messages, list):
        users = [m for m in messages if isinstance(m, dict) and m.get("role") == "user"]
        return _text(users[-1].get("content")) if users else ""
    prompt = request.get("prompt")
    return prompt if isinstance(prompt, str) else ""


def _text(content: Any) -> str:
    """Return a message's text; parts that are none, such as images, are left out."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def read(status: int, content_type: str, body: bytes) -> Answer:
    """Read the body of an answer, in JSON or as server-sent events.

    Args:
        status: of HTTP.
        content_type: the header's value.
        body: all of it, undone of any content encoding.
    """
    if status >= 400:
        return Answer(error=f"HTTP {status}")
    try:
        if content_type.partition(";")[0].strip().lower() == "text/event-stream":
            return _streamed(list(events(body.decode("utf-8"))))
        return _whole(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        return Answer(error=f"no answer of OpenAI's form: {type(error).__name__}")


def _whole_text(text: str) -> str:
    """Return a text without halves of characters, which JSON can hold and files cannot; two that fit become one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def events(text: str) -> Iterator[str]:
    """Yield the data of each complete server-sent event."""
    for block in text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n")[:-1]:
        lines = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        if lines:
            yield "\n".join(lines)


def _whole(body: dict[str, Any]) -> Answer:
    choice = body["choices"][0]
    message = choice.get("message") or {}
    text = choice["text"] if "text" in choice else message.get("content") or message.get("refusal") or ""
    return _answer(body, str(text), message.get("tool_calls") or [], str(choice.get("finish_reason") or ""))


def _streamed(data: list[str]) -> Answer:
    if not data or data[-1] != DONE:
        return Answer(error="the stream was cut off before its end")
    text, finish, calls = "", "", dict[int, dict[str, Any]]()
    whole: dict[str, Any] = {}
    for body in map(json.loads, data[:-1]):
        if "error" in body:
            return Answer(error="the stream ended with an error")
        whole |= {name: value for name, value in body.items() if value}
        for choice in body.get("choices") or []:
            if choice.get("index", 0):
                continue
            delta = choice.get("delta") or {}
            text += choice.get("text") or delta.get("content") or delta.get("refusal") or ""
            finish = choice.get("finish_reason") or finish
            for part in delta.get("tool_calls") or []:
                function = part.get("function") or {}
                call = calls.setdefault(part.get("index", 0), {"function": {"name": "", "arguments": ""}})["function"]
                call["name"] += function.get("name") or ""
                call["arguments"] += function.get("arguments") or ""
    if not whole:
        return Answer(error="the stream held no answer")
    return _answer(whole, text, [calls[number] for number in sorted(calls)], finish)


def _answer(body: dict[str, Any], text: str, calls: list[dict[str, Any]], finish: str) -> Answer:
    usage = body.get("usage") or {}
    called = [_call(call["function"]) for call in calls]
    return Answer(
        text=_whole_text(text),
        tool_calls=_whole_text(json.dumps(called, sort_keys=True, ensure_ascii=False)) if calls else "",
        finish=_whole_text(str(finish)),
        id=_whole_text(str(body.get("id") or "")),
        model=_whole_text(str(body.get("model") or "")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _count(value: Any) -> int:
    """Return a number of tokens; 0 for what is none, such as an infinity."""
    return int(value) if isinstance(value, int | float) and 0 <= value < MOST_TOKENS else 0


def _call(function: dict[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    with contextlib.suppress(ValueError):  # the order of keys and blanks is no difference
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    return {"name": function.get("name"), "arguments": arguments}
