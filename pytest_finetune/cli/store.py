"""`pytest-finetune store`: what the store and its ledger hold, and what of it may go."""

import argparse
import re
import time
from collections.abc import Iterable
from pathlib import Path

from pytest_finetune.cli.command import Commands
from pytest_finetune.errors import SuiteError
from pytest_finetune.holdings import Entry, entries, remove
from pytest_finetune.ledger import Ledger
from pytest_finetune.report.escape import visible
from pytest_finetune.store import DAY_SECONDS, Store

UNITS = {"": 1} | {f"{letter}{i}": (1024 if i else 1000) ** n for n, letter in enumerate("KMGT", 1) for i in ("", "I")}


def add(commands: Commands) -> None:
    """Add the command."""
    store = commands.add_parser("store", help="list what the store holds, or delete what nobody needs")
    store.add_argument("--store", type=Path, default=Path(".finetune"), help="its folder (.finetune)")
    store.add_argument("--prune-days", type=float, metavar="N", help="delete what no run used for so many days")
    store.add_argument("--max-size", metavar="SIZE", help="delete, longest unused first, until it fits: 50GB, 500MB")
    store.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    store.add_argument(
        "what",
        nargs="?",
        choices=["entries", "ledger"],
        default="entries",
        help="or ledger: who was judged on which rows",
    )
    store.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code: 1 where what must stay is larger than it may be."""
    days, size = _days(options.prune_days), _bytes(options.max_size)
    if not options.store.is_dir():
        raise SuiteError(f"{options.store}: no store there; name it with --store")
    store = Store(options.store)
    if options.what == "ledger":
        return _ledger(Ledger(options.store))
    now, held = time.time(), entries(store)
    go = _to_go(held, now - days * DAY_SECONDS, size)
    for entry in held:
        note = f"  needed by {entry.needed}" if entry.needed else ""
        if entry in go:
            note = "  would be deleted" if options.dry_run else "  deleted"
            if not options.dry_run:
                remove(store, entry)
        unused = (now - entry.used) / DAY_SECONDS
        name = f"{entry.stage or 'half made':<12} {entry.key[:12]}"
        print(visible(f"{name} {entry.size_bytes:>12,} bytes {unused:6.1f} days{note}"))
    left = sum(entry.size_bytes for entry in held if entry not in go)
    if left > size:
        print(
            f"{left:,} bytes must stay, which is more than --max-size={options.max_size}: verdicts in the ledger rest "
            "on them, or runs write them; allow more, or give other suites a store of their own"
        )
        return 1
    return 0


def _to_go(held: Iterable[Entry], before: float, size: float) -> set[Entry]:
    """Return what goes: the unneeded that were last used before a time, and more of them until the rest fits."""
    go = {entry for entry in held if not entry.needed and entry.used < before}
    left = sum(entry.size_bytes for entry in held if entry not in go)
    for entry in held:  # longest unused first
        if left > size and not entry.needed and entry not in go:
            go.add(entry)
            left -= entry.size_bytes
    return go


def _days(given: float | None) -> float:
    if given is None:
        return float("inf")
    if not given >= 0:
        raise SuiteError(f"--prune-days={given:g}: write a number of days from 0")
    return given


def _bytes(given: str | None) -> float:
    if given is None:
        return float("inf")
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]I?|)B?", given.upper())
    if not found:
        raise SuiteError(f"--max-size={given}: write a number and a unit: 50GB, 500MB, 2TiB")
    return float(found[1]) * float(UNITS[found[2]])


def _ledger(book: Ledger) -> int:
    entries = book.entries()
    if not entries:
        print("no verdict yet")
    for entry in entries:
        name = f"adapter {entry.adapter[:12]}" if entry.adapter else "no adapter"
        asked = f"{entry.suite}: {entry.data}, {entry.question}"
        print(visible(f"{entry.time}  {asked}: attempt {entry.attempt}, {name}: {entry.outcome or 'not decided'}"))
    return 0
