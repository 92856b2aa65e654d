"""Answers in OpenAI's forms: whole ones, chunks of streams, errors."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_finetune.engine.asking import Piece, Token


@dataclass(frozen=True, slots=True)
class Form:
    """What all parts of one answer have in common."""

    id: str
    created: int
    model: str
    chat: bool
    logprobs: bool

    def whole(self, choices: Sequence[Sequence[Piece]], usage: dict[str, int]) -> dict[str, Any]:
        """Return an answer of which all pieces are there, by choice."""
        made = []
        for index, pieces in enumerate(choices):
            text = "".join(piece.text for piece in pieces)
            tokens = [token for piece in pieces for token in piece.tokens]
            said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
            made.append(self._choice(index, said, tokens, pieces[-1].finish))
        return {**self._head("chat.completion" if self.chat else "text_completion"), "choices": made, "usage": usage}

    def chunk(self, index: int, piece: Piece, usage: bool) -> dict[str, Any]:
        """Return a piece of a stream; where usage is told at its end, the other pieces say that they have none."""
        said = {"delta": {"content": piece.text} if piece.text else {}} if self.chat else {"text": piece.text}
        return self._chunk([self._choice(index, said, piece.tokens, piece.finish or None)], usage)

    def role(self, index: int, usage: bool) -> dict[str, Any]:
        """Return the first piece of a chat's stream."""
        delta = {"delta": {"role": "assistant", "content": ""}}
        return self._chunk([{"index": index, **delta, "logprobs": None, "finish_reason": None}], usage)

    def end(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the piece of a stream that tells its usage."""
        return {**self._chunk([], usage=False), "usage": usage}

    def _chunk(self, choices: list[dict[str, Any]], usage: bool) -> dict[str, Any]:
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        return {**head, "choices": choices, **({"usage": None} if usage else {})}

    def _head(self, name: str) -> dict[str, Any]:
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}

    def _choice(self, index: int, said: dict[str, Any], tokens: Sequence[Token], finish: str | None) -> dict[str, Any]:
        told = None
        if self.logprobs:
            told = _chat_logprobs(tokens) if self.chat else _logprobs(tokens)
        return {"index": index, **said, "logprobs": told, "finish_reason": finish}


def _logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    top: list[dict[str, float] | None] = []
    for token in tokens:
        if token.logprob is None:
            top.append(None)
            continue
        values: dict[str, float] = {}
        for text, value in (*token.top, (token.text, token.logprob)):
            values.setdefault(text, value)  # the best of those that are written alike
        top.append(values)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": top,
        "text_offset": [token.offset for token in tokens],
    }


def _chat_logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    content = [
        {**_named(token.text, token.logprob), "top_logprobs": [_named(text, value) for text, value in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _named(text: str, value: float | None) -> dict[str, Any]:
    # Half a character is not to be had as bytes from what a tokenizer says.
    return {"token": text, "logprob": value, "bytes": None if "\ufffd" in text else list(text.encode())}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the counts of an answer's tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def error(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return the error object of a status."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def event(data: dict[str, Any] | str) -> str:
    """Return data as a server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n"
