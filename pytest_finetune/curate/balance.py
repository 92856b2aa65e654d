"""Balance: labels that are much rarer or commoner than the even share."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

from pytest_finetune import digest
from pytest_finetune.curate.tables import Hit, Issue, Tables, counted
from pytest_finetune.suite import Check


def classes(tables: Tables) -> Counter[str]:
    """Return how many train rows each label has; nothing where references are no labels."""
    spec, table = tables.spec, tables.train
    if not spec.labels and spec.task != "classification":
        return Counter()
    found = Counter(table.examples[row].reference.strip() for row in table.alive)
    if not spec.labels and 2 * len(found) > len(table.alive):
        return Counter()  # every other reference is new: this is free text
    # Counter's own arithmetic would lose the labels without a row.
    return Counter({label: found[label] for label in spec.labels}) if spec.labels else found


def balance(tables: Tables, check: Check) -> Iterator[Issue]:
    """Find labels outside the bounds; to drop is to down-sample the commonest, by digest."""
    counts = classes(tables)
    if len(counts) < 2 or (tables.spec.training.class_weights and check.on_issue != "drop"):
        return  # weights in training are the other remedy
    lowest, highest = check.settings["rarest"], check.settings["commonest"]
    (common, most), (rare, least) = counts.most_common(1)[0], counts.most_common()[-1]
    even = counts.total() / len(counts)
    if least >= lowest * even and most <= highest * even:
        return
    said = (
        f"of {len(counts)} labels the rarest, {rare!r}, has {counted(least, 'train')}, {least / even:.2f} of the even "
        f"share (at least {lowest:g}), the commonest, {common!r}, {most:,}, {most / even:.2f} (at most {highest:g})"
    )
    if check.on_issue == "drop":
        yield Issue(f"{said}; the commonest are down-sampled", list(_surplus(tables, _cap(counts, lowest, highest))))
    else:
        drop = 'set on_issue = "drop" to down-sample the commonest'
        yield Issue(f"{said}. Add rows, {drop}, or set [training] class_weights = true (it needs [answer] labels)")


def _cap(counts: Counter[str], lowest: float, highest: float) -> int:
    """Return the most rows a label may keep, so that both bounds hold (labels without a row apart)."""
    present = [count for count in counts.values() if count]

    def broken(cap: int) -> bool:
        kept = sum(min(count, cap) for count in present)
        return cap > highest * kept / len(counts) or min(present) < lowest * kept / len(counts)

    # Both bounds, once broken, stay broken as the cap grows: the surplus grows faster than the even share.
    caps = range(min(present), max(present) + 1)
    return caps[max(0, bisect_right(caps, False, key=broken) - 1)]


def _surplus(tables: Tables, cap: int) -> Iterator[Hit]:
    table = tables.train
    by_label: dict[str, list[int]] = {}
    for row in table.alive:
        by_label.setdefault(table.examples[row].reference.strip(), []).append(row)
    for label, rows in by_label.items():
        if len(rows) > cap:
            ordered = sorted(rows, key=lambda row: digest.of(["balance", table.examples[row].id]))
            yield from (Hit(table, row, f"label {label!r} has more than {cap} rows") for row in sorted(ordered[cap:]))
