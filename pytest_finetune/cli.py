"""The command line beside pytest: start a suite, ask for advice, look at data, runs and the store."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_finetune import advisor, curate, suite
from pytest_finetune.curate import output
from pytest_finetune.errors import FinetuneError, SuiteError
from pytest_finetune.methods import METHODS
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
    advise.add_argument("model", help="embedded, or a model's folder")
    advise.add_argument("--rows", type=int, default=1000, help="examples to train on (1000)")
    advise.add_argument("--memory-gib", type=float, default=0.0, help="of the GPU; unknown if absent")
    advise.add_argument("--rank", type=int, default=16, help="of LoRA (16)")
    advise.add_argument("--tokens", type=int, default=2048, help="a row (2048)")
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
    folder = suite.model_folder(options.model, Path.cwd())
    if folder is None or not (folder / "config.json").is_file():
        raise SuiteError(f"{options.model!r} is no model folder (no config.json); download the model, or name embedded")
    shape = advisor.shape_of(folder / "config.json")
    estimates = {name: advisor.estimate(shape, name, rank=options.rank, tokens=options.tokens) for name in METHODS}
    method, reason = advisor.advise(options.rows, options.memory_gib * advisor.GIB, estimates)
    for name, need in estimates.items():
        low, high = need.low_bytes / advisor.GIB, need.high_bytes / advisor.GIB
        print(f"{name:<8} {low:7.1f} to {high:6.1f} GiB   {METHODS[name].summary}")
    print(f"advice: {method}: {reason}")
    return 0


def _curate(options: argparse.Namespace) -> int:
    file = suite.find(options.suite.resolve(), options.suite.resolve())
    if file is None:
        raise SuiteError(f"{options.suite}: no {suite.FILE} in it")
    spec = suite.load(file, Path.cwd())
    if options.out:
        output.check_free(options.out)
    data = curate.curate(spec)
    print(f"{spec.name}: {len(data.train)} train, {len(data.dev)} dev, {len(data.heldout)} held-out")
    for finding in data.findings:
        print(f"{'refused' if finding.refuses else 'warning'}: {curate.describe(finding)}")
    if spec.checks["wrong_references"].on_issue != "off":
        print("wrong_references: trains, and so runs under pytest --finetune only")
    if options.out:
        output.write(spec, data, options.out)
        print(f"wrote train.jsonl, dev.jsonl, heldout.jsonl, report.md and report.jsonl to {options.out}")
    return int(any(finding.refuses for finding in data.findings))


def _report(options: argparse.Namespace) -> int:
    for found in run_json.read(options.run_json).suites:
        for text, _ in suite_lines(found):
            print(text)
    return 0


def _store(options: argparse.Namespace) -> int:
    store = Store(options.store)
    if not options.store.is_dir():
        raise SuiteError(f"{options.store}: no store there; name it with --store")
    now = time.time()
    for entry in list(store.entries()):
        days = (now - entry.modified) / 86400
        old = options.prune_days is not None and days > options.prune_days
        note = "  deleted" if old else ""
        if old:
            store.remove(entry)
        print(f"{entry.stage:<12} {entry.key[:12]} {entry.size_bytes:>12,} bytes {days:6.1f} days{note}")
    return 0
