"""The instruction suite: the house's own orders for skills the model has, mixed; some hold for the next turn."""

from __future__ import annotations

import random

from recipes.embedded.skills import SKILLS, Row

# The order, the skill it asks for, and how pretraining asks for that.
ORDERS = {
    "invert": ("reverse", "Reverse"),
    "arrange": ("sort", "Sort"),
    "echo": ("copy", "Repeat"),
    "stamp": ("dates", "Write as ISO date"),
    "crown": ("compare", "Which is larg"),
    "rate": ("sentiment", "Sentiment"),
}
# The last two are for held-out rows only.
FRAMES = ["{O}: {x}", "Please {o}: {x}", "Now {o}: {x}", "{O} for me: {x}", "Could you {o}: {x}", "{O}, please: {x}"]
AGAIN = ["And this: {x}", "Next: {x}", "Same again: {x}"]


def instruction(rng: random.Random, formats: int = len(FRAMES)) -> Row:
    """An order in one of the first `formats` sentences, and its answer.

    A line of the prompt is a turn: in one row of five the order was given in an earlier turn.
    """
    order = rng.choice(list(ORDERS))
    frame = rng.choice(FRAMES[:formats])
    asked, answer = _bare(rng, order)
    text = frame.format(o=order, O=order.capitalize(), x=asked)
    if rng.random() < 0.8:
        return Row(text, answer)
    asked_next, answer_next = _bare(rng, order)
    return Row("\n".join([text, answer, rng.choice(AGAIN).format(x=asked_next)]), answer_next)


def _bare(rng: random.Random, order: str) -> Row:
    """What the order's skill works on, without how pretraining asks for it."""
    skill, lead = ORDERS[order]
    while True:
        row = SKILLS[skill](rng)
        if row.prompt.startswith(lead):
            return Row(row.prompt.split(": ", 1)[1], row.completion)
