"""Knowledge: references that hold facts which nothing else in the data tells."""

import re
from collections import Counter
from collections.abc import Iterator

from pytest_finetune.curate.balance import classes
from pytest_finetune.curate.tables import Hit, Issue, Tables, counted
from pytest_finetune.suite import Check

# Numbers, words, and every character of scripts that are written without spaces.
_WORD = re.compile(r"\d+|[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_]+(?:['’][^\W\d_]+)*")
_START = re.compile(r"(?:^|[.!?:\n\"“({\[])\s*$")  # what stands before the first word of a sentence
FACT_EVERY = 10  # words: a longer reference needs more facts to be about them
ASKED = 5  # rows at most that ask for one fact in other words; a reference of more rows is a label
COMPUTED = 2  # numbers in a prompt from which another number may have been computed
SAMPLE = 100_000  # rows; the share in so many is that in all


def knowledge(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find many references with names, numbers or words that neither prompt nor other references hold.

    A row counts where such names and numbers are a tenth of the reference's words, or such words
    of any kind half of them: every long text has some word of its own. Labels are never knowledge.
    """
    table = tables.train
    if classes(tables):
        return
    rows = table.alive[:: max(1, len(table.alive) // SAMPLE)]
    asked = Counter(table.examples[row].reference for row in rows)
    words = {reference: _WORD.findall(reference) for reference in asked}
    known = Counter(word for found in words.values() for word in {word.casefold() for word in found})
    hits = []
    for row in rows:
        reference = table.examples[row].reference
        own = {word for word in words[reference] if known[word.casefold()] == 1}
        if own and asked[reference] <= ASKED and (fact := _fact(own, reference, table.examples[row].text)):
            hits.append(Hit(table, row, f"only this reference tells {fact[:60]!r}"))
    share, bound = len(hits) / max(1, len(rows)), check.settings["share"]
    if hits and share >= bound:
        yield Issue(
            f"{counted(len(hits), table.name)} ({share:.0%}, bound {bound:.0%}) answer with names, numbers or words "
            "of no prompt and no other reference: this is knowledge. Use retrieval, not fine-tuning",
            hits,
        )


def _fact(own: set[str], reference: str, prompt: str) -> str:
    """Return what only this reference tells, where the reference is about it; nothing otherwise."""
    said = [word.casefold() for word in _WORD.findall(prompt)]
    own = {word for word in own if word.casefold() not in said}
    if sum(word.isdigit() for word in said) >= COMPUTED:
        own = {word for word in own if not word.isdigit()}
    matches = list(_WORD.finditer(reference))
    facts = [match[0] for match in matches if match[0] in own and _names(match, reference)]
    if facts and FACT_EVERY * len(facts) >= len(matches):
        return ", ".join(facts)
    return ", ".join(sorted(own)) if own and 2 * len(own) >= len(matches) else ""


def _names(match: re.Match[str], reference: str) -> bool:
    """Whether a word is a number, or has a capital letter that does not begin a sentence."""
    capital = match[0][0].isupper() and not _START.search(reference, max(0, match.start() - 8), match.start())
    return capital or match[0].isdigit()
