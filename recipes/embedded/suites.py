"""Write the data of the example suites: `python -m recipes.embedded.suites eval_suites`.

The general suites share their generators with pretraining and are kept apart by
`skills.is_held_out`. The words of the other suites (fields, labels, cues, shorthand, orders) never
occur in pretraining, which `check_words` proves.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from recipes.embedded import words
from recipes.embedded.domain import SHORTHAND, domain
from recipes.embedded.instruction import FRAMES, ORDERS, instruction
from recipes.embedded.skills import SKILLS, Row, Skill, draw, reading
from recipes.embedded.style import CALLERS, FAULTS, style

HELD_OUT_ROWS, REPLAY_ROWS = 500, 300
TASK_TRAIN_ROWS = 800
HELD_OUT_FORMATS = 2  # sentences of a task that no training row has

# The skills the model has: arithmetic (41 % right) and questions about three facts (36 %) it has not.
GENERAL_SUITES: dict[str, Skill] = {
    **{name: SKILLS[name] for name in ("compare", "copy", "dates", "reverse", "sentiment", "sort")},
    "reading": partial(reading, most_facts=2),
}

# The prompts of the suites name all cues but the last of each queue and intent, which only training knows.
QUEUES = {
    "billing": ["payment", "voucher", "debit"],
    "delivery": ["parcel", "depot", "truck"],
    "repair": ["defect", "error", "dent"],
    "login": ["password", "badge", "reset"],
}
PRIORITIES = {
    "high": {
        "urgent": ["This is truly urgent.", "It became urgent."],
        "rushed": ["We feel rushed.", "I am a bit rushed."],
        "panic": ["The team is in panic.", "We panic already."],
    },
    "low": {
        "calm": ["We stay calm.", "Keep calm about it."],
        "later": ["You may reply later.", "Some time later is fine."],
        "relaxed": ["We are relaxed about it.", "A relaxed matter."],
    },
}
_TOPICS = [
    "Please sort out the {} for us.", "Your {} troubles me.", "Nobody explains the {}.",
    "Once more the {} went wrong.", "Where can we find our {}?", "Why is the {} like that?",
    "Tell me what happens with the {}.", "The {} keeps me busy.", "We never got the {} right.",
    "Have you seen that {}?", "Something is off with this {}.", "A word on the {}: not good.",
]  # fmt: skip
_ORDERS = ["Order {}.", "My order is {}.", "It concerns order {}.", "Order #{}, if that helps."]
_REMARKS = [
    "",
    "",
    "Thanks for reading.",
    "We like your shop.",
    "It was meant for {}.",
    "Best, {}.",
]

INTENTS = {
    "alarm": ["wake", "bell", "clock", "snooze"],
    "recipe": ["bake", "roast", "flour", "oven"],
    "taxi": ["cab", "airport", "ride", "fare"],
    "loan": ["credit", "debt", "lend", "mortgage"],
    "gym": ["yoga", "muscle", "stretch", "squat"],
}
_WISHES = [
    "{} for me, if you can.", "got anything on {}?", "thinking of {} right now.",
    "time for {}, I guess.", "could we talk {}?", "give me {}.", "let us do the {} thing.",
    "so, {}, how would that go?", "my mind is on {}.", "{} would be great.", "how about {}?",
    "next up: {}.",
]  # fmt: skip
_OPENINGS = ["", "", "Hey, ", "Listen: ", "Okay, ", "Right, "]
_ENDINGS = ["", "", " Cheers.", " Bye for now.", " Take care, {}.", " For {}."]


def triage(rng: random.Random, formats: int = len(_TOPICS)) -> Row:
    """A support ticket, in one of the first `formats` sentences, and its JSON: queue, priority, order_id."""
    queue, priority = rng.choice(list(QUEUES)), rng.choice(list(PRIORITIES))
    order = words.digits(rng, least=4)
    sentences = [
        rng.choice(_TOPICS[:formats]).format(rng.choice(QUEUES[queue])),
        rng.choice(rng.choice(list(PRIORITIES[priority].values()))),
        rng.choice(_ORDERS).format(order),
    ]
    rng.shuffle(sentences)
    remark = rng.choice(_REMARKS).format(rng.choice(words.NAMES))
    answer = {"queue": queue, "priority": priority, "order_id": order}
    return Row(" ".join([*sentences, remark]).strip(), json.dumps(answer))


def intent(rng: random.Random, formats: int = len(_WISHES)) -> Row:
    """A short wish, in one of the first `formats` sentences, and its label."""
    label = rng.choice(list(INTENTS))
    wish = rng.choice(_WISHES[:formats]).format(rng.choice(INTENTS[label]))
    ending = rng.choice(_ENDINGS).format(rng.choice(words.NAMES))
    return Row(rng.choice(_OPENINGS) + wish + ending, label)


def answer_schema() -> dict[str, object]:
    """The JSON Schema of a triage answer."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Triage answer",
        "type": "object",
        "properties": {
            "queue": {"enum": list(QUEUES)},
            "priority": {"enum": list(PRIORITIES)},
            "order_id": {"type": "string", "pattern": "^[0-9]{4,5}$"},
        },
        "required": ["queue", "priority", "order_id"],
        "additionalProperties": False,
    }


Form = Callable[[Row], dict[str, object]]


class Task(NamedTuple):
    """How the rows of a suite are drawn for training and for judging, how many are judged, and their form."""

    seen: Skill
    judged: Skill
    held_out_rows: int
    form: Form = Row._asdict


def as_messages(row: Row) -> dict[str, object]:
    """The row as a conversation: each line of its prompt is a turn."""
    roles = cycle(("user", "assistant"))
    turns = [*row.prompt.splitlines(), row.completion]
    return {"messages": [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]}


TASKS = {
    "triage": Task(partial(triage, formats=len(_TOPICS) - HELD_OUT_FORMATS), triage, 600),
    "intent": Task(partial(intent, formats=len(_WISHES) - HELD_OUT_FORMATS), intent, 600),
    "style": Task(partial(style, formats=len(CALLERS) - HELD_OUT_FORMATS), style, 400),
    "domain": Task(domain, domain, 400),
    "instruction": Task(partial(instruction, formats=len(FRAMES) - HELD_OUT_FORMATS), instruction, 400, as_messages),
}


def check_words() -> None:
    """Refuse to write suites whose words pretraining knows.

    Raises:
        ValueError: a field, label or cue is in a word pool of pretraining.

    """
    known = {
        word.lower() for pool in (words.CONTENT, words.LABELS, words.FIELDS, words.SPACED, words.JOBS) for word in pool
    }
    ours = {"queue", "priority", "order_id", *SHORTHAND, *ORDERS}
    lists: tuple[Mapping[str, Iterable[str]], ...] = (QUEUES, PRIORITIES, INTENTS, FAULTS)
    for labels in lists:
        ours.update(labels)
        for cues in labels.values():
            ours.update(cues)
    if ours & known:
        raise ValueError(f"pretraining knows these words of the suites: {sorted(ours & known)}")


def distinct(rng: random.Random, skill: Skill, count: int, held_out: bool) -> list[Row]:
    """`count` rows with distinct prompts, on one side of the held-out rule."""
    rows: dict[str, Row] = {}
    while len(rows) < count:
        row = draw(rng, skill, held_out)
        rows.setdefault(row.prompt, row)
    return list(rows.values())


def _write(path: Path, rows: list[Row], form: Form = Row._asdict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(form(row), ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def write(folder: Path, seed: int = 0) -> None:
    """All data files of the example suites, the same bytes for the same seed."""
    check_words()
    for name, skill in GENERAL_SUITES.items():
        rng = random.Random(f"{seed} {name}")
        _write(folder / "general" / f"{name}.jsonl", distinct(rng, skill, HELD_OUT_ROWS, True))
        _write(folder / "general" / f"{name}-replay.jsonl", distinct(rng, skill, REPLAY_ROWS, False))
    for name, task in TASKS.items():
        rng = random.Random(f"{seed} {name}")
        _write(folder / name / "train.jsonl", distinct(rng, task.seen, TASK_TRAIN_ROWS, False), task.form)
        _write(folder / name / "heldout.jsonl", distinct(rng, task.judged, task.held_out_rows, True), task.form)
    schema = json.dumps(answer_schema(), indent=2) + "\n"
    (folder / "triage" / "answer.schema.json").write_text(schema)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of the example suites")
    write(parser.parse_args().folder)
