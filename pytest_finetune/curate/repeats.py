"""Repeats: rows that are in two places, or twice in one, exactly or nearly."""

from collections.abc import Iterable, Iterator

from pytest_finetune.curate.tables import Hit, Issue, Table, Tables, counted
from pytest_finetune.similarity import Index
from pytest_finetune.suite import Check

FREE_WORDS = 8  # longer answers are free text, seldom equal to the letter


def leakage(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find questions that are trained on and judged by."""
    for seen, judged in tables.pairs():
        rows = {judged.questions[row]: row for row in reversed(judged.alive) if judged.questions[row]}
        hits = [
            Hit(seen, row, f"asks what a {judged.name} row asks", judged.place(rows[question]))
            for row in seen.alive
            if (question := seen.questions[row]) in rows
        ]
        yield from _leaks(judged, hits, "also in {}: a score on them proves nothing. Remove them from there")


def near_leakage(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find questions that are trained on and, hardly changed and answered the same, judged by."""
    for seen, judged in tables.pairs():
        exact = {judged.questions[row] for row in judged.alive}  # the check for leakage has told of them
        asked, told = ([row for row in table.alive if table.questions[row]] for table in (seen, judged))
        index = _index(judged, told, check)
        hits = []
        for i, (j, jaccard) in sorted(index.of(_index(seen, asked, check)).items()):
            row, other = asked[i], told[j]
            if seen.questions[row] not in exact and _agree(seen, row, judged, other):
                hits.append(Hit(seen, row, f"like a {judged.name} row, {jaccard:.2f}", judged.place(other)))
        said = "with a near twin in {}: a score on them proves little. Remove the twins from there"
        yield from _leaks(judged, hits, said)


def conflicts(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find questions that are asked twice and answered differently."""
    for table in tables.task:
        first: dict[str, int] = {}
        second: dict[str, int] = {}  # the first row that answers differently
        for row in table.alive:
            question = table.questions[row]
            if table.answers[first.setdefault(question, row)] != table.answers[row]:
                second.setdefault(question, row)
        second.pop("", None)
        hits = []
        for row in table.alive:
            question = table.questions[row]
            if question in second:
                agrees = table.answers[row] == table.answers[first[question]]
                other = second[question] if agrees else first[question]
                hits.append(Hit(table, row, "the same question, another answer", table.place(other)))
        if hits:
            said = counted(len(hits), table.name)
            yield Issue(f"{said} with a question that is also answered differently; decide which is right", hits)


def duplicates(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find rows that repeat an earlier one of their table."""
    for table in tables.task:
        first: dict[tuple[str, int], int] = {}
        hits = [
            Hit(table, row, "repeats an earlier row", table.place(earlier))
            for row in table.alive
            if table.questions[row]
            and (earlier := first.setdefault((table.questions[row], table.answers[row]), row)) != row
        ]
        if hits:
            cost = "count twice in the verdict" if table is tables.heldout else "weigh twice"
            yield Issue(f"{counted(len(hits), table.name)} like an earlier one, which would {cost}", hits)


def near_duplicates(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find train rows that nearly repeat an earlier one, with the same answer."""
    table = tables.train
    asked = {table.questions[row]: row for row in reversed(table.alive)}
    asked.pop("", None)
    rows = sorted(asked.values())
    hits = []
    for i, (j, jaccard) in sorted(_index(table, rows, check).earlier().items()):
        row, other = rows[i], rows[j]
        if _agree(table, row, table, other):
            table.near[row] = other
            hits.append(Hit(table, row, f"nearly repeats an earlier row, {jaccard:.2f}", table.place(other)))
    if hits:
        yield Issue(
            f"{counted(len(hits), table.name)} nearly like an earlier one: more of the same teaches little", hits
        )


def _leaks(judged: Table, hits: list[Hit], said: str) -> Iterator[Issue]:
    if hits:
        leaked = counted(len({hit.other for hit in hits}), judged.name)
        yield Issue(f"{leaked} {said.format(hits[0].table.name)}", hits)


def _index(table: Table, rows: list[int], check: Check) -> Index:
    """Return an index of these rows' questions; those that were hashed before are not hashed again."""
    threshold = check.settings["threshold"]
    if not table.index or table.index[0] != threshold or not table.index[1].keys() >= set(rows):
        index = Index(_texts(table, rows), threshold, edits=True)
        table.index = threshold, {row: i for i, row in enumerate(rows)}, index
    _, places, index = table.index
    return index if len(places) == len(rows) else index.only([places[row] for row in rows])


def _texts(table: Table, rows: Iterable[int]) -> list[str]:
    """Return the questions to compare, short answers joined to them as a number.

    Texts whose numbers differ are not near: so "turn it on" and "turn it off", which differ in little
    but are answered differently, are two examples and no repetition.
    """
    return [
        f"{table.questions[row]} {table.answers[row] % 1000:03}" if _is_short(table, row) else table.questions[row]
        for row in rows
    ]


def _agree(table: Table, row: int, other_table: Table, other: int) -> bool:
    """Whether two near questions have one answer: three digits of it may be equal by chance."""
    return not _is_short(table, row) or table.answers[row] == other_table.answers[other]


def _is_short(table: Table, row: int) -> bool:
    return table.examples[row].reference.count(" ") < FREE_WORDS
