"""`pytest-finetune promote`: take out the adapters that passed, as their verdict knows them."""

import argparse
import shutil
from pathlib import Path

from pytest_finetune import digest
from pytest_finetune.cli.command import Commands
from pytest_finetune.errors import SuiteError
from pytest_finetune.records import Adapter
from pytest_finetune.report import run_json
from pytest_finetune.tuning import SHIPPED

SUMS = "SHA256SUMS"


def add(commands: Commands) -> None:
    """Add the command."""
    promote = commands.add_parser("promote", help="copy the adapters of a run that passed, checked by their digests")
    promote.add_argument("run_json", type=Path, help="what --finetune-report or verdict --report wrote")
    promote.add_argument(
        "--out", type=Path, required=True, help="a new folder; it gets a folder a suite and SHA256SUMS"
    )
    promote.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    found = run_json.read(options.run_json)
    if found.outcome != "PASS":
        raise SuiteError(f"{options.run_json}: the run came to {found.outcome}; only what passed is promoted")
    if options.out.exists():
        raise SuiteError(f"--out={options.out}: there is something already; name a new folder")
    adapters = {suite.name: suite.adapter for suite in found.suites if suite.adapter}
    files = [(name, path) for name, adapter in adapters.items() for path in _shipped(options.run_json, adapter)]
    for name, path in files:
        (options.out / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, options.out / name / path.name)
    options.out.mkdir(exist_ok=True)
    sums = [f"{digest.of_file(options.out / name / path.name)}  {name}/{path.name}\n" for name, path in files]
    (options.out / SUMS).write_text("".join(sums), encoding="utf-8")
    for name, adapter in adapters.items():
        print(f"{name}: adapter {adapter.digest[:12]} in {options.out / name}")
    return 0


def _shipped(run_file: Path, adapter: Adapter) -> list[Path]:
    """Return an adapter's files, if they are the ones that were judged."""
    folder = Path(adapter.path)
    patterns = ("prompt.json",) if adapter.method == "prompt" else SHIPPED
    if digest.of_files(folder, patterns) != adapter.digest:
        raise SuiteError(f"{run_file}: {folder} does not hold the adapter that was judged; judge it again")
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
