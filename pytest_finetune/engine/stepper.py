"""Continuous batching: rows of different requests and adapters in one pass; who comes joins, who ends leaves."""

import contextlib
import math
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import torch

from pytest_finetune.engine.asking import Ask, Piece, Token
from pytest_finetune.engine.cache import RoomyCache
from pytest_finetune.engine.detokenizer import Detokenizer
from pytest_finetune.engine.kinds import mixes
from pytest_finetune.engine.models import Models
from pytest_finetune.engine.passes import advance, read
from pytest_finetune.engine.sampling import draw, likeliest, likelihoods
from pytest_finetune.engine.template import BLANK_LINE
from pytest_finetune.records import Adapter, Model

PREFILL_TOKENS = 2048  # read at once: more would keep those who are answered already waiting for long

Say = Callable[[Piece], None]


class Row:
    """One answer while it is made."""

    def __init__(self, ask: Ask, say: Say, tokenizer: Any) -> None:
        self.ask, self.say = ask, say
        self.gone = False  # whoever asked does not wait any more
        self.made = 0
        self.next = 0  # the token that is read next
        self._random = Random(ask.seed)
        self._tokenizer = tokenizer
        self._text = Detokenizer(tokenizer, (*ask.stop, *((BLANK_LINE,) if ask.paragraph else ())), ask.paragraph)
        self._said = 0  # characters
        self._start = len(ask.echo or "")
        self._tokens: list[tuple[float, Token]] = []  # not said yet, each with where its text ends

    @property
    def length(self) -> int:
        """How many tokens stand before the one that is read next."""
        return len(self.ask.ids) + self.made - 1

    def begin(self, logits: torch.Tensor) -> None:
        """Tell of the prompt, where that is asked; ``logits`` are those after each of its tokens but the last."""
        if self.ask.echo is None:
            return
        tokens, offset = [], 0
        for place, token in enumerate(self.ask.ids if self.ask.top is not None else ()):
            tokens.append(self._token(logits[place - 1] if place else None, token, offset))
            offset = min(offset + len(tokens[-1].text), self._start)
        self.say(Piece(self.ask.echo, tuple(tokens), "" if self.ask.limit else "length"))

    def take(self, logits: torch.Tensor, best: int) -> bool:
        """Take in the next token; return whether more come.

        Args:
            logits: of the next token (vocabulary).
            best: the likeliest one.
        """
        ask, text = self.ask, self._text
        token = draw(logits, ask.temperature, ask.top_p, self._random) if ask.temperature else best
        start = len(text.text)
        text.push(token)
        self.made, self.next = self.made + 1, token
        if ask.top is not None:
            end = math.inf if text.stopped else len(text.text)  # it is the stop string's then, and not told
            self._tokens.append((end, self._token(logits, token, self._start + start)))
        ended = token in ask.ends
        if ended or self.made == ask.limit:
            text.end()
        finish = "stop" if ended or text.stopped else "length" if self.made == ask.limit else ""
        whole = bool(finish) and not text.stopped
        tokens = tuple(told for end, told in self._tokens if whole or end <= text.released)
        self._tokens = self._tokens[len(tokens) :]
        self.say(Piece(text.text[self._said : text.released], tokens, finish, made=self.made))
        self._said = text.released
        return not finish

    def fail(self, reason: str) -> None:
        """Tell that there is no answer."""
        self.say(Piece("", finish="error", error=reason, made=self.made))

    def _token(self, logits: torch.Tensor | None, token: int, offset: int) -> Token:
        if logits is None:
            return Token(self._name(token), offset, None, ())
        nats, top = likelihoods(logits, token, self.ask.top or 0)
        return Token(self._name(token), offset, nats, tuple((self._name(other), value) for other, value in top))

    def _name(self, token: int) -> str:
        text: str = self._tokenizer.decode([token])
        return text


class Running:
    """Rows that are answered together, and what the model has read of them.

    All end at the cache's last position, so that a shorter one has other positions before it that it
    does not attend to.
    """

    def __init__(self, virtual_tokens: int = 0) -> None:
        self.virtual_tokens = virtual_tokens
        self.rows: list[Row] = []
        self.cache = RoomyCache()

    def join(self, rows: list[Row], cache: RoomyCache) -> None:
        """Take in rows that were read."""
        if self.rows:
            self.cache.join(cache)
        else:
            self.cache = cache
        self.rows = self.rows + rows

    def keep(self, going: list[bool]) -> None:
        """Let the other rows go."""
        if all(going):
            return
        kept = [number for number, goes in enumerate(going) if goes]
        self.rows = [self.rows[number] for number in kept]
        if self.rows:
            longest = self.virtual_tokens + max(row.length for row in self.rows)
            self.cache.take(torch.tensor(kept), self.cache.get_seq_length() - longest)
        else:
            self.cache = RoomyCache()


class Stepper:
    """Answers rows, one token of each at a step.

    Rows of the base model and of adapters that mix share a pass; any other adapter's rows run by themselves.
    """

    def __init__(self, models: Models, model: Model, batch_size: int) -> None:
        self.waiting: deque[Row] = deque()
        self._models, self._model, self._batch_size = models, model, batch_size
        self._alone: dict[str, Adapter] = {}  # those that do not mix, by digest
        self._running = {"": Running()}
        self._reading: list[Row] = []

    def add(self, adapter: Adapter) -> None:
        """Load an adapter, of which rows can then be asked."""
        loaded = self._models.get(self._model, adapter)
        if not mixes(adapter):
            self._alone[adapter.digest], self._running[adapter.digest] = adapter, Running(loaded.virtual_tokens)

    def remove(self, digest: str) -> None:
        """Let go of an adapter that nobody asks."""
        self._models.drop(digest)
        if self._alone.pop(digest, None):
            del self._running[digest]

    def asked(self) -> set[str]:
        """Return the digests of the adapters that are being asked."""
        return {row.ask.adapter for row in (*self.waiting, *self._rows())}

    @property
    def running(self) -> int:
        """How many rows are being answered."""
        return len(self._rows())

    @torch.inference_mode()
    def step(self, told: Callable[[int], None]) -> None:
        """Read those who wait, as far as there is room, and add a token to every answer.

        Args:
            told: told of each pass that adds tokens how many rows are in it.
        """
        for running in self._running.values():
            running.keep([not row.gone for row in running.rows])
        self.waiting = deque(row for row in self.waiting if not row.gone)
        self._admit()
        for digest, running in self._running.items():
            if running.rows:
                told(len(running.rows))
                self._decode(digest, running)

    def fail(self, reason: str) -> None:
        """Give up on every row."""
        for row in (*self.waiting, *self._rows()):
            row.fail(reason)
        self.waiting.clear()
        self._reading = []
        self._running = {digest: Running(running.virtual_tokens) for digest, running in self._running.items()}

    def _rows(self) -> list[Row]:
        return [*self._reading, *(row for running in self._running.values() for row in running.rows)]

    def _admit(self) -> None:
        room, tokens = self._batch_size - self.running, 0
        parts: dict[str, list[Row]] = {}
        while self.waiting and room > 0:
            tokens += len(self.waiting[0].ask.ids)
            if parts and tokens > PREFILL_TOKENS:
                break
            row, room = self.waiting.popleft(), room - 1
            self._reading.append(row)
            parts.setdefault(row.ask.adapter if row.ask.adapter in self._alone else "", []).append(row)
        for digest, rows in parts.items():
            # A soft prompt stands at a row's very beginning, where a shorter row is filled up.
            for part in [[row] for row in rows] if digest else [rows]:
                self._read(digest, part)

    def _read(self, digest: str, rows: list[Row]) -> None:
        """Read the prompts of some rows, which then run."""
        fresh, cache = Running(self._running[digest].virtual_tokens), RoomyCache()
        whole = [row.ask.echo is not None and row.ask.top is not None for row in rows]
        with self._lent(digest, rows) as loaded:
            logits = read(loaded, [row.ask.ids for row in rows], whole, cache)
        going = []
        for row, own in zip(rows, logits, strict=True):
            row.begin(own)
            going.append(row.ask.limit > 0 and row.take(own[-1], likeliest(own[-1:])[0]))
        fresh.join(rows, cache)
        fresh.keep(going)
        self._reading = [row for row in self._reading if row not in rows]
        if fresh.rows:
            self._running[digest].join(fresh.rows, fresh.cache)

    def _decode(self, digest: str, running: Running) -> None:
        with self._lent(digest, running.rows) as loaded:
            lengths = [running.virtual_tokens + row.length for row in running.rows]
            logits = advance(loaded, [row.next for row in running.rows], lengths, running.cache)
        best = likeliest(logits)
        going = [row.take(own, token) for row, own, token in zip(running.rows, logits, best, strict=True)]
        running.keep(going)

    def _lent(self, digest: str, rows: list[Row]) -> Any:
        if digest:
            return contextlib.nullcontext(self._models.get(self._model, self._alone[digest]))
        return self._models.mixed(self._model, [row.ask.adapter for row in rows])
