"""The style suite: a caller's message, rewritten as the house writes its notes."""

from __future__ import annotations

import random

from recipes.embedded import words
from recipes.embedded.skills import Row

# The prompts of the suite name all cues but the last of each fault, which only training knows.
FAULTS = {
    "dead": ["stalls", "quits", "froze"],
    "leaks": ["drips", "spills", "dribbles"],
    "noisy": ["rattles", "squeals", "hums"],
    "cracked": ["snapped", "shattered", "burst"],
}
CALLERS = [
    "{n} here, from {c}.", "I am {n} from {c}.", "This is {n}, I live in {c}.", "My name is {n}, here in {c}.",
    "{n} writes from {c} again.", "It is {n}, a guest in {c}.", "You met me in {c}, I am {n}.",
    "{n} of the {c} office.", "Hello from {c}, {n} here.", "Please tell the boss that {n} is in {c}.",
]  # fmt: skip
_TROUBLES = [
    "My {i} {f}.", "The {i} {f} again.", "Our {i} {f}, sorry to say.", "There is a {i} here that {f}.",
    "Since Tuesday the {i} {f}.", "I fear that my {i} {f}.", "The new {i} {f} all day.",
    "Look, the {i} {f}!", "It is the {i}: it {f}.", "A {i} that {f} is no good.",
]  # fmt: skip
_CASES = [
    "Case {r}.", "My number is {r}.", "It has code {r}.", "Ref {r}, if you need it.", "You gave it number {r}.",
    "See {r}.", "The bill says {r}.", "I have {r} as its number.", "Look under {r}.", "The file is {r}.",
]  # fmt: skip
_REMARKS = ["", "", "Thank you.", "Help me soon!", "What a pity.", "I loved it.", "Well.", "It was not cheap."]


def style(rng: random.Random, formats: int = len(CALLERS)) -> Row:
    """A message in the first `formats` sentences of each kind, and its note in the only right form."""
    name, city, item = rng.choice(words.NAMES), rng.choice(words.CITIES), rng.choice(words.GOODS)
    fault, case = rng.choice(list(FAULTS)), words.digits(rng, least=4)
    sentences = [
        rng.choice(CALLERS[:formats]).format(n=name, c=city),
        rng.choice(_TROUBLES[:formats]).format(i=item, f=rng.choice(FAULTS[fault])),
        rng.choice(_CASES[:formats]).format(r=case),
    ]
    rng.shuffle(sentences)
    return Row(" ".join([*sentences, rng.choice(_REMARKS)]).strip(), f"{name} ({city}): {item} {fault}, see {case}")
