"""`pytest-finetune promote`: release the adapters that passed, and lead production to them."""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_finetune.cells.cell import NAME
from pytest_finetune.cli.command import Commands, needs
from pytest_finetune.errors import SuiteError
from pytest_finetune.ledger import Ledger
from pytest_finetune.records import Adapter, RunRecord, SuiteRecord, to_plain
from pytest_finetune.release import card, folder, pointer, push
from pytest_finetune.report import run_json

PROMOTED = "PROMOTE"


def add(commands: Commands) -> None:
    """Add the command."""
    promote = commands.add_parser(
        "promote", help="release the adapters of a run that passed, and lead `current` to them"
    )
    promote.add_argument("run_json", type=Path, help="what --finetune-report or verdict --report wrote")
    promote.add_argument("--out", type=Path, required=True, help="the folder of releases; it gets SUITE/DIGEST")
    promote.add_argument("--suite", metavar="NAME", help="release this one of the run only")
    promote.add_argument(
        "--store",
        type=Path,
        default=Path(".finetune"),
        help="whose ledger must hold a PASS, or a folder of evidence (.finetune)",
    )
    promote.add_argument(
        "--shadow", type=Path, metavar="JSON", help="what shadow verdict --report wrote: must be PROMOTE"
    )
    promote.add_argument("--push", metavar="TARGET", help="hub:ORG/NAME, or a new folder")
    servers(promote)
    promote.add_argument("--force", metavar="REASON", default="", help="release all the same; card and history say so")
    promote.set_defaults(run=run)


def servers(parser: argparse.ArgumentParser) -> None:
    """Add the options of servers that are told."""
    parser.add_argument("--load", metavar="URL", action="append", default=[], help="a server that is to load it")
    parser.add_argument("--load-key-env", metavar="NAME", default="", help="environment variable with the servers' key")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An adapter that is to be released.

    Args:
        suite: what the run learned about it.
        adapter: itself.
        source: the folder that holds it.
        place: the suite's folder of releases.
        objections: what speaks against it.
    """

    suite: SuiteRecord
    adapter: Adapter
    source: Path
    place: Path
    objections: tuple[str, ...]

    @property
    def release(self) -> Path:
        """Where it is released."""
        return self.place / self.adapter.digest


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    found = run_json.read(options.run_json)
    shadow = _shadow(options.shadow) if options.shadow else {}
    candidates = [_candidate(found, suite, shadow, options) for suite in _suites(found, options)]
    if options.push and len(candidates) != 1:
        raise SuiteError(
            f"--push={options.push}: takes one suite, and the run has {len(candidates)}; name it with --suite"
        )
    for candidate in candidates:  # all of them, before the first is written
        if candidate.objections and not options.force.strip():
            raise SuiteError(f"{options.run_json}: {candidate.suite.name}: {candidate.objections[0]}")
        folder.check_judged(candidate.adapter, candidate.source)
    for candidate in candidates:
        _promote(candidate, found, shadow, options)
    if not candidates:
        print("no adapter in this run, and nothing to release")
    return 0


def _suites(found: RunRecord, options: argparse.Namespace) -> list[SuiteRecord]:
    suites = [suite for suite in found.suites if suite.adapter and options.suite in (None, suite.name)]
    if options.suite and not suites:
        named = ", ".join(suite.name for suite in found.suites if suite.adapter) or "none"
        raise SuiteError(
            f"--suite={options.suite}: no adapter of such a suite in {options.run_json}; there are {named}"
        )
    for suite in suites:
        if not re.fullmatch(NAME, suite.name):
            raise SuiteError(
                f"{options.run_json}: suite {suite.name!r} cannot name a folder; name it by letters and digits"
            )
    return suites


def _candidate(
    found: RunRecord, suite: SuiteRecord, shadow: Mapping[str, Any], options: argparse.Namespace
) -> Candidate:
    adapter = suite.adapter
    assert adapter
    source = Path(adapter.path) if adapter.path else options.run_json.parent  # a release holds run and adapter
    objections = (*_of_run(found, suite, adapter), *_of_ledger(options.store, suite, adapter))
    if not adapter.path and _is_forced(source):
        objections += ("the release that it is taken from was forced, as its card says",)
    if shadow:
        objections += tuple(_of_shadow(shadow, adapter, options.shadow))
    return Candidate(suite, adapter, source, options.out / suite.name, objections)


def _of_run(found: RunRecord, suite: SuiteRecord, adapter: Adapter) -> Iterator[str]:
    if found.outcome != "PASS":
        yield f"the run came to {found.outcome}; only what passed is promoted"
    judged = [verdict for verdict in suite.verdicts if verdict.digests.get("adapter") == adapter.digest]
    if not judged:
        yield f"no verdict in it is of the adapter {adapter.digest[:12]}; only what was judged is promoted"
    for verdict in judged:
        if verdict.outcome != "PASS":
            yield f"{verdict.test} came to {verdict.outcome}; only what passed is promoted"


def _of_ledger(store: Path, suite: SuiteRecord, adapter: Adapter) -> Iterator[str]:
    ledger = Ledger(store / suite.name)  # evidence has a folder a suite
    if not ledger.exists:
        ledger = Ledger(store)
    if not ledger.exists:
        yield f"no ledger in {store}; name the run's store, or its evidence, with --store"
        return
    outcomes = ledger.outcomes(suite.name, adapter.digest)
    if not outcomes:
        yield f"the ledger never judged the adapter {adapter.digest[:12]}; name the run's store with --store"
    for question, outcome in outcomes.items():
        if outcome != "PASS":
            yield f"the ledger says of {question}: {outcome or 'not decided'}; only what passed is promoted"


def _shadow(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SuiteError(f"--shadow={path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SuiteError(f"--shadow={path}: not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("outcome"), str):
        raise SuiteError(f"--shadow={path}: no verdict of a shadow; give what shadow verdict --report wrote")
    return found


def _of_shadow(shadow: Mapping[str, Any], adapter: Adapter, path: Path) -> Iterator[str]:
    if shadow.get("candidate") != adapter.digest:
        raise SuiteError(
            f"--shadow={path}: is of the candidate {shadow.get('candidate')!r}, and the adapter is {adapter.digest}; "
            "shadow it under its digest (--candidate-model)"
        )
    if shadow["outcome"] != PROMOTED:
        yield f"the shadow's verdict is {shadow['outcome']}; only {PROMOTED} is promoted"


def _promote(candidate: Candidate, found: RunRecord, shadow: Mapping[str, Any], options: argparse.Namespace) -> None:
    digest, forced = candidate.adapter.digest, ""
    if candidate.objections:
        forced = f"{'; '.join(candidate.objections)}. Reason given: {options.force.strip()}"
    try:
        candidate.place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SuiteError(f"--out={options.out}: cannot be written: {error.strerror}") from None
    pointers = pointer.Pointers(candidate.place)
    with pointers.locked():
        if candidate.release.exists():
            folder.check(candidate.release)
            folder.check_judged(candidate.adapter, candidate.release)
            _check_mark(candidate.release, forced)
        elif not (candidate.adapter.path or shadow or forced):
            folder.copy(candidate.source, candidate.release, candidate.adapter)
        else:
            texts = {
                folder.CARD: card.text(card.Facts(found, candidate.suite, _settings(candidate.source), forced, shadow)),
                folder.RUN: json.dumps(to_plain(_without_rows(found, candidate.suite)), indent=1) + "\n",
            }
            folder.write(candidate.release, candidate.adapter, candidate.source, texts)
        if options.push:
            push.push(candidate.release, options.push, candidate.adapter)
        tell(options, digest, candidate.release)
        if pointers.current != digest:
            pointers.move(digest, "promote", forced)
    print(f"{candidate.suite.name}: {digest[:12]} is {pointer.CURRENT}, in {candidate.release}")


def tell(options: argparse.Namespace, digest: str, release: Path) -> None:
    """Have the servers that were named load a release; before any pointer moves to what they could not load."""
    if options.load:
        with needs("shadow"):
            from pytest_finetune.release import servers
        servers.load(options.load, digest, release, options.load_key_env)


def _check_mark(release: Path, forced: str) -> None:
    if forced and not _is_forced(release):
        raise SuiteError(
            f"--force: {release} was promoted without force, and no release changes, so its card would not tell; "
            "promote to another --out, or roll back to it"
        )


def _is_forced(release: Path) -> bool:
    path = release / folder.CARD
    return path.is_file() and card.FORCED.encode() in path.read_bytes()  # whatever else it holds


def _settings(source: Path) -> Mapping[str, Any]:
    path = source / "adapter_config.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _without_rows(found: RunRecord, suite: SuiteRecord) -> RunRecord:
    """Return the suite's part of a run without the text of any row, and without paths of this machine.

    A release is published, and held-out rows that are published are what the next models are trained on.
    """
    assert suite.adapter
    baseline = suite.baseline and replace(suite.baseline, prompt=replace(suite.baseline.prompt, shots=()))
    kept = replace(
        suite,
        file=Path(suite.file).name,
        adapter=replace(suite.adapter, path=""),
        baseline=baseline,
        findings=(),
        measurements=(),
        verdicts=tuple(replace(verdict, lost=()) for verdict in suite.verdicts),
        texts={},
    )
    tests = tuple(replace(test, file=Path(test.file).name, message="") for test in found.tests)
    return replace(found, suites=(kept,), tests=tests)
