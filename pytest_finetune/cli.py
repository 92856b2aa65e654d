"""The command line beside pytest: start a suite, ask for advice, look at data, runs and the store."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pytest_finetune import advisor, curate, data, memory, suite, workload
from pytest_finetune import device as devices
from pytest_finetune.curate import output
from pytest_finetune.errors import FinetuneError, SuiteError
from pytest_finetune.ledger import Ledger
from pytest_finetune.memory import GIB
from pytest_finetune.records import to_plain
from pytest_finetune.report import run_json
from pytest_finetune.report.terminal import suite_lines
from pytest_finetune.store import Store

SUITE = """\
#:schema https://raw.githubusercontent.com/pytest-finetune/pytest-finetune/main/pytest_finetune/suite.schema.json
model = "embedded"
task = "instruction"
data = { train = "train.jsonl", heldout = "heldout.jsonl" }

[prompts]
candidates = ["Write your best prompt here.", "And another one."]
"""
TEST = '''\
"""No eval, no training: what the adapter must prove before it ships."""


def test_beats_the_best_prompt(gate, adapter, baseline, heldout):
    gate.beats(adapter, baseline, on=heldout)
'''


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 1 where it found something wrong, or 4 for a usage error."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except FinetuneError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pytest-finetune", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="write the smallest suite into a new folder")
    init.add_argument("folder", type=Path)
    init.set_defaults(run=_init)

    advise = commands.add_parser("advise", help="say which method fits, and the memory each one takes")
    advise.add_argument("about", metavar="SUITE_OR_MODEL", help="a suite's folder, a model's folder, or embedded")
    advise.add_argument("--rows", type=int, help="examples to train on (the suite's; else 1000)")
    advise.add_argument("--task", help=f"{', '.join(advisor.TASKS)} (the suite's; else instruction)")
    advise.add_argument("--device", default="auto", help="auto, cpu or cuda")
    advise.add_argument("--memory-gib", type=float, help="of the device (what it has)")
    advise.add_argument("--rank", type=int, help="of LoRA (the suite's; else 8)")
    advise.add_argument("--tokens", type=int, help="of the longest row (the suite's; else 2048)")
    advise.add_argument("--completion-tokens", type=int, help="of them taught (the suite's; else a quarter)")
    advise.add_argument("--batch-size", type=int, help="rows at once (the suite's; else 8)")
    advise.add_argument("--api", action="store_true", help="the model is only to be had behind an API")
    advise.add_argument("--many-tasks", action="store_true", help="many tasks are to be served on one base model")
    advise.add_argument("--json", action="store_true", help="print the advice as JSON")
    advise.set_defaults(run=_advise)

    check = commands.add_parser("curate", help="check a suite's data; exit code 1 where a check fails")
    check.add_argument("suite", type=Path, help="its folder")
    check.add_argument("--out", type=Path, help="a new folder for the cleaned rows and a report")
    check.set_defaults(run=_curate)

    report = commands.add_parser("report", help="draw a saved run again")
    report.add_argument("run_json", type=Path, help="what --finetune-report wrote")
    report.set_defaults(run=_report)

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
    store.set_defaults(run=_store)
    return parser


def _init(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    files = {suite.FILE: SUITE, f"test_{folder.resolve().name}.py": TEST}
    for name in files:
        if (folder / name).exists():
            raise SuiteError(f"{folder / name} exists; it is not overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
        print(f"wrote {folder / name}")
    print(f"next: put train.jsonl and heldout.jsonl there, then run: pytest --finetune {folder}")
    return 0


def _advise(options: argparse.Namespace) -> int:
    advice = advisor.advise(_request(options))
    if options.json:
        print(json.dumps(to_plain(advice), indent=2))
        return 0
    print(f"{'method':<12} {'memory, GiB':<15} fits  {'weights':>8} {'gradients':>9} {'optimiser':>9}", end="")
    print(f" {'activations':>11} {'logits':>6}  ceiling")
    for option in advice.table:
        need = option.memory
        span = f"{need.low / GIB:.2f} to {need.high / GIB:.2f}" if need else "none" if option.fits else "unknown"
        parts = (need.weights, need.gradients, need.optimiser, need.activations, need.logits) if need else ()
        columns = [f"{part / GIB:>{width}.2f}" for part, width in zip(parts, (8, 9, 9, 11, 6), strict=False)]
        fits = "yes" if option.fits else "no"
        print(f"{option.method:<12} {span:<15} {fits:<5} {' '.join(columns):<47}  {option.ceiling}")
    print(f"advice: {advice.method}: {advice.reason}")
    return 0


def _request(options: argparse.Namespace) -> advisor.Request:
    """Build the request from a suite or a model's folder; an option goes before what stands there."""
    device = devices.choose(options.device, "--device")
    folder = Path(options.about)
    spec = suite.load(folder.resolve() / suite.FILE, Path.cwd()) if (folder / suite.FILE).is_file() else None
    name, place = (spec.model, spec.folder) if spec else (options.about, Path.cwd())
    model = suite.model_folder(name, place)
    if model is None and not options.api:
        raise SuiteError(f"{name!r} is no folder here; download the model, name embedded, or give --api")
    rows, load = 1000, memory.Load(device=device.partition(":")[0])
    if spec:
        rows, load = _sizes(spec, device)
    given = {"tokens": options.tokens, "rank": options.rank, "rows": options.batch_size}
    load = replace(load, **{key: value for key, value in given.items() if value is not None})
    taught = options.completion_tokens or load.completion_tokens or load.tokens // 4
    load = replace(load, completion_tokens=min(taught, load.tokens))
    have = devices.memory_bytes(device) if options.memory_gib is None else int(options.memory_gib * GIB)
    return advisor.Request(
        task=options.task or (spec.task if spec else "instruction"),
        train_rows=rows if options.rows is None else options.rows,
        shape=None if options.api or model is None else memory.shape_of(model),
        load=load,
        memory_bytes=have,
        api_only=options.api,
        many_tasks=options.many_tasks,
    )


def _sizes(spec: suite.SuiteSpec, device: str) -> tuple[int, memory.Load]:
    """Count a suite's rows and tokens as they stand in its files; few or bad rows are no error here."""
    train = data.load(spec.train, spec.fields)
    dev = len(data.load(spec.dev, spec.fields)) if spec.dev else curate.dev_rows(len(train), spec.dev_share)
    replay = [e for general in spec.general for e in data.load(general.replay, general.fields)]
    return len(train) - (0 if spec.dev else dev), workload.load_of(spec, [*train, *replay], dev, device)


def _curate(options: argparse.Namespace) -> int:
    file = suite.find(options.suite.resolve(), options.suite.resolve())
    if file is None:
        raise SuiteError(f"{options.suite}: no {suite.FILE} in it")
    spec = suite.load(file, Path.cwd())
    if options.out:
        output.check_free(options.out)
    curated = curate.curate(spec)
    print(f"{spec.name}: {len(curated.train)} train, {len(curated.dev)} dev, {len(curated.heldout)} held-out")
    for finding in curated.findings:
        print(f"{'refused' if finding.refuses else 'warning'}: {curate.describe(finding)}")
    if spec.checks["wrong_references"].on_issue != "off":
        print("wrong_references: trains, and so runs under pytest --finetune only")
    if options.out:
        output.write(spec, curated, options.out)
        print(f"wrote train.jsonl, dev.jsonl, heldout.jsonl, report.md and report.jsonl to {options.out}")
    return int(any(finding.refuses for finding in curated.findings))


def _report(options: argparse.Namespace) -> int:
    for found in run_json.read(options.run_json).suites:
        for text, _ in suite_lines(found):
            print(text)
    return 0


def _store(options: argparse.Namespace) -> int:
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
        print(
            f"{entry.time}  {entry.suite}: {entry.data}, {entry.question}: attempt {entry.attempt}, {name}: "
            f"{entry.outcome or 'not decided'}"
        )
    return 0
