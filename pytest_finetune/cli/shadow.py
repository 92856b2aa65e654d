"""`pytest-finetune shadow`: the candidate beside the primary on live traffic."""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.cli.command import Commands, needs
from pytest_finetune.errors import SuiteError
from pytest_finetune.records import to_plain
from pytest_finetune.report import file as report_file
from pytest_finetune.report.escape import visible

if TYPE_CHECKING:
    from pytest_finetune.shadow.canary import Broken
    from pytest_finetune.shadow.config import Settings
    from pytest_finetune.shadow.exchange import Pair
    from pytest_finetune.shadow.replies import Facts
    from pytest_finetune.shadow.spool import Spool
    from pytest_finetune.shadow.verdict import ShadowVerdict

SPOOL = Path("shadow.sqlite")
EXTRA = "shadow"


def add(commands: Commands) -> None:
    """Add the command and those below it."""
    shadow = commands.add_parser(
        "shadow",
        help="run a candidate beside the primary on live traffic, and say whether it may take over",
        description="Without a COMMAND: a proxy that answers with the primary's bytes, and mirrors to the candidate.",
    )
    shadow.add_argument("--primary", metavar="URL", help="who answers users")
    shadow.add_argument("--candidate", metavar="URL", help="who is shadowed")
    shadow.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1)")
    shadow.add_argument("--port", type=int, default=8100, help="(8100; 0: one that is free)")
    shadow.add_argument("--no-replay", action="store_true", help="only spool; `shadow replay` asks the candidate")
    _common(shadow)
    shadow.set_defaults(run=run)
    below = shadow.add_subparsers(metavar="COMMAND", required=False)
    replay = below.add_parser("replay", help="ask the candidate what waits in the spool")
    replay.add_argument("--candidate", metavar="URL", required=True, help="who is asked")
    replay.add_argument("--follow", action="store_true", help="wait for more; where stdin is a pipe, until it closes")
    _common(replay)
    replay.set_defaults(run=run_replay)
    status = below.add_parser("status", help="what the spool holds")
    _spool(status)
    status.set_defaults(run=run_status)
    purge = below.add_parser("purge", help="delete texts from the spool; the numbers of a pair stay")
    purge.add_argument("--days", type=float, default=None, help="older than this ([privacy] days)")
    purge.add_argument("--conversation", default="", help="only of this one, by its name in the header")
    purge.add_argument("--numbers-too", action="store_true", help="delete the exchanges whole")
    _spool(purge)
    purge.add_argument("--config", type=Path, help="shadow.toml")
    purge.set_defaults(run=run_purge)
    verdict = below.add_parser("verdict", help="PROMOTE, HOLD or REJECT; look as often as you like")
    _judging(verdict)
    verdict.add_argument("--report", type=Path, help="a new file for the verdict as JSON, which promote takes")
    verdict.set_defaults(run=run_verdict)
    cases = below.add_parser("promote-cases", help="write disagreements as rows for a person to label")
    cases.add_argument("--candidate", default="", help="its name in the spool (the only one)")
    cases.add_argument("--out", type=Path, required=True, help="a new JSONL file")
    cases.add_argument("--limit", type=int, help="rows at most, the most telling first")
    _spool(cases)
    cases.set_defaults(run=run_cases)
    canary = below.add_parser("canary", help="move conversations to the candidate, or back")
    _judging(canary)
    which = canary.add_mutually_exclusive_group(required=True)
    which.add_argument("--start", action="store_true", help="the first step, if the verdict is PROMOTE")
    which.add_argument("--back", action="store_true", help="all conversations to the primary, now")
    canary.add_argument("--force", default="", metavar="REASON", help="start whatever the verdict is")
    canary.set_defaults(run=run_canary)
    export = below.add_parser("export", help="write all pairs as Parquet")
    export.add_argument("--out", type=Path, required=True, help="a new file")
    _spool(export)
    export.set_defaults(run=run_export)


def _spool(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spool", type=Path, default=SPOOL, help=f"its file ({SPOOL})")


def _judging(parser: argparse.ArgumentParser) -> None:
    _spool(parser)
    parser.add_argument("--candidate", default="", help="its name in the spool, or how it begins (the only one)")
    parser.add_argument("--config", type=Path, help="shadow.toml")
    parser.add_argument("--references", type=Path, help="JSONL of right answers ([verdict] references)")
    parser.add_argument("--metric", default="", help="how they are compared ([verdict] metric)")


def _common(parser: argparse.ArgumentParser) -> None:
    _spool(parser)
    parser.add_argument("--config", type=Path, help="shadow.toml")
    parser.add_argument("--candidate-model", default="", help="the model name it is asked for, such as a digest")


def _settings(options: argparse.Namespace) -> "Settings":
    from pytest_finetune.shadow import config  # plain data, and yet of no use to other commands

    settings = config.load(options.config)
    if getattr(options, "candidate_model", ""):
        settings = replace(settings, mirror=replace(settings.mirror, model=options.candidate_model))
    return settings


def _facts(settings: "Settings") -> "Facts":
    from pytest_finetune.shadow import checks

    return checks.facts(settings.verdict)


def _new(option: str, file: Path) -> None:
    """Refuse a file that is there already, or that has no folder to be in."""
    if file.exists():
        raise SuiteError(f"{option}={file}: there is something already; name a new file")
    report_file.check(file.absolute(), option)


def _broken(settings: "Settings") -> "Broken":
    """Return what says which hard gate a candidate broke while it served users."""
    from pytest_finetune.report.terminal import claim_text
    from pytest_finetune.shadow.verdict import decide

    def broken(pairs: "Sequence[Pair]") -> str:
        claims = decide("", pairs, settings.verdict, None).claims
        return next((claim_text(claim) for claim in claims if claim.outcome == "FAIL"), "")

    return broken


def _assessed(spool: "Spool", options: argparse.Namespace) -> "ShadowVerdict":
    from pytest_finetune.shadow import assess

    settings = _settings(options)
    limits = settings.verdict
    if options.references or options.metric:
        if not (options.references and options.metric):
            raise SuiteError("--references and --metric go together; give both or neither")
        if not options.references.is_file():
            raise SuiteError(f"--references={options.references}: no such file")
        limits = replace(limits, references=str(options.references), metric=options.metric)
    return assess.assess(spool, assess.chosen(spool, options.candidate), limits)


def run(options: argparse.Namespace) -> int:
    """Run the proxy; return its exit code."""
    for name in ("primary", "candidate"):
        if not getattr(options, name):
            raise SuiteError(f"shadow: --{name} is missing; give the URL of the {name}, such as http://127.0.0.1:8000")
    settings = _settings(options)
    with needs(EXTRA):
        from pytest_finetune.shadow import service
    place = service.Place(options.primary, options.candidate, options.spool, options.host, options.port)
    replays = settings.mirror.mode == "spool" and not options.no_replay
    command = service.replay_command(options.spool, options.candidate, options.config, options.candidate_model)
    service.Service(place, settings, _facts(settings), _broken(settings), command if replays else ()).run()
    return 0


def run_replay(options: argparse.Namespace) -> int:
    """Ask what waits; return the exit code."""
    settings = _settings(options)
    with needs(EXTRA):
        from pytest_finetune.shadow import replay
        from pytest_finetune.shadow.candidate import Candidate
    if options.follow:
        replay.end_with_parent()
    candidate = Candidate(options.candidate, settings.mirror)
    answered = replay.run(options.spool, candidate, settings, _facts(settings), options.follow)
    if not options.follow:
        print(f"asked {candidate.name}: {answered} answers")
    return 0


def run_status(options: argparse.Namespace) -> int:
    """Print what the spool holds; return the exit code."""
    from pytest_finetune.shadow.spool import Spool

    spool = Spool(options.spool)
    for name, value in spool.counts().items():
        print(f"{name:<28} {value:>9,}")
    for candidate in spool.candidates():
        totals = spool.totals(candidate)
        print(f"{visible(candidate)}: {sum(totals.values())} replies, {spool.backlog(candidate)} waiting")
        for error, value in totals.items():
            if error:
                print(f"  {visible(error):<40} {value:>9,}")
        for move in spool.moves(candidate):
            when = datetime.fromtimestamp(move.time, UTC).isoformat(timespec="seconds")
            print(f"  {when} canary {move.share:.0%}: {visible(move.why)}")
    return 0


def run_purge(options: argparse.Namespace) -> int:
    """Delete texts; return the exit code."""
    from pytest_finetune import digest
    from pytest_finetune.shadow import config
    from pytest_finetune.shadow.spool import Spool, days_ago

    days = options.days
    if days is not None and not days >= 0:
        raise SuiteError(f"--days={days}: give how old the texts are at least that are deleted, such as 7")
    if days is None and not options.conversation:
        days = config.load(options.config).privacy.days
    before = math.inf if days is None else days_ago(days)
    name = digest.of(["header", options.conversation]) if options.conversation else ""
    done = Spool(options.spool).purge(before, name, options.numbers_too)
    print(f"{'deleted' if options.numbers_too else 'texts deleted of'} {done} exchanges")
    return 0


def run_verdict(options: argparse.Namespace) -> int:
    """Print the verdict; return its exit code."""
    from pytest_finetune.report import shadow
    from pytest_finetune.shadow.spool import Spool

    if options.report:
        _new("--report", options.report)
    spool = Spool(options.spool)
    verdict = _assessed(spool, options)
    for line in shadow.lines(verdict, spool.counts()):
        print(line)
    if options.report:
        made = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **to_plain(verdict)}
        report_file.write(options.report, json.dumps(made, indent=1) + "\n", "--report")
    return {"PROMOTE": 0, "REJECT": 1, "HOLD": 10}[verdict.outcome]


def run_cases(options: argparse.Namespace) -> int:
    """Write disagreements; return the exit code."""
    from pytest_finetune.shadow import assess, cases
    from pytest_finetune.shadow.spool import Spool

    _new("--out", options.out)
    spool = Spool(options.spool)
    pairs = spool.pairs(assess.chosen(spool, options.candidate))
    print(f"wrote {cases.write(pairs, options.out, options.limit)} rows to {options.out}; label them before they count")
    return 0


def run_canary(options: argparse.Namespace) -> int:
    """Move conversations to the candidate, or back; return the exit code."""
    from pytest_finetune.shadow import assess, canary
    from pytest_finetune.shadow.spool import Move, Spool

    spool = Spool(options.spool)
    candidate = assess.chosen(spool, options.candidate)
    if options.back:
        move = Move(time.time(), candidate, 0.0, f"{canary.BACK}: by hand")
    else:
        verdict = _assessed(spool, options)
        if verdict.outcome != "PROMOTE" and not options.force:
            raise SuiteError(
                f"canary: the verdict on {candidate} is {verdict.outcome}, and only PROMOTE starts one; "
                "see `shadow verdict`, or give --force REASON"
            )
        why = f"{canary.START}: {verdict.outcome}" + (f", forced: {options.force}" if options.force else "")
        move = Move(time.time(), candidate, _settings(options).canary.steps[0], why)
    spool.move(move)
    print(f"canary of {visible(candidate)}: {move.share:.0%} of conversations, within a second")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Write Parquet; return the exit code."""
    from pytest_finetune.shadow import export
    from pytest_finetune.shadow.spool import Spool

    _new("--out", options.out)
    print(f"wrote {export.write(Spool(options.spool), options.out)} pairs to {options.out}")
    return 0
