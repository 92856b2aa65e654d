"""What clients ask, validated: what would change the answer and is not supported is refused, never ignored."""

from dataclasses import dataclass
from typing import Any

from pytest_finetune.protocol import Turns
from pytest_finetune.records import PLAIN, Message

MOST_STOPS, MOST_TOP, MOST_ROWS = 16, 20, 128
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
BOTH = {"model", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "stream", "stream_options", "logprobs"}
KNOWN = {True: BOTH | {"messages", "max_completion_tokens", "top_logprobs"}, False: BOTH | {"prompt", "echo"}}
HARMLESS = {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key"}
# What changes no answer at this value only.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "best_of": (1,),
    "suffix": ("",),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


class Refused(Exception):
    """A request that gets no answer: HTTP's status, and the fields of OpenAI's error object."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation or a plain text; or, where ``ids`` are given, these tokens as they are."""

    turns: Turns
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One request for answers: ``n`` of each prompt.

    ``max_tokens`` is None for as many as fit;
    ``logprobs`` counts the likeliest tokens to tell, None for no likelihoods; ``seed`` None draws one.
    """

    model: str
    chat: bool
    prompts: tuple[Prompt, ...]
    max_tokens: int | None
    temperature: float
    top_p: float
    n: int
    stop: tuple[str, ...]
    seed: int | None
    stream: bool
    usage: bool
    logprobs: int | None
    echo: bool


def read(body: Any, chat: bool) -> Request:
    """Validate a request's body.

    Args:
        body: parsed JSON.
        chat: whether it came to ``/v1/chat/completions``.

    Raises:
        Refused: naming the parameter.
    """
    if not isinstance(body, dict):
        raise Refused(400, "the body is no JSON object")
    given = {name: value for name, value in body.items() if value is not None}
    _check_names(given, chat)
    take = _Taker(given)
    stream = take.flag("stream")
    request = Request(
        model=take.text("model"),
        chat=chat,
        prompts=(Prompt(_turns(given.get("messages"))),) if chat else _prompts(given.get("prompt")),
        max_tokens=_max_tokens(take, chat),
        temperature=take.number("temperature", 1.0, 0, 2),
        top_p=take.number("top_p", 1.0, 0, 1),
        n=take.whole("n", 1, 1, MOST_ROWS),
        stop=_stop(given.get("stop", [])),
        seed=take.whole("seed", 0, -(1 << 63), 1 << 64) if "seed" in given else None,
        stream=stream,
        usage=_usage(given, stream),
        logprobs=_logprobs(take, chat),
        echo=take.flag("echo"),
    )
    if len(request.prompts) * request.n > MOST_ROWS:
        raise Refused(400, f"{len(request.prompts)} prompts, {request.n} answers each: more than {MOST_ROWS}", "n")
    if request.max_tokens == 0 and not request.echo:
        raise Refused(400, "max_tokens: 0 is less than 1, which only echo allows", "max_tokens")
    return request


def fields(body: Any, *names: str) -> dict[str, str]:
    """Return the texts of a body that has nothing but them.

    Raises:
        Refused: naming the field.
    """
    if not isinstance(body, dict):
        raise Refused(400, "the body is no JSON object")
    for name in body.keys() - set(names):
        if body[name] not in (None, False):
            raise Refused(400, f"{name} is not supported", name)
    for name in names:
        if not _is_text(body.get(name)) or not 0 < len(body[name]) <= 4096 or not body[name].isprintable():
            raise Refused(400, f"{name}: a text is needed, not {_shown(body.get(name))}", name)
    return {name: body[name] for name in names}


def _check_names(given: dict[str, Any], chat: bool) -> None:
    for name, value in given.items():
        if name in NEUTRAL:
            if value not in NEUTRAL[name] or value is True:
                raise Refused(400, f"{name} is not supported, and would change the answer; leave it out", name)
        elif name not in KNOWN[chat] | HARMLESS:
            raise Refused(400, f"{name} is not supported here, and may change the answer; leave it out", name)


@dataclass(frozen=True, slots=True)
class _Taker:
    """Values by name, each of its type."""

    given: dict[str, Any]

    def text(self, name: str) -> str:
        value = self.given.get(name)
        if not isinstance(value, str) or not value:
            raise Refused(400, f"{name}: a text is needed, not {_shown(value)}", name)
        return value

    def flag(self, name: str) -> bool:
        value = self.given.get(name, False)
        if not isinstance(value, bool):
            raise Refused(400, f"{name}: {_shown(value)} is neither true nor false", name)
        return value

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self.given.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Refused(400, f"{name}: {_shown(value)} is no whole number from {low} to {high}", name)
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.given.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise Refused(400, f"{name}: {_shown(value)} is no number from {low} to {high}", name)
        return float(value)


def _shown(value: Any) -> str:
    return repr(value)[:60] if value is not None else "nothing"


def _max_tokens(take: _Taker, chat: bool) -> int | None:
    names = [name for name in ("max_completion_tokens", "max_tokens") if name in take.given]
    if not names:
        return None if chat else 16  # as OpenAI has it
    values = {take.whole(name, 0, 0, 1 << 31) for name in names}
    if len(values) > 1:
        raise Refused(400, "max_tokens and max_completion_tokens differ; give one of them", "max_tokens")
    return values.pop()


def _logprobs(take: _Taker, chat: bool) -> int | None:
    if not chat:
        return take.whole("logprobs", 0, 0, MOST_TOP) if "logprobs" in take.given else None
    if take.flag("logprobs"):
        return take.whole("top_logprobs", 0, 0, MOST_TOP)
    if take.given.get("top_logprobs"):
        raise Refused(400, "top_logprobs needs logprobs: true", "top_logprobs")
    return None


def _usage(given: dict[str, Any], stream: bool) -> bool:
    options = given.get("stream_options", {})
    if not isinstance(options, dict) or not options.keys() <= {"include_usage"}:
        raise Refused(400, "stream_options: only include_usage is supported", "stream_options")
    if options and not stream:
        raise Refused(400, "stream_options needs stream: true", "stream_options")
    return _Taker(options).flag("include_usage")


def _stop(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS:
        raise Refused(400, f"stop: a text, or a list of at most {MOST_STOPS}", "stop")
    if not all(isinstance(stop, str) and 0 < len(stop) <= 1000 for stop in stops):
        raise Refused(400, "stop: each must be a text of 1 to 1000 characters", "stop")
    return tuple(stops)


def _prompts(value: Any) -> tuple[Prompt, ...]:
    if isinstance(value, str) or (isinstance(value, list) and value and all(map(_is_token, value))):
        value = [value]
    if not isinstance(value, list) or not value:
        raise Refused(400, "prompt: a text, a list of token ids, or a list of either is needed", "prompt")
    if len(value) > MOST_ROWS:
        raise Refused(400, f"prompt: {len(value)} at once are more than {MOST_ROWS}", "prompt")
    prompts = []
    for one in value:
        if _is_text(one) and one:
            prompts.append(Prompt((Message(PLAIN, one),)))
        elif isinstance(one, list) and one and all(map(_is_token, one)):
            prompts.append(Prompt((Message(PLAIN, ""),), tuple(one)))
        else:
            raise Refused(
                400, f"prompt: {_shown(one)} is neither a text nor a list of token ids, or an empty one", "prompt"
            )
    return tuple(prompts)


def _is_text(value: Any) -> bool:
    """Whether it is a text that tokenizers take: JSON can write halves of characters that UTF-8 cannot."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _turns(value: Any) -> Turns:
    if not isinstance(value, list) or not value:
        raise Refused(400, "messages: a list of at least one message is needed", "messages")
    return tuple(_message(f"messages[{number}]", one) for number, one in enumerate(value))


def _message(place: str, value: Any) -> Message:
    if not isinstance(value, dict):
        raise Refused(400, f"{place}: {_shown(value)} is no message", "messages")
    role, content = value.get("role"), value.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise Refused(400, f"{place}.role: {_shown(role)} is not one of {', '.join(ROLES)}", "messages")
    # lm-eval writes a type into each message.
    known = {"role", "content"} | ({"type"} if value.get("type") == "text" else set())
    extra = [name for name in value if name not in known and value[name] not in (None, [])]
    if extra:
        raise Refused(400, f"{place}.{extra[0]} is not supported, and may change the answer", "messages")
    if isinstance(content, list):
        texts: list[Any] = [
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        ]
        content = "".join(texts) if len(texts) == len(content) and all(map(_is_text, texts)) else None
    if not isinstance(content, str) or not _is_text(content):
        raise Refused(400, f"{place}.content: only text is supported", "messages")
    return Message(ROLES[role], content)
