"""From a request to its rows, and from their pieces back."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from jinja2 import TemplateError
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from pytest_finetune.engine.asking import Ask, Piece
from pytest_finetune.engine.serving import Serving
from pytest_finetune.errors import one_line
from pytest_finetune.serve import responses
from pytest_finetune.serve.meters import Visit
from pytest_finetune.serve.requests import Prompt, Refused, Request
from pytest_finetune.wire import DONE


def rows(serving: Serving, request: Request, digest: str) -> list[Ask]:
    """Return the rows of a request, ``n`` of each prompt after another; it takes as long as tokenizing does.

    Raises:
        Refused: a prompt does not fit the model.
    """
    count = len(request.prompts) * request.n
    if count > serving.queue:
        raise Refused(400, f"{count} answers are more than the {serving.queue} that may wait; ask in parts", "n")
    asks = []
    seed = secrets.token_hex(8) if request.seed is None else str(request.seed)
    for prompt in request.prompts:
        ids, text = _read(serving, prompt)
        ends, paragraph = serving.ends(digest, prompt.turns)
        limit = _limit(serving, request, digest, len(ids))
        asks += [
            Ask(
                adapter=digest,
                ids=ids,
                limit=limit,
                ends=ends,
                stop=request.stop,
                paragraph=paragraph,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=f"{seed} {index}",
                top=request.logprobs,
                echo=text if request.echo else None,
            )
            for index in range(request.n)
        ]
    return asks


def _read(serving: Serving, prompt: Prompt) -> tuple[tuple[int, ...], str]:
    """Return a prompt's tokens, and its text as ``echo`` repeats it."""
    if prompt.ids:
        if max(prompt.ids) >= serving.vocabulary:
            raise Refused(400, f"prompt: token {max(prompt.ids)} is not one of {serving.vocabulary}", "prompt")
        return prompt.ids, serving.tokenizer.decode(prompt.ids)
    try:
        ids = serving.prompt(prompt.turns)
    except TemplateError as error:
        reason = one_line(error, 200)
        raise Refused(400, f"messages: the model's chat template takes them not: {reason}", "messages") from None
    if not ids:
        raise Refused(400, "the prompt is empty, and this model has no token to begin with")
    return ids, prompt.turns[-1].content


def _limit(serving: Serving, request: Request, digest: str, length: int) -> int:
    """Return how many tokens an answer may have."""
    context = serving.context_tokens(digest)
    limit = max(1, context - length) if request.max_tokens is None else request.max_tokens
    if length + limit > context:
        raise Refused(
            400,
            f"a prompt of {length} tokens and {limit} new ones exceed the model's context of {context}; "
            "shorten the prompt, or lower max_tokens",
            "messages" if request.chat else "prompt",
            "context_length_exceeded",
        )
    return limit


class Answering:
    """The rows of one request while they are answered. Belongs to one event loop.

    Raises:
        Busy: too many wait.
    """

    def __init__(self, serving: Serving, asks: list[Ask]) -> None:
        self.lengths = [len(ask.ids) for ask in asks]
        self.made = [0] * len(asks)
        self.done = self.failed = False
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._rows = serving.submit(asks, [partial(self._say, index) for index in range(len(asks))])

    def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        """Yield each row's pieces as they come, by its number."""
        return self._all()

    def leave(self) -> None:
        """Nobody waits any more: the rows end at the next step."""
        for row in self._rows:
            row.gone = True

    async def _all(self) -> AsyncIterator[tuple[int, Piece]]:
        left = len(self._rows)
        while left:
            index, piece = await self._pieces.get()
            self.made[index] = piece.made
            left -= bool(piece.finish)
            self.failed = self.failed or piece.finish == "error"
            self.done = not left and not self.failed
            yield index, piece

    def _say(self, index: int, piece: Piece) -> None:
        """Take a piece, in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server is stopping
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))


@dataclass
class Answer:
    """A request, and its answer while it comes."""

    request: Request
    form: responses.Form
    answering: Answering
    visit: Visit

    @property
    def tokens(self) -> tuple[int, int]:
        """Of the prompts, and made so far."""
        read = self.answering.lengths[:: self.request.n]
        return sum(read), sum(self.answering.made)

    async def whole(self, receive: Receive) -> dict[str, Any]:
        """Return the answer when all of it is there.

        Args:
            receive: says when the client goes away, and nothing else any more.

        Raises:
            Refused: the engine failed.
            ClientDisconnect: nobody waits any more.
        """
        answer, gone = asyncio.ensure_future(self._collected()), asyncio.ensure_future(receive())
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            return self.form.whole(answer.result(), responses.usage(*self.tokens))
        finally:
            answer.cancel()
            gone.cancel()
            self.answering.leave()

    async def events(self) -> AsyncIterator[str]:
        """Yield the answer as server-sent events."""
        usage = self.request.usage
        for index in range(len(self.answering.made) if self.request.chat else 0):
            yield responses.event(self.form.role(index, usage))
        async for index, piece in self.answering:
            self.visit.piece()
            if piece.finish == "error":
                yield responses.event(responses.error(piece.error, 500))
                return
            if piece.text or piece.tokens or piece.finish:
                yield responses.event(self.form.chunk(index, piece, usage))
        if usage:
            yield responses.event(self.form.end(responses.usage(*self.tokens)))
        yield responses.event(DONE)

    async def _collected(self) -> list[list[Piece]]:
        choices: list[list[Piece]] = [[] for _ in self.answering.made]
        async for index, piece in self.answering:
            self.visit.piece()
            if piece.finish == "error":
                raise Refused(500, piece.error)
            choices[index].append(piece)
        return choices


class Stream(StreamingResponse):
    """An answer as server-sent events; its rows end when its client goes away."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.events(), media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            answering = self._answer.answering
            status = 200 if answering.done else 500 if answering.failed else 499
            self._answer.visit.end(status, *self._answer.tokens)
            answering.leave()
