"""Meta-tasks: a task described in the system prompt, then turns that follow the description.

Fields, labels, cue words and formats are drawn anew for every conversation, so the only way to
answer is to read the description (or the earlier turns, which serve as few-shot examples).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Literal

from recipes.embedded.skills import Row
from recipes.embedded.words import (
    ADJECTIVES,
    CITIES,
    CONTENT,
    FIELDS,
    LABELS,
    NAMES,
    digits,
    pick,
    pseudo_word,
)

Kind = Literal["topic", "level", "number", "person", "city"]
Shape = Literal["json", "equals", "pipe", "colon", "plain"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A system prompt and turns; turns before `supervised_from` carry no loss."""

    system: str
    turns: list[Row]
    supervised_from: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """One key of the answer; topics and levels have labels, each with its cue words."""

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()
    cues: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """What a conversation asks for: its fields in answer order and the answer's format."""

    fields: tuple[Field, ...]
    shape: Shape
    system: str


_CLAUSES: dict[Kind, list[str]] = {
    "topic": [
        "the {v} again", "about the {v}", "there is a {v} here", "my {v} is {a}", "a {v} and a {w}",
        "{n} asked for the {v}", "a {v} and nothing else", "I saw the {v}", "we have one {v}",
        "the {a} {v}", "it was {v}", "I need a {v}", "something with {v}", "the {v} did not work",
        "can you look at my {v}", "the {w} and the {v}", "{w} was {v} for {n}", "{n} says {v}",
        "what does {v} do", "is there {v} in the {w}", "I want to {v} it", "it is all {v}",
        "my {w} needs {v}", "we talked of {v} with {n}", "{w} {v}", "{v}", "no {v} for me",
        "it will {v} soon", "how do I {v} this", "some {v} that I have",
    ],
    "level": [
        "this is {v}", "it feels {v}", "{v} please", "I want it {v}", "very {v}", "{v} as always",
        "it should be {v}", "make it {v}", "we are {v}", "{v}", "I am {v} now", "do it {v}",
    ],
    "number": [
        "number {v}", "ref {v}", "code {v}", "no {v}", "#{v}", "item {v}", "it has {v}", "see {v}",
        "case {v}", "my number is {v}", "for {v}", "it is {v}", "(code {v})", "it says #{v}", "{v}",
    ],
    "person": ["I am {v}", "my name is {v}", "{v} here", "{v} writes", "this is {v}"],
    "city": ["from {v}", "I live in {v}", "here in {v}", "sent to {v}"],
}  # fmt: skip
_FILLERS = (
    "thank you;hello;good morning;hi;well;ok then;as you know;last week;today I write;sorry;so;"
    "I hope you are well;can you help;thanks in advance;good day to you all;it has been a while"
).split(";")
_DESCRIPTIONS: dict[Kind, list[str]] = {
    "number": ["{f} is the number.", "{f}: the number in the text.", "{f} = the number or code."],
    "person": ["{f} is the name.", "{f}: name of the person.", "{f} = who writes."],
    "city": ["{f} is the city.", "{f}: the city in the text.", "{f} = the place."],
}
_INTROS = ["", "", "", "Read the message. ", "You label messages. ", "Look at the text. "]
_VAGUE = ["Label the message.", "Read the message and reply.", "Answer like the examples.",
          "Do the task.", "Classify.", ""]  # fmt: skip


def _describe(rng: random.Random, field: Field) -> str:
    if field.kind not in ("topic", "level"):
        return rng.choice(_DESCRIPTIONS[field.kind]).format(f=field.name)
    return rng.choice([f"{field.name}: {{}}.", f"{field.name}: {{}}.", f"For {field.name} {{}}."]).format(
        glossary(rng, list(zip(field.labels, field.cues, strict=True)))
    )


def glossary(rng: random.Random, entries: list[tuple[str, tuple[str, ...]]]) -> str:
    """Labels and their cue words, mostly cue first: what follows a word is what induction finds."""
    match rng.choice(["pairs"] * 7 + ["lists", "brackets", "if"]):
        case "pairs":
            joint, stop = rng.choice(["=", "=", " = ", " -> ", " -> ", ":"]), rng.choice([", ", ", ", "; "])
            pairs = [f"{cue}{joint}{label}" for label, cues in entries for cue in cues]
            if rng.random() < 0.3:
                rng.shuffle(pairs)
            return stop.join(pairs)
        case "lists":
            return "; ".join(f"{', '.join(cues)} -> {label}" for label, cues in entries)
        case "brackets":
            return ", ".join(f"{label} ({', '.join(cues)})" for label, cues in entries)
        case _:
            return "; ".join(f"{label} if {', '.join(cues)}" for label, cues in entries)


def _describe_shape(rng: random.Random, names: list[str], shape: Shape) -> str:
    listed = ", ".join(names)
    if shape == "plain":
        return rng.choice([f"Reply with the {listed}.", f"Answer with the {listed} only.", "Reply with one word."])
    if shape == "json":
        shown = ", ".join(f'"{name}": ...' for name in names)
        return rng.choice([
            f"Reply with JSON with keys {listed}.",
            f"Reply in JSON: {{{shown}}}.",
            f"Output a JSON object with {' and '.join(names)}.",
        ])  # fmt: skip
    return f"Reply as {render(shape, [(name, '...') for name in names])}."


def render(shape: Shape, pairs: list[tuple[str, str]]) -> str:
    """The answer's text: keys and values in one of the formats."""
    match shape:
        case "json":
            return json.dumps(dict(pairs))
        case "equals":
            return "; ".join(f"{key}={value}" for key, value in pairs)
        case "pipe":
            return " | ".join(value for _, value in pairs)
        case "colon":
            return ", ".join(f"{key}: {value}" for key, value in pairs)
        case "plain":
            return pairs[0][1]


def _labelled_field(rng: random.Random, name: str, kind: Kind) -> Field:
    many = kind == "topic"
    count = rng.choice([2, 3, 3, 4, 4, 5] if many else [2, 2, 3])
    cues_each = rng.choice([1, 1, 2, 3, 3])
    labels = pick(rng, count, LABELS + CONTENT, pseudo=0.35)
    words = pick(rng, count * cues_each, CONTENT if many else ADJECTIVES + LABELS, pseudo=0.45)
    cues = tuple(tuple(words[i * cues_each : (i + 1) * cues_each]) for i in range(count))
    return Field(name, kind, tuple(labels), cues)


def draw_task(rng: random.Random, most_fields: int = 3) -> Task:
    """A task of one to `most_fields` fields."""
    count = rng.choice([1, 1, 1, 2, 2, 3, 3][: (0, 3, 5, 7)[most_fields]])
    names = [
        name + "_" + rng.choice(["id", "no", "type", "name", "code"]) if rng.random() < 0.2 else name
        for name in pick(rng, count, FIELDS, pseudo=0.3)
    ]
    if count == 1:
        kinds: list[Kind] = [rng.choice(["topic", "topic", "topic", "topic", "level", "level", "number", "person"])]
    else:
        others: list[Kind] = ["level", "level", "level", "number", "number", "number", "person", "city"]
        kinds = ["topic", *dict.fromkeys(rng.sample(others, count - 1))]
        names = names[: len(kinds)]
        if rng.random() < 0.6:
            rng.shuffle(kinds)
    fields = tuple(
        _labelled_field(rng, name, kind) if kind in ("topic", "level") else Field(name, kind)
        for name, kind in zip(names, kinds, strict=True)
    )
    shapes: list[Shape] = ["plain", "plain", "plain", "plain"] if len(kinds) == 1 else ["pipe"]
    shape = rng.choice([*shapes, "json", "json", "json", "json", "equals", "colon"])
    described = [_describe(rng, field) for field in fields]
    asked = _describe_shape(rng, names, shape)
    parts = [asked, *described] if rng.random() < 0.6 else [*described, asked]
    return Task(fields, shape, rng.choice(_INTROS) + " ".join(parts))


def _clause(rng: random.Random, kind: Kind, value: str) -> str:
    return rng.choice(_CLAUSES[kind]).format(v=value, w=pick(rng, 1)[0], a=rng.choice(ADJECTIVES), n=rng.choice(NAMES))


def _value(rng: random.Random, field: Field, bare: bool) -> tuple[str, str]:
    """A value and the text that implies it."""
    if field.kind == "number":
        value = rng.choice(["", "", "", "", "A-", "K", "TX-"]) + digits(rng)
        return value, _clause(rng, "number", value)
    if field.kind in ("person", "city"):
        pool = NAMES if field.kind == "person" else CITIES
        value = pseudo_word(rng).capitalize() if rng.random() < 0.3 else rng.choice(pool)
        return value, _clause(rng, field.kind, value)
    index = rng.randrange(len(field.labels))
    cue = rng.choice(field.cues[index])
    return field.labels[index], cue if bare else _clause(rng, field.kind, cue)


def _turn(rng: random.Random, task: Task, bare: bool) -> Row:
    pairs, clauses = [], []
    for field in task.fields:
        value, clause = _value(rng, field, bare)
        pairs.append((field.name, value))
        clauses.append(clause)
    if not bare:
        kinds = {field.kind for field in task.fields}
        if "number" not in kinds and rng.random() < 0.2:
            clauses.append(_clause(rng, "number", digits(rng)))
        if "person" not in kinds and rng.random() < 0.15:
            clauses.append(_clause(rng, "person", rng.choice(NAMES)))
        if rng.random() < 0.4:
            clauses.append(rng.choice(_FILLERS))
    rng.shuffle(clauses)
    stop = rng.choice([", ", ". ", ". ", " and "])
    if stop == ". " and rng.random() < 0.7:
        clauses = [clause[:1].upper() + clause[1:] for clause in clauses]
    text = stop.join(clauses)
    if rng.random() < 0.5 and not bare:
        text = text[:1].upper() + text[1:]
    return Row(text + rng.choice(["", "."]), render(task.shape, pairs))


def described_task(rng: random.Random, most_fields: int = 3, bare_share: float = 0.1) -> Conversation:
    """A described task and two to seven turns; a tenth of the long ones hide the description.

    Args:
        rng: where it is drawn from.
        most_fields: the most fields an answer has.
        bare_share: how often the messages are cue words and nothing else.
    """
    task = draw_task(rng, most_fields)
    bare = rng.random() < bare_share
    count = rng.choice([2, 3, 4, 5, 6, 7] if len(task.fields) < 3 else [1, 2, 2, 3, 3, 4])
    turns = [_turn(rng, task, bare) for _ in range(count)]
    if len(turns) >= 5 and rng.random() < 0.1:
        # without the description the first answers cannot be known
        return Conversation(rng.choice(_VAGUE), turns, supervised_from=2)
    return Conversation(task.system, turns)


def table(rng: random.Random, bare_share: float = 0.5, ease: float = 0.0) -> Conversation:
    """A glossary as the system prompt: pure look-up.

    Args:
        rng: where it is drawn from.
        bare_share: how often the messages are a cue word and nothing else.
        ease: how often the glossary is short, of one cue a label and of known words only.
    """
    easy = rng.random() < ease
    size, width = (rng.randint(2, 4), 1) if easy else (rng.randint(2, 5), rng.choice([1, 2, 2, 3]))
    pseudo = 0.0 if easy else 0.4
    keys = pick(rng, size * width, pseudo=pseudo)
    values = pick(rng, size, LABELS + CONTENT, pseudo)
    entries = [(value, tuple(keys[i * width : (i + 1) * width])) for i, value in enumerate(values)]
    bare = rng.random() < bare_share
    turns = []
    for _ in range(rng.randint(5, 10)):
        index = rng.randrange(len(keys))
        turns.append(Row(keys[index] if bare else _clause(rng, "topic", keys[index]), values[index // width]))
    lead = rng.choice(["Use the table: ", "Map words: ", "", ""])
    return Conversation(f"{lead}{glossary(rng, entries)}.", turns)


def record(rng: random.Random) -> Conversation:
    """Records written in another format, sometimes with fewer fields or in another order."""
    names = pick(rng, rng.randint(1, 4), FIELDS)
    wanted = names if rng.random() < 0.5 else rng.sample(names, rng.randint(1, len(names)))
    spoken: dict[Shape, str] = {"json": "JSON", "equals": "key=value pairs",
                                 "pipe": "values split by |", "colon": "key: value"}  # fmt: skip
    into: Shape = rng.choice(["json", "json", "equals", "pipe", "colon"])
    sources: list[Shape | Literal["sentence"]] = ["equals", "colon", "json", "sentence"]
    source = rng.choice(sources)
    turns = []
    for _ in range(rng.randint(2, 4)):
        values = {name: rng.choice([pick(rng, 1, pseudo=0.4)[0], digits(rng), rng.choice(NAMES)]) for name in names}
        if source == "sentence":
            asked = ", ".join(f"{name} is {value}" for name, value in values.items())
        else:
            asked = render(source, list(values.items()))
        turns.append(Row(asked, render(into, [(name, values[name]) for name in wanted])))
    lead = rng.choice(["Rewrite the record as", "Convert to", "Format as"])
    only = f" with {', '.join(wanted)}" if wanted != names else ""
    return Conversation(f"{lead} {spoken[into]}{only}.", turns)
