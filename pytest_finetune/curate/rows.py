"""Rows that are broken by themselves: encoding, emptiness, references, length."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from pytest_finetune.curate.tables import Hit, Issue, Table, Tables, counted
from pytest_finetune.lengths import Lengths
from pytest_finetune.metrics.structured import json_valid
from pytest_finetune.records import Example, Message, Prompt
from pytest_finetune.suite import Check, model_folder

# UTF-8 that was read as Windows-1252 or Latin-1: a lead byte's letter, then those of continuation bytes.
_TRAIL = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_MOJIBAKE = (
    f"[ÂÃ]{_TRAIL}"  # é is read as Ã©
    "|[ÄÅ][\x80-\xaa\xac-\xba\xbc-\xbf‚ƒ„†‡ˆ‰Šž]"  # š is read as Å¡; not Ä before a closing quote or a dash
    f"|[à-ï]{_TRAIL}{{2}}"  # ’ is read as â€™
    f"|ðŸ{_TRAIL}{{2}}"  # emoji
    f"|(?:[Ï-Ùá]{_TRAIL}){{2}}"  # Greek, Cyrillic, Hebrew, Arabic: letters follow one another
)
BROKEN = {
    "U+FFFD (a character was lost in decoding)": re.compile("\ufffd"),
    "lone surrogate": re.compile("[\ud800-\udfff]"),
    "control character": re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]"),
    "mojibake (UTF-8 read as another encoding)": re.compile(_MOJIBAKE),
}
_ANY = re.compile("|".join(pattern.pattern for pattern in BROKEN.values()))


def encoding(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find text that was decoded wrongly or holds what does not print."""
    for table in (*tables.trained, *tables.judged):
        hits = [Hit(table, row, reason) for row in table.alive if (reason := _broken(table.examples[row]))]
        if hits:
            yield Issue(f"{counted(len(hits), table.name)} with broken characters; export them as UTF-8 again", hits)


def empty(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find rows that ask nothing or answer nothing."""
    for table in (*tables.trained, *tables.judged):
        hits = []
        for row in table.alive:
            if not table.questions[row]:
                hits.append(Hit(table, row, "empty question"))
            elif not table.examples[row].reference.strip():
                hits.append(Hit(table, row, "empty reference"))
        if hits:
            yield Issue(f"{counted(len(hits), table.name)} without a question or a reference", hits)


def references(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find references that the suite's own [answer] does not allow."""
    labels, schema = frozenset(tables.spec.labels), tables.spec.answer_schema
    if labels:
        yield from _references(tables, labels.__contains__, "not among [answer] labels")
    if schema:
        valid = cache(lambda reference: bool(json_valid(reference, "", schema)))
        yield from _references(tables, valid, "that does not validate against [answer] schema")


def truncated(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find rows that the model's context or [training] max_tokens would cut, or training refuse."""
    folder = model_folder(tables.spec.model, tables.spec.folder)
    if not folder or not Lengths.available(folder):
        return
    lengths, most = Lengths(folder), tables.spec.training.max_tokens
    serve, none = Prompt("serve", tables.spec.serve), Prompt("none")
    context = lengths.context or most
    limit, what = min((context, "the model's context"), (most, "[training] max_tokens"))
    for table in tables.trained:
        prompt = none if table in tables.replay.values() else serve
        yield from _too_long(table, lengths, _Limit(prompt, limit, f"{what} of {limit}", taught=True))
    if lengths.context:
        room = lengths.context - tables.spec.generation.max_new_tokens
        for table in tables.judged:
            prompt = serve if table is tables.heldout else none
            yield from _too_long(table, lengths, _Limit(prompt, room, f"the context less the answer, {room}"))


@dataclass(frozen=True, slots=True)
class _Limit:
    """Tokens a row may have behind its prompt, with its reference where that is ``taught``."""

    prompt: Prompt
    tokens: int
    said: str
    taught: bool = False


def _too_long(table: Table, lengths: Lengths, limit: _Limit) -> Iterator[Issue]:
    rows, turns = [], []
    for row in table.alive:
        example = table.examples[row]
        characters = len(limit.prompt.system) + sum(len(m.content) for m in example.messages) + len(example.reference)
        if not Lengths.surely_within(limit.tokens, characters, len(example.messages) + 2):
            answer = (Message("assistant", example.reference),) if limit.taught else ()
            rows.append(row)
            turns.append((*limit.prompt.before(example), *answer))
    counts = zip(rows, lengths.of(turns), strict=True)
    hits = [Hit(table, row, f"about {tokens} tokens") for row, tokens in counts if tokens > limit.tokens]
    if hits:
        yield Issue(f"{counted(len(hits), table.name)} longer than {limit.said} tokens; shorten or split them", hits)


def _broken(example: Example) -> str:
    for text in (*(message.content for message in example.messages), example.reference):
        if text.isascii() and text.isprintable():
            continue
        if _ANY.search(text):
            return next(reason for reason, pattern in BROKEN.items() if pattern.search(text))
    return ""


def _references(tables: Tables, allowed: Callable[[str], bool], fault: str) -> Iterator[Issue]:
    told = tables.spec.checks["empty"].on_issue != "off"  # of the empty ones
    for table in tables.task:
        hits = [
            Hit(table, row, f"reference {reference[:60]!r}")
            for row in table.alive
            if not allowed(reference := table.examples[row].reference) and (reference.strip() or not told)
        ]
        if hits:
            yield Issue(f"{counted(len(hits), table.name)} with a reference {fault}", hits)
