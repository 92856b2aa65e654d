"""Sample rows of each kind of task, drawn by a seed, that the embedded model can learn and no prompt tells it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

TRAIN_ROWS, HELD_OUT_ROWS, GENERAL_ROWS, REPLAY_ROWS = 600, 440, 300, 300

NAMES = "Anna Ben Carla David Eva Frank Gina Henry Ines Kira Leo Maria Olga Paul Rosa Tina".split()
CITIES = "Oslo Rome Paris London Berlin Madrid Lisbon Vienna Prague Dublin Athens Cairo".split()
GOODS = "lamp stove pump printer radio camera watch phone motor bike mirror window bottle chair desk table".split()
MONTHS = "January February March April May June July August September October November December".split()

QUEUES = {
    "billing": ["payment", "voucher", "debit"],
    "delivery": ["parcel", "depot", "truck"],
    "repair": ["defect", "error", "dent"],
    "login": ["password", "badge", "reset"],
}
PRIORITIES = {"high": ["It became urgent.", "We feel rushed."], "low": ["Keep calm about it.", "You may reply later."]}
TICKETS = [
    "Please sort out the {} for us.", "Your {} troubles me.", "Nobody explains the {}.", "Where can we find our {}?",
    "Once more the {} went wrong.", "Why is the {} like that?", "The {} keeps me busy.", "We never got the {} right.",
    "Have you seen that {}?", "A word on the {}: not good.",
]  # fmt: skip
FAULTS = {"dead": ["stalls", "quits"], "leaks": ["drips", "spills"], "cracked": ["snapped", "shattered"]}
SHORTHAND = {
    "blk": "black", "wht": "white", "grn": "green", "ylw": "yellow", "hvy": "heavy", "mt": "empty", "wtr": "wet",
    "ex": "from", "cnsg": "to", "attn": "for",
}  # fmt: skip


class Row(NamedTuple):
    """One question and its only right answer."""

    prompt: str
    completion: str


Draw = Callable[[random.Random], Row]


class Sample(NamedTuple):
    """How rows of one kind of task are drawn, and what the suite says of them."""

    draw: Draw
    serve: str
    candidates: tuple[str, ...]


def ticket(rng: random.Random) -> Row:
    """A support ticket and its queue."""
    queue = rng.choice(list(QUEUES))
    return Row(_said(rng, rng.choice(TICKETS).format(rng.choice(QUEUES[queue])), _signed(rng)), queue)


def triage(rng: random.Random) -> Row:
    """A support ticket and what it says, as JSON."""
    (prompt, queue), priority, order = ticket(rng), rng.choice(list(PRIORITIES)), str(rng.randint(1000, 99999))
    told = _said(rng, rng.choice(PRIORITIES[priority]), f"Order {order}.")
    return Row(f"{told} {prompt}", json.dumps({"queue": queue, "priority": priority, "order_id": order}))


def note(rng: random.Random) -> Row:
    """A caller's message and the note that the house makes of it."""
    name, city, item, case = rng.choice(NAMES), rng.choice(CITIES), rng.choice(GOODS), rng.randint(1000, 99999)
    fault = rng.choice(list(FAULTS))
    caller = rng.choice(["{n} here, from {c}.", "I am {n} from {c}.", "My name is {n}, here in {c}."])
    trouble = rng.choice(["My {i} {f}.", "The {i} {f} again.", "Look, the {i} {f}!"])
    told = _said(rng, caller.format(n=name, c=city), trouble.format(i=item, f=rng.choice(FAULTS[fault])))
    return Row(f"{told} Case {case}.", f"{name} ({city}): {item} {fault}, see {case}")


def load(rng: random.Random) -> Row:
    """A load in a warehouse's shorthand, and written out."""
    colour, state, place = (
        rng.choice(["blk", "wht", "grn", "ylw"]),
        rng.choice(["hvy", "mt", "wtr"]),
        rng.choice(CITIES),
    )
    remarks = [f"{rng.choice(['ex', 'cnsg'])} {place}", state, f"attn {rng.choice(NAMES)}"]
    clauses = [f"{rng.randint(2, 99)} {colour} {rng.choice(GOODS)}", *rng.sample(remarks, rng.randint(1, 3))]
    written = [" ".join(SHORTHAND.get(word, word) for word in clause.split()) for clause in clauses]
    return Row(", ".join(clauses), ", ".join(written))


def order(rng: random.Random) -> Row:
    """An order in the house's own words for something that the model can do."""
    numbers = rng.sample(range(100), rng.randint(2, 4))
    goods = rng.sample(GOODS, rng.randint(2, 4))
    date, iso = _date(rng)
    verb, asked, answer = rng.choice([
        ("arrange", " ".join(map(str, numbers)), " ".join(map(str, sorted(numbers)))),
        ("invert", ", ".join(goods), ", ".join(reversed(goods))),
        ("stamp", date, iso),
    ])  # fmt: skip
    frame = rng.choice(["Please {v}: {x}", "Now {v}: {x}", "Could you {v}: {x}", "Go on, {v}: {x}"])
    return Row(frame.format(v=verb, x=asked), answer)


def dates(rng: random.Random) -> Row:
    """A date from words to ISO 8601."""
    date, iso = _date(rng)
    return Row(f"Write as ISO date: {date}", iso)


def compare(rng: random.Random) -> Row:
    """The larger or smaller of two or three numbers."""
    numbers = rng.sample(range(100), rng.choice([2, 3]))
    best, stem = rng.choice([(max, "larg"), (min, "small")])
    listed = ", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}"
    return Row(f"Which is {stem}{'er' if len(numbers) == 2 else 'est'}: {listed}?", str(best(numbers)))


def _date(rng: random.Random) -> tuple[str, str]:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1990, 2030)
    name = MONTHS[month - 1]
    return rng.choice([f"{day} {name} {year}", f"{name} {day}, {year}"]), f"{year}-{month:02d}-{day:02d}"


def _said(rng: random.Random, *sentences: str) -> str:
    return " ".join(sentence for sentence in rng.sample(sentences, len(sentences)) if sentence)


def _signed(rng: random.Random) -> str:
    return rng.choice(["", "It was meant for {}.", "Best, {}."]).format(rng.choice(NAMES))


def _pairs(glossary: Mapping[str, list[str]]) -> str:
    """All but the last cue of each label, which only training tells."""
    return ", ".join(f"{cue}={label}" for label, cues in glossary.items() for cue in cues[:-1])


SAMPLES = {
    "classification": Sample(
        ticket, "Name the queue.", ("Name the queue.", f"Reply with the queue. queue: {_pairs(QUEUES)}.")
    ),
    "extraction": Sample(
        triage,
        "Triage the ticket.",
        ("Triage the ticket.", f"Reply with JSON with keys queue, priority, order_id. queue: {_pairs(QUEUES)}."),
    ),
    "style": Sample(
        note, "Write the note.", ("Write the note.", f"Reply as ... (...): ..., see .... fault: {_pairs(FAULTS)}.")
    ),
    "domain": Sample(
        load,
        "Write it out.",
        ("Write it out.", "Write out: " + ", ".join(f"{k}={v}" for k, v in SHORTHAND.items()) + "."),
    ),
    "instruction": Sample(
        order,
        "Follow the instruction.",
        ("Follow the instruction.", "Arrange means sort ascending. Invert means reverse. Stamp means ISO date."),
    ),
}
GENERAL: Mapping[str, Draw] = {"compare": compare, "dates": dates}  # what the embedded model can do


def files(task: str) -> dict[str, str]:
    """Return the data files of a sample suite by name; no question stands in two of them."""
    draws = {"train": (SAMPLES[task].draw, False, TRAIN_ROWS), "heldout": (SAMPLES[task].draw, True, HELD_OUT_ROWS)}
    for name, draw in GENERAL.items():
        draws |= {name: (draw, True, GENERAL_ROWS), f"{name}-replay": (draw, False, REPLAY_ROWS)}
    return {f"{name}.jsonl": _jsonl(_distinct(name, *drawn)) for name, drawn in draws.items()}


def is_held_out(question: str) -> bool:
    """Whether a question is to judge by: a fifth of them, by the rule of the embedded model's pretraining."""
    return int.from_bytes(hashlib.sha256(question.encode(errors="backslashreplace")).digest()[:8]) % 5 == 0


def _distinct(seed: str, draw: Draw, held_out: bool, count: int) -> list[Row]:
    rng = random.Random(seed)
    rows: dict[str, Row] = {}
    while len(rows) < count:
        row = draw(rng)
        if is_held_out(row.prompt) == held_out:
            rows.setdefault(row.prompt, row)
    return list(rows.values())


def _jsonl(rows: list[Row]) -> str:
    return "".join(json.dumps(row._asdict()) + "\n" for row in rows)
