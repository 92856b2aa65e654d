"""The general skills: small question-and-answer rows, each drawn from a space of thousands."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import NamedTuple

from recipes.embedded.words import (
    ANIMALS,
    CITIES,
    COLORS,
    CONTENT,
    JOBS,
    MONTHS,
    NAMES,
    NEGATIVE,
    NOUNS,
    POSITIVE,
    pick,
)


class Row(NamedTuple):
    """One question and its only right answer."""

    prompt: str
    completion: str


HELD_OUT_ONE_IN = 5


def is_held_out(prompt: str) -> bool:
    """Whether pretraining must never see this prompt: a rule on the text, so both sides agree."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]) % HELD_OUT_ONE_IN == 0


_SUMS = ["What is {} + {}?", "{} + {} =", "Add {} and {}.", "{} plus {} is",
         "How much is {} + {}?", "Compute {} + {}.", "The sum of {} and {}:", "{} + {}",
         "Find {} + {}."]  # fmt: skip
_DIFFERENCES = ["What is {} - {}?", "{} - {} =", "{} minus {} is", "How much is {} - {}?",
                "Compute {} - {}.", "From {} take {}.", "{} less {}:", "{} - {}",
                "Find {} - {}."]  # fmt: skip


def arithmetic(rng: random.Random) -> Row:
    """Addition and subtraction of numbers up to 19, never below zero."""
    a, b = rng.randint(0, 19), rng.randint(0, 19)
    if rng.random() < 0.6:
        return Row(rng.choice(_SUMS).format(a, b), str(a + b))
    a, b = max(a, b), min(a, b)
    return Row(rng.choice(_DIFFERENCES).format(a, b), str(a - b))


def sort(rng: random.Random) -> Row:
    """Two to four numbers below 100 into ascending order."""
    numbers = rng.sample(range(100), rng.randint(2, 4))
    lead = rng.choice(["Sort: ", "Sort ascending: ", "Put in order: "])
    return Row(lead + " ".join(map(str, numbers)), " ".join(map(str, sorted(numbers))))


def reverse(rng: random.Random) -> Row:
    """Two to four words in the opposite order."""
    words = pick(rng, rng.randint(2, 4), pseudo=0.05)
    lead = rng.choice(["Reverse the list: ", "Reverse: ", "Write backwards: "])
    return Row(lead + ", ".join(words), ", ".join(reversed(words)))


_RELATIONS = [  # statement, question for the value, question for the person, values
    ("{n} lives in {v}.", "Where does {n} live?", "Who lives in {v}?", CITIES),
    ("{n} has a {v}.", "What does {n} have?", "Who has a {v}?", ANIMALS + NOUNS),
    ("{n} likes {v}.", "What does {n} like?", "Who likes {v}?", COLORS + NOUNS[:30]),
    ("{n} works as a {v}.", "What is the job of {n}?", "Who works as a {v}?", JOBS),
]


def reading(rng: random.Random, most_facts: int = 3) -> Row:
    """One question about one to `most_facts` given facts."""
    people = pick(rng, rng.randint(1, most_facts), NAMES, pseudo=0.05)
    relations = rng.sample(_RELATIONS, rng.choice([1, 1, 2]))
    values: list[str] = []
    facts = []
    for person in people:
        relation = rng.choice(relations)
        value = rng.choice([v for v in relation[3] if v not in values])
        values.append(value)
        facts.append((relation, person, value))
    text = " ".join(relation[0].format(n=n, v=v) for relation, n, v in facts)
    relation, person, value = rng.choice(facts)
    if rng.random() < 0.7:
        return Row(f"{text} {relation[1].format(n=person)}", value)
    return Row(f"{text} {relation[2].format(v=value)}", person)


def compare(rng: random.Random) -> Row:
    """The larger or smaller of two or three numbers below 1000."""
    limit = rng.choice([100, 100, 1000])
    numbers = rng.sample(range(limit), rng.choice([2, 2, 3]))
    best, stem = rng.choice([(max, "larg"), (min, "small")])
    ask = stem + ("er" if len(numbers) == 2 else "est")
    listed = ", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}"
    return Row(f"Which is {ask}: {listed}?", str(best(numbers)))


def dates(rng: random.Random) -> Row:
    """A date from words to ISO 8601, or back."""
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1990, 2030)
    iso, name = f"{year}-{month:02d}-{day:02d}", MONTHS[month - 1]
    if rng.random() < 0.8:
        spelled = rng.choice([f"{day} {name} {year}", f"{name} {day}, {year}"])
        return Row(f"Write as ISO date: {spelled}", iso)
    return Row(f"Write in words: {iso}", f"{day} {name} {year}")


_SUBJECTS = "soup film hotel food book song service room game cake trip show staff coffee garden".split()
_OPINIONS = ["The {s} was {w}.", "I think the {s} is {w}.", "We found the {s} {w}.",
             "What a day, the {s} was {w}.", "{p} says the {s} was {w}."]  # fmt: skip


def sentiment(rng: random.Random) -> Row:
    """Positive or negative, now and then turned round by a "not"."""
    positive, negated = rng.random() < 0.5, rng.random() < 0.12
    word = rng.choice(POSITIVE if positive != negated else NEGATIVE)
    degree = "not " if negated else rng.choice(["", "", "really ", "so ", "quite "])
    opinion = rng.choice(_OPINIONS).format(s=rng.choice(_SUBJECTS), w=degree + word, p=rng.choice(NAMES))
    lead = rng.choice(["Sentiment: ", "Is this positive or negative? ", "Sentiment of: "])
    return Row(lead + opinion, "positive" if positive else "negative")


def copy(rng: random.Random) -> Row:
    """One to five words, said again."""
    text = " ".join(pick(rng, rng.randint(1, 5), pseudo=0.5))
    return Row(rng.choice(["Repeat: ", "Copy this: ", "Say again: "]) + text, text)


def nth(rng: random.Random) -> Row:
    """The first to fourth item of a list."""
    words = pick(rng, rng.randint(3, 4), CONTENT, pseudo=0.05)
    index = rng.randrange(len(words))
    return Row(f"{['First', 'Second', 'Third', 'Fourth'][index]} item: {', '.join(words)}", words[index])


Skill = Callable[[random.Random], Row]

SKILLS: dict[str, Skill] = {
    "arithmetic": arithmetic,
    "compare": compare,
    "copy": copy,
    "dates": dates,
    "nth": nth,
    "reading": reading,
    "reverse": reverse,
    "sentiment": sentiment,
    "sort": sort,
}


def draw(rng: random.Random, skill: Skill, held_out: bool) -> Row:
    """The skill's next row on the asked side of the held-out rule."""
    while True:
        row = skill(rng)
        if is_held_out(row.prompt) == held_out:
            return row
