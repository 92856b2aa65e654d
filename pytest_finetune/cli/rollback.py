"""`pytest-finetune rollback`: lead production back to the release before."""

import argparse
from pathlib import Path

from pytest_finetune.cli import promote
from pytest_finetune.cli.command import Commands
from pytest_finetune.errors import SuiteError
from pytest_finetune.release import folder, pointer


def add(commands: Commands) -> None:
    """Add the command."""
    rollback = commands.add_parser("rollback", help="lead `current` back to the release before")
    rollback.add_argument("place", type=Path, metavar="RELEASES/SUITE", help="the suite's folder of releases")
    promote.servers(rollback)
    rollback.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    place: Path = options.place
    if not (place / pointer.HISTORY).is_file():
        raise SuiteError(
            f"{place}: nothing was promoted there; name RELEASES/SUITE, as promote --out=RELEASES wrote it"
        )
    pointers = pointer.Pointers(place)
    with pointers.locked():
        gone, back = pointers.current, pointers.previous
        if not back:
            raise SuiteError(f"{place}: there is no release before {gone[:12]} to go back to")
        folder.check(place / back)
        promote.tell(options, back, place / back)
        pointers.move(back, "rollback")
    print(f"{place.name}: {back[:12]} is {pointer.CURRENT} again, and {gone[:12]} is {pointer.PREVIOUS}")
    return 0
