"""`pytest-finetune store`: what the store and its ledger hold."""

import argparse
import time
from pathlib import Path

from pytest_finetune.cli.command import Commands
from pytest_finetune.errors import SuiteError
from pytest_finetune.ledger import Ledger
from pytest_finetune.report.escape import visible
from pytest_finetune.store import Store


def add(commands: Commands) -> None:
    """Add the command."""
    store = commands.add_parser("store", help="list what the store holds, or delete old entries")
    store.add_argument("--store", type=Path, default=Path(".finetune"), help="its folder (.finetune)")
    store.add_argument("--prune-days", type=float, help="delete entries made longer ago than this")
    store.add_argument(
        "what",
        nargs="?",
        choices=["entries", "ledger"],
        default="entries",
        help="or ledger: who was judged on which rows",
    )
    store.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    store = Store(options.store)
    if not options.store.is_dir():
        raise SuiteError(f"{options.store}: no store there; name it with --store")
    if options.what == "ledger":
        return _ledger(Ledger(options.store))
    now = time.time()
    for entry in list(store.entries()):
        days = (now - entry.modified) / 86400
        old = options.prune_days is not None and days > options.prune_days
        note = "  deleted" if old else ""
        if old:
            store.remove(entry)
        print(f"{entry.stage:<12} {entry.key[:12]} {entry.size_bytes:>12,} bytes {days:6.1f} days{note}")
    return 0


def _ledger(book: Ledger) -> int:
    entries = book.entries()
    if not entries:
        print("no verdict yet")
    for entry in entries:
        name = f"adapter {entry.adapter[:12]}" if entry.adapter else "no adapter"
        asked = visible(f"{entry.suite}: {entry.data}, {entry.question}")
        print(f"{entry.time}  {asked}: attempt {entry.attempt}, {name}: {entry.outcome or 'not decided'}")
    return 0
