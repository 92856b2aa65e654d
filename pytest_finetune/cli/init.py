"""`pytest-finetune init`: a suite that runs at once, its tests, and the workflow that gates merges by it."""

import argparse
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from pytest_finetune import curate, suite
from pytest_finetune.advisor import TASKS
from pytest_finetune.cli.command import Commands
from pytest_finetune.errors import SuiteError, named_choice
from pytest_finetune.report.escape import visible
from pytest_finetune.starter import texts, workflow
from pytest_finetune.starter.draft import SAMPLE_TASK, Wish, draft
from pytest_finetune.suite import EMBEDDED

FOLDER = "eval_suites/first"
IGNORED = ".finetune/"
CONFIGS = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
CONFIG = """\
[pytest] # marks the root, so that a run from any folder uses the one store and its ledger
minversion = "9.0"
"""


def add(commands: Commands) -> None:
    """Add the command."""
    init = commands.add_parser("init", help="write a suite that runs at once, its tests and the CI workflow")
    init.add_argument("folder", nargs="?", default="", help=f"a new folder for the suite ({FOLDER})")
    init.add_argument("--task", default="", help=f"{', '.join(TASKS)} (what the answers look like)")
    init.add_argument("--model", default="", help=f"a model's folder, or a Hugging Face id ({EMBEDDED})")
    init.add_argument("--revision", default="", help="the commit of a Hugging Face model, 40 hexadecimal digits")
    init.add_argument("--train", default="", help="your rows to train on (sample rows)")
    init.add_argument(
        "--heldout", default="", help="your rows to judge by (a fifth of the others, in files of its own)"
    )
    init.add_argument("--fields", nargs=2, default=(), metavar=("PROMPT", "COMPLETION"), help="the columns (by name)")
    init.add_argument("--general", nargs="+", default=[], help="rows of skills to keep; NAME-replay beside is replayed")
    init.add_argument("--yes", action="store_true", help="ask nothing: take the defaults of what is not given")
    init.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    if not options.yes and sys.stdin.isatty() and sys.stdout.isatty():
        _ask(options)
    folder = Path(options.folder or FOLDER)
    _check(options, folder)
    wish = Wish(
        Path.cwd(),
        folder,
        options.task,
        options.model or EMBEDDED,
        options.revision,
        options.train,
        options.heldout,
        options.fields,
        options.general,
    )
    plan, files = draft(wish)
    name = re.sub("[^0-9A-Za-z_]", "_", folder.resolve().name)
    files |= {
        suite.FILE: texts.suite(plan),
        f"test_{name}.py": texts.tests(keeps=bool(plan.general)),
    }
    _write({folder / file: text for file, text in files.items()})
    _share(folder, gpu=plan.model != EMBEDDED)
    if not plan.sample:
        kind = (
            f"{len(plan.answers.labels)} labels" if plan.answers.labels else "JSON" if plan.answers.schema else "text"
        )
        print(
            f"read as {plan.task}: {plan.fields.prompt!r} is asked, {plan.fields.completion!r} is the answer ({kind})"
        )
    return _look(folder)


def _ask(options: argparse.Namespace) -> None:
    """Ask on the terminal for what no flag says; an empty answer takes the default."""
    options.folder = options.folder or _answer("Folder of the suite", FOLDER)
    options.train = options.train or _answer("File of rows to train on (empty: sample rows)")
    if options.train:
        options.heldout = options.heldout or _answer("File of rows to judge by (empty: a fifth of the others)")
        options.general = options.general or _answer("Files of skills to keep (empty: none)").split()
    guess = " (empty: what the answers look like)" if options.train else ""
    options.task = options.task or _answer(f"Task: {', '.join(TASKS)}{guess}", "" if guess else SAMPLE_TASK)
    options.model = options.model or _answer("Base model: embedded, a folder or a Hugging Face id", EMBEDDED)
    if suite.model_folder(options.model, Path.cwd()) is None:
        options.revision = options.revision or _answer("Its commit, 40 hexadecimal digits")


def _answer(question: str, default: str = "") -> str:
    try:
        return input(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
    except (EOFError, KeyboardInterrupt):
        print()
        raise SuiteError("init: ended before its last question; nothing was written") from None


def _check(options: argparse.Namespace, folder: Path) -> None:
    """Refuse what can be known to be wrong before a row is read."""
    root = Path.cwd()
    above = next((parent for parent in (root, *root.parents) if (parent / ".git").exists()), root)
    if above != root:
        raise SuiteError(
            f"init: {root} lies inside of the repository {above}; run it there, and name the suite's folder"
        )
    if not folder.resolve().is_relative_to(root):
        raise SuiteError(f"{folder}: leads out of {root}; a suite is kept in the project that it gates")
    if options.task not in ("", *TASKS):
        raise SuiteError(f"--task: {named_choice(options.task, TASKS)}")
    if not options.train and (options.heldout or options.general or options.fields):
        raise SuiteError(
            "--heldout, --general, --fields: they go with rows of yours to train on; name these with --train"
        )
    if options.model in ("", EMBEDDED):
        return
    model = suite.model_folder(options.model, root)
    if model is None and not re.fullmatch("[0-9a-f]{40}", options.revision):
        raise SuiteError(
            f"--model {options.model}: no folder is called so, and a Hugging Face id needs its commit: --revision with "
            "40 hexadecimal digits"
        )
    if model and not (model / "config.json").is_file():
        raise SuiteError(f"--model {options.model}: there is no config.json in it; name a model's folder")


def _write(files: Mapping[Path, str]) -> None:
    """Write new files, all or none."""
    for path in files:
        if path.exists():
            raise SuiteError(f"{path}: exists and is not overwritten; name another folder")
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise SuiteError(f"{path}: cannot be written: {error.strerror}") from None
        print(f"wrote {path}")


def _share(folder: Path, gpu: bool) -> None:
    """Write what all suites of a repository share, where it is not there; what is, is the user's."""
    ignore, caller = Path(".gitignore"), Path(workflow.FILE)
    if not ignore.exists():
        _write({ignore: f"{IGNORED}\n"})
    elif not {IGNORED, IGNORED[:-1], f"/{IGNORED}"}.intersection(ignore.read_text(errors="replace").split()):
        print(f"{ignore} is yours: add the line {IGNORED} to it")
    if not any(Path(name).exists() for name in CONFIGS):
        _write({Path(CONFIGS[0]): CONFIG})
    inside = folder.resolve().relative_to(Path.cwd())
    text = workflow.text(inside.parts[0] if inside.parts else ".", gpu)
    if not caller.exists():
        _write({caller: text})
    elif caller.read_text(errors="replace") != text:
        print(f"{caller} is yours: see that it gates {folder}, too")


def _look(folder: Path) -> int:
    """Say whether the data is fit, and what to do next."""
    spec = suite.load(folder.resolve() / suite.FILE, Path.cwd())
    curated, name = curate.curate(spec), shlex.quote(str(folder))
    print(f"{len(curated.train)} rows to train on, {len(curated.dev)} to choose by, {len(curated.heldout)} to judge by")
    for finding in curated.findings:
        print(f"{'refused' if finding.refuses else 'warning'}: {visible(curate.describe(finding))}")
    if not spec.general:
        print("warning: no general suite, so forgetting goes unseen: write [[general]] into suite.toml, and gate.keeps")
    if any(finding.refuses for finding in curated.findings):
        print(f"next: mend the rows, until this finds no more: pytest-finetune curate {name}")
        return 1
    print(f"next: pytest --finetune-plan {name}  # what the data can prove, in seconds")
    print(f"      pytest --finetune {name}")
    return 0
