"""Sizing: how many rows a task of its kind wants, and how many no longer pay."""

from collections.abc import Iterator

from pytest_finetune.curate.balance import classes
from pytest_finetune.curate.tables import Issue, Tables
from pytest_finetune.suite import Check

# Rows at least, and rows from which more hardly pay (0: no such number); classification counts a class.
BOUNDS = {
    "classification": (500, 2_000),
    "extraction": (500, 2_000),
    "style": (1_000, 5_000),
    "domain": (10_000, 0),
    "instruction": (0, 50_000),
}


def sizing(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find too few train rows, or pointlessly many."""
    task = tables.spec.task
    default = BOUNDS[task]
    least, most = check.settings.get("least", default[0]), check.settings.get("most", default[1])
    counts = classes(tables) if task == "classification" else {}
    if counts:
        few = {label: n for label, n in counts.items() if n < least}
        many = {label: n for label, n in counts.items() if most and n > most}
        low, high = min(counts.values()), max(counts.values())
        unit, total = "a label", f"{len(counts)} labels have {low:,}{f' to {high:,}' if low < high else ''} rows"
    else:
        rows = len(tables.train.alive)
        few, many = {"": rows} if rows < least else {}, {"": rows} if most and rows > most else {}
        unit, total = "in all", f"{rows:,} train rows"
    if few:
        which = f"; {len(few)} have fewer, {min(few, key=few.__getitem__)!r} the fewest" if counts else ""
        yield Issue(f"{total}; {task} gains up to {least:,.0f} rows {unit} and more{which}. Add rows before you tune")
    if many:
        which = f"; {len(many)} have more, {max(many, key=many.__getitem__)!r} the most" if counts else ""
        yield Issue(f"{total}; {task} hardly gains beyond {most:,.0f} {unit}{which}. Better rows pay more")
