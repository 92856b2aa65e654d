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
    default: str | None = None


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
    pairs = [(label, ", ".join(cues)) for label, cues in zip(field.labels, field.cues, strict=True)]
    other, name = field.default, field.name
    match rng.choice(["if", "brackets", "brackets", "set", "arrow", "arrow"]):
        case "if":
            text = f"{name}: " + "; ".join(f"{label} if {cues}" for label, cues in pairs)
            return text + (f"; otherwise {other}." if other else ".")
        case "brackets":
            text = f"{name} is " + ", ".join(f"{label} ({cues})" for label, cues in pairs)
            return text + (f", else {other}." if other else ".")
        case "set":
            text = " ".join(f"Set {name} to {label} for {cues}." for label, cues in pairs)
            return text + (f" Else {other}." if other else "")
        case _:
            text = f"{name}: " + "; ".join(f"{cues} -> {label}" for label, cues in pairs)
            return text + (f"; other -> {other}." if other else ".")


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


def _labelled_field(rng: random.Random, name: str, kind: Kind, easy: bool) -> Field:
    many = kind == "topic"
    count = rng.choice([2, 3, 3] if easy else [2, 3, 3, 4, 4, 5] if many else [2, 2, 3])
    cues_each = rng.choice([1, 1, 2] if easy else [1, 2, 3, 3, 4] if many else [1, 2, 2, 3])
    labels = pick(rng, count + 1, LABELS + CONTENT, pseudo=0.35)
    words = pick(rng, count * cues_each, CONTENT if many else ADJECTIVES + LABELS, pseudo=0.3)
    return Field(
        name,
        kind,
        tuple(labels[:count]),
        tuple(tuple(words[i * cues_each : (i + 1) * cues_each]) for i in range(count)),
        labels[-1] if rng.random() < 0.15 else None,
    )


def draw_task(rng: random.Random, easy: bool = False) -> Task:
    """A task of one field (easy, or a third of the others) up to three."""
    count = 1 if easy else rng.choice([1, 1, 2, 3, 3, 3, 3])
    names = [
        name + "_" + rng.choice(["id", "no", "type", "name", "code"]) if rng.random() < 0.2 else name
        for name in pick(rng, count, FIELDS, pseudo=0.3)
    ]
    if count == 1:
        kinds: list[Kind] = [rng.choice(["topic", "topic", "topic", "level", "number", "person"])]
    else:
        others: list[Kind] = [
            "level",
            "number",
            "level",
            "number",
            "level",
            "number",
            "person",
            "city",
        ]
        kinds = ["topic", *dict.fromkeys(rng.sample(others, count - 1))]
        names = names[: len(kinds)]
        if rng.random() < 0.6:
            rng.shuffle(kinds)
    fields = tuple(
        _labelled_field(rng, name, kind, easy) if kind in ("topic", "level") else Field(name, kind)
        for name, kind in zip(names, kinds, strict=True)
    )
    shapes: list[Shape] = ["plain", "plain"] if count == 1 else ["pipe"]
    shape = rng.choice([*shapes, "json", "json", "json", "json", "equals", "colon"])
    described = [_describe(rng, field) for field in fields]
    asked = _describe_shape(rng, names, shape)
    parts = [asked, *described] if rng.random() < 0.6 else [*described, asked]
    return Task(fields, shape, rng.choice(_INTROS) + " ".join(parts))


def _clause(rng: random.Random, kind: Kind, value: str) -> str:
    return rng.choice(_CLAUSES[kind]).format(v=value, w=pick(rng, 1)[0], a=rng.choice(ADJECTIVES), n=rng.choice(NAMES))


def _value(rng: random.Random, field: Field) -> tuple[str, str]:
    """A value and the text that implies it."""
    if field.kind == "number":
        value = rng.choice(["", "", "", "", "A-", "K", "TX-"]) + digits(rng)
        return value, _clause(rng, "number", value)
    if field.kind in ("person", "city"):
        pool = NAMES if field.kind == "person" else CITIES
        value = pseudo_word(rng).capitalize() if rng.random() < 0.3 else rng.choice(pool)
        return value, _clause(rng, field.kind, value)
    if field.default and rng.random() < 1 / (len(field.labels) + 1):
        return field.default, _clause(rng, field.kind, pick(rng, 1)[0])
    index = rng.randrange(len(field.labels))
    return field.labels[index], _clause(rng, field.kind, rng.choice(field.cues[index]))


def _turn(rng: random.Random, task: Task, easy: bool) -> Row:
    pairs, clauses = [], []
    for field in task.fields:
        value, clause = _value(rng, field)
        pairs.append((field.name, value))
        clauses.append(clause)
    kinds = {field.kind for field in task.fields}
    if "number" not in kinds and rng.random() < 0.2:
        clauses.append(_clause(rng, "number", digits(rng)))
    if "person" not in kinds and rng.random() < 0.15:
        clauses.append(_clause(rng, "person", rng.choice(NAMES)))
    if rng.random() < (0.1 if easy else 0.5):
        clauses.append(rng.choice(_FILLERS))
    rng.shuffle(clauses)
    stop = rng.choice([", ", ". ", ". ", " and "])
    if stop == ". " and rng.random() < 0.7:
        clauses = [clause[:1].upper() + clause[1:] for clause in clauses]
    text = stop.join(clauses)
    if rng.random() < 0.5:
        text = text[:1].upper() + text[1:]
    return Row(text + rng.choice(["", "."]), render(task.shape, pairs))


def described_task(rng: random.Random, easy: bool | None = None) -> Conversation:
    """A described task and one to six turns; a sixth of the long ones hide the description."""
    if easy is None:
        easy = rng.random() < 0.25
    task = draw_task(rng, easy)
    turns = [_turn(rng, task, easy) for _ in range(rng.choice([1, 2, 3, 4, 4, 5, 6]))]
    if len(turns) >= 4 and rng.random() < 0.17:
        # without the description the first answers cannot be known
        return Conversation(rng.choice(_VAGUE), turns, supervised_from=2)
    return Conversation(task.system, turns)


def table(rng: random.Random) -> Conversation:
    """A word table in the system prompt, one or several words an entry: pure look-up."""
    size, width = rng.randint(2, 6), rng.choice([1, 1, 2, 3])
    keys = pick(rng, size * width)
    values = pick(rng, size, LABELS + CONTENT)
    groups = [", ".join(keys[i * width : (i + 1) * width]) for i in range(size)]
    match rng.choice(["arrow", "equals", "brackets"]):
        case "arrow":
            rows = [f"{group} -> {value}" for group, value in zip(groups, values, strict=True)]
        case "equals":
            rows = [f"{group} = {value}" for group, value in zip(groups, values, strict=True)]
        case _:
            rows = [f"{value} ({group})" for group, value in zip(groups, values, strict=True)]
    turns = []
    for _ in range(rng.randint(3, 8)):
        index = rng.randrange(len(keys))
        asked = keys[index] if rng.random() < 0.5 else _clause(rng, "topic", keys[index])
        turns.append(Row(asked, values[index // width]))
    lead = rng.choice(["Use the table: ", "Map words: ", "Table. "])
    return Conversation(f"{lead}{'; '.join(rows)}.", turns)


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
