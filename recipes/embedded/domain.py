"""The domain suite: a warehouse's shorthand, written out; every row combines the same vocabulary anew."""

from __future__ import annotations

import random
import re

from recipes.embedded import words
from recipes.embedded.skills import Row

COLOURS = {"blk": "black", "wht": "white", "grn": "green", "brn": "brown", "ylw": "yellow"}
STATES = {"rts": "ready", "hvy": "heavy", "mt": "empty", "sld": "closed", "wtr": "wet"}
PLACES = {"ex": "from", "cnsg": "to"}
SHORTHAND = {**COLOURS, **STATES, **PLACES, "attn": "for"}


def domain(rng: random.Random) -> Row:
    """A load and one to three remarks on it, in shorthand and in plain words."""
    colour, place, state = (rng.choice(list(codes)) for codes in (COLOURS, PLACES, STATES))
    remarks = [f"{place} {rng.choice(words.CITIES)}", state, f"attn {rng.choice(words.NAMES)}"]
    clauses = [f"{rng.randint(2, 99)} {colour} {rng.choice(words.GOODS)}", *rng.sample(remarks, rng.randint(1, 3))]
    short = ", ".join(clauses)
    return Row(short, re.sub(r"\w+", lambda word: SHORTHAND.get(word[0], word[0]), short))
