"""The instruction suite: new orders for skills the model has, mixed, some about the answer before."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from recipes.embedded import words
from recipes.embedded.skills import Row
from recipes.embedded.words import pick

# The last two are for held-out rows.
FRAMES = [
    "{O}: {x}", "Please {o}: {x}", "Now {o}: {x}", "Could you {o}: {x}", "{O}, please: {x}", "{O} for me: {x}",
    "I want you to {o}: {x}", "{O} if you can: {x}",
]  # fmt: skip
AGAIN = ["Now {o}.", "Then {o}, please.", "Good. {O} now."]


class Order(NamedTuple):
    """How a skill is asked for, and how what it works on and the answer are drawn."""

    text: str
    draw: Callable[[random.Random], Row]


def _words(rng: random.Random) -> list[str]:
    return pick(rng, rng.randint(3, 4), pseudo=0.05)


def _listed(act: Callable[[list[str]], list[str]]) -> Callable[[random.Random], Row]:
    """Draw a list of words and what becomes of it."""

    def row(rng: random.Random) -> Row:
        items = _words(rng)
        return Row(", ".join(items), ", ".join(act(items)))

    return row


def _numbers(rng: random.Random) -> Row:
    asked = rng.sample(range(100), rng.randint(2, 4))
    return Row(" ".join(map(str, asked)), " ".join(map(str, sorted(asked))))


def _extreme(best: Callable[[list[int]], int]) -> Callable[[random.Random], Row]:
    """Draw two or three numbers and one of them."""

    def row(rng: random.Random) -> Row:
        asked = rng.sample(range(100), rng.randint(2, 3))
        return Row(", ".join(map(str, asked[:-1])) + f" or {asked[-1]}", str(best(asked)))

    return row


def _date(rng: random.Random) -> Row:
    day, month, year = rng.randint(1, 28), rng.randrange(12), rng.randint(1990, 2030)
    name = words.MONTHS[month]
    return Row(rng.choice([f"{day} {name} {year}", f"{name} {day}, {year}"]), f"{year}-{month + 1:02d}-{day:02d}")


ORDERS = [
    Order("invert", _listed(lambda items: items[::-1])),
    Order("pick the head", _listed(lambda items: items[:1])),
    Order("pick the tail", _listed(lambda items: items[-1:])),
    Order("echo", _listed(lambda items: items)),
    Order("arrange", _numbers),
    Order("pick the peak", _extreme(max)),
    Order("pick the dip", _extreme(min)),
    Order("stamp", _date),
]


def instruction(rng: random.Random, formats: int = len(FRAMES)) -> Row:
    """An order in one of the first `formats` sentences and its answer.

    A line of the prompt is a turn: one in five rows goes on from the answer before.
    """
    if rng.random() < 0.2:
        return _again(rng)
    order = rng.choice(ORDERS)
    asked, answer = order.draw(rng)
    return Row(rng.choice(FRAMES[:formats]).format(o=order.text, O=order.text.capitalize(), x=asked), answer)


def _again(rng: random.Random) -> Row:
    items = _words(rng)
    order, answer = rng.choice(
        [("invert", ", ".join(items)), ("pick the head", items[-1]), ("pick the tail", items[0])]
    )
    again = rng.choice(AGAIN).format(o=order, O=order.capitalize())
    return Row(f"Invert: {', '.join(items)}\n{', '.join(items[::-1])}\n{again}", answer)
