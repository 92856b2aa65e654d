"""The faults and attacks that tests prove: `pytest --hardening` runs those tests and prints the two tables.

A test proves a row by its marker, `@pytest.mark.fault(5)` or `@pytest.mark.attack(12)`; several may prove one.
`python tests/hardening.py` writes the tables of docs/reliability.md.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- tables: python tests/hardening.py -->", "<!-- end of tables -->"


class Row(NamedTuple):
    """What may happen, and what then does."""

    what: str
    then: str


TABLES = {
    "fault": (
        Row("kill -9 in training", "the next run goes on, or starts again, and ships the same adapter"),
        Row("kill before the manifest is written", "the entry does not exist"),
        Row("half-written checkpoint", "the one before it is used"),
        Row("cancelled in CI: SIGINT, 7.5 s, SIGTERM, 2.5 s, SIGKILL", "no process stays, the store is whole"),
        Row("bit flip in a stored adapter", "set aside, trained again"),
        Row("truncated file", "set aside, made again"),
        Row("adapter holds NaN", "an error before anything is measured"),
        Row("adapter that changes nothing", "an error: tensors of wrong names, or the base model's own answers"),
        Row("garbage in a stored verdict", "decided again"),
        Row("8 runs at once", "trained once"),
        Row("a lock's holder is killed", "the lock is free within 2 s"),
        Row("locks that do nothing", "work is done twice, and nothing else happens"),
        Row("xdist with 4 workers", "trained once"),
        Row("disk full", "the store stays whole; the error names the bytes it takes"),
        Row("read-only store", "a warning, and a run that keeps nothing"),
        Row("out of memory in training", "smaller micro-batches, the same effective batch"),
        Row("out of memory in generation", "smaller batches, the same order"),
        Row("engine killed by the host", "an error that says so"),
        Row("loss is NaN or infinite", "an error at once, with the step"),
        Row("generation hangs", "ended by the watchdog: an error"),
        Row("GPU lost", "an error that says so"),
        Row("broken data files", "one line with file and line, before any compute"),
        Row("train and held-out share rows, exact or near", "refused (near ones if the suite says so), with the rows"),
        Row("hub unreachable, or answers 429", "what is cached is used, or one line says what to do"),
        Row("base revision or a library changed", "made again, never a stale hit"),
    ),
    "attack": (
        Row("a fork's pull request reaches the GPU runner", "refused without a maintainer's approval"),
        Row("pull_request_target with the head checked out", "not in any workflow that is shipped"),
        Row("a pull request lowers the bar, or edits held-out data", "flagged, and red until somebody accepts it"),
        Row("a pull request poisons the shared store", "it writes a namespace of its own, which main never reads"),
        Row("forged verdict", "the judging job decides again, from outputs and digests"),
        Row("pickled weights", "not loaded: safetensors only"),
        Row("remote code by auto_map", "refused unless --finetune-trust-remote-code"),
        Row("hostile keys in config.json", "refused: architectures and tables are on a list, values are plain"),
        Row("an adapter names another base model", "not read: the suite's base model stands"),
        Row("an adapter's auto_mapping or megatron_core imports a module", "not read: only keys on a list reach PEFT"),
        Row("target_modules as an evil regex", "refused: names only"),
        Row("a chat template that loops, or takes gigabytes", "ended at the engine's caps of time and memory"),
        Row("tokenizer_kwargs in a prompt-tuning adapter", "not read"),
        Row("a data set with a script", "never run: files are JSONL, CSV or Parquet, and hub data sets have none"),
        Row("../, symlinks and absolute paths in suite.toml", "resolved inside the project, or refused"),
        Row("workflow commands in a model's output", "neutralised in every line of a log"),
        Row("terminal and bidirectional control characters in outputs", "escaped in terminal and Markdown"),
        Row("HTML, Markdown, @mentions and remote images in outputs", "escaped; nothing is loaded or acts"),
        Row("secrets in environment, logs and reports", "the engine gets a list of variables; values are redacted"),
        Row("the shadow proxy as a way in", "two fixed upstreams, no redirects, loopback"),
    ),
}
ALL = [(kind, number) for kind, rows in TABLES.items() for number in range(1, len(rows) + 1)]
Proofs = dict[tuple[str, int], list[str]]


def proofs() -> Proofs:
    """Return the tests of each row by kind and number, as they stand in the files."""
    found: Proofs = defaultdict(list)
    for file in sorted(TESTS.rglob("test_*.py")):
        for test in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef):
                for key in _marks(test):
                    found[key].append(f"{file.relative_to(TESTS.parent).as_posix()}::{test.name}")
    return found


def _marks(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, int]]:
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Attribute) and mark.func.attr in TABLES:
            yield from ((mark.func.attr, ast.literal_eval(number)) for number in mark.args)


def tables() -> str:
    """Return both tables in Markdown."""
    found = proofs()
    lines = []
    for kind, rows in TABLES.items():
        lines += ["", f"| # | {kind} | what happens | shown by |", "| --- | --- | --- | --- |"]
        for number, row in enumerate(rows, 1):
            tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in found[kind, number])
            lines.append(f"| {number} | {row.what} | {row.then} | {tests} |")
    return "\n".join([*lines, ""])


def page() -> str:
    """Return docs/reliability.md with the tables as they should be."""
    text = PAGE.read_text(encoding="utf-8")
    return f"{text.partition(BEGIN)[0]}{BEGIN}\n{tables()}\n{END}{text.partition(END)[2]}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Run what proves the tables, and nothing else."""
    parser.addoption("--hardening", action="store_true", help="run the tests of all faults and attacks")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have each report say what its test proves."""
    for item in items:
        for kind in TABLES:
            for mark in item.iter_markers(kind):
                item.user_properties += [(kind, number) for number in mark.args]
    if config.getoption("hardening"):
        config.hook.pytest_deselected(items=[item for item in items if not _proves(item)])
        items[:] = [item for item in items if _proves(item)]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print a line a test under each row, and how many rows hold."""
    if not _judges(config):
        return
    outcomes = _outcomes(terminalreporter)
    terminalreporter.section("faults and attacks")
    for kind, number in ALL:
        row = TABLES[kind][number - 1]
        holds = "holds" if _holds(outcomes[kind, number]) else "OPEN"
        terminalreporter.line(f"{holds:5}  {kind} {number}: {row.what}: {row.then}")
        for test, outcome in sorted(outcomes[kind, number].items()):
            terminalreporter.line(f"         {outcome:7} {test}")
    terminalreporter.line(f"{sum(_holds(outcomes[key]) for key in ALL)} of {len(ALL)}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where no test showed a row, though none failed either."""
    if _judges(session.config) and session.exitstatus == pytest.ExitCode.OK:
        outcomes = _outcomes(session.config.pluginmanager.getplugin("terminalreporter"))
        if not all(_holds(outcomes[key]) for key in ALL):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _judges(config: pytest.Config) -> bool:
    return (
        bool(config.getoption("hardening"))
        and not config.getoption("collectonly")
        and not hasattr(config, "workerinput")
    )


def _outcomes(reporter: pytest.TerminalReporter) -> dict[tuple[str, int], dict[str, str]]:
    """Return what became of each row's tests, by the test's name."""
    found: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for outcome in ("passed", "skipped", "failed", "error"):  # the last one counts: an error may follow a pass
        for report in reporter.getreports(outcome):
            for kind, number in report.user_properties:
                found[kind, number][report.nodeid] = outcome
    return found


def _holds(outcomes: dict[str, str]) -> bool:
    return "passed" in outcomes.values() and not {"failed", "error"} & {*outcomes.values()}


def _proves(item: pytest.Item) -> bool:
    return any(kind in TABLES for kind, _ in item.user_properties)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
