"""One row of a served batch: what is asked, and the pieces of its answer. Plain data, without torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ask:
    """What one row is to answer, and how.

    Args:
        adapter: digest of the adapter, empty for the base model.
        ids: tokens of the prompt.
        limit: new tokens at most.
        ends: tokens that end the answer.
        stop: texts before which the answer ends.
        paragraph: whether a blank line ends the answer, too, and blanks before it are left out.
        temperature: 0 takes the likeliest token.
        top_p: only the likeliest tokens that have this probability together are drawn from.
        seed: equal seeds draw equally, whoever else is asking.
        top: how many of the likeliest tokens are told at each place; None for no likelihoods at all.
        echo: what the answer begins with; None for nothing. Then likelihoods are told of the prompt, too.
    """

    adapter: str
    ids: tuple[int, ...]
    limit: int
    ends: frozenset[int]
    stop: tuple[str, ...] = ()
    paragraph: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    seed: str = ""
    top: int | None = None
    echo: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A token, where it begins in the answer's text, and how likely it was in nats.

    ``logprob`` is None for a prompt's first token, before which nothing stands; ``top`` are the likeliest
    tokens there, best first.
    """

    text: str
    offset: int
    logprob: float | None
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a step adds to an answer.

    ``finish`` is empty until the last piece: then ``stop``, ``length`` or ``error``, with ``error`` in one line.
    ``made`` counts new tokens so far.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    finish: str = ""
    error: str = ""
    made: int = 0
