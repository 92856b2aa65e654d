"""The plugin as pytest sees it: options, hooks and fixtures; each only delegates.

This module is imported by every pytest run, so it imports nothing of ours at module level.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_finetune.cases import Case
    from pytest_finetune.claims import Gate
    from pytest_finetune.handles import AdapterHandle, ModelHandle
    from pytest_finetune.pipeline import Pipeline
    from pytest_finetune.rows import General, Rows
    from pytest_finetune.session import FinetuneSession
    from pytest_finetune.shadowed import ShadowHandle
    from pytest_finetune.suite import SuiteSpec

FIXTURES = frozenset({"suite", "base_model", "baseline", "adapter", "heldout", "general", "gate", "case", "shadow"})
SKIPPED = "needs --finetune"
OUTCOME = "finetune_outcome"  # on a report: FAIL, INCONCLUSIVE, ERROR, MISTAKE, or CASE FAILED
STATUS = {
    "INCONCLUSIVE": ("inconclusive", "I", ("INCONCLUSIVE", {"yellow": True})),
    "ERROR": ("error", "E", ("ERROR", {"red": True})),
    "MISTAKE": ("error", "E", ("ERROR", {"red": True})),
    "CASE FAILED": ("case failed", "c", ("CASE FAILED", {"yellow": True})),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options and their ini twins."""
    group = parser.getgroup("finetune", "fine-tuning gate (pytest-finetune)")

    def option(name: str, help: str, twin: bool = True, **settings: Any) -> None:
        dest = name.removeprefix("--").replace("-", "_")
        group.addoption(name, dest=dest, help=help, default=None, **settings)
        if twin:
            parser.addini(dest, f"Default of {name}.", default="")

    group.addoption(
        "--finetune",
        action="store_true",
        dest="finetune",
        help="Run the suites' tests: check the data, find the best prompt, train the adapter where the store has "
        "none, and fail where a claim is not proven. Without it they are skipped.",
    )
    parser.addini("finetune", "Run as with --finetune.", type="bool", default=False)
    option(
        "--finetune-plan",
        "Print what a run would do and what the data can prove, and run nothing.",
        twin=False,
        action="store_true",
    )
    option(
        "--finetune-method",
        "Method in place of the suite's: auto, lora, qlora, soft_prompt, full, prompt.",
        metavar="NAME",
    )
    option(
        "--finetune-engine",
        "What answers, in place of the suite's: local, vllm, endpoint, or the URL of an OpenAI-compatible server.",
        metavar="NAME",
    )
    option("--finetune-device", "auto, cpu, cuda or cuda:N (auto: a GPU where there is one).", metavar="NAME")
    option(
        "--finetune-launcher",
        "Train in the processes that this command starts: 'torchrun --nproc-per-node 8', 'accelerate launch ...'.",
        metavar="COMMAND",
    )
    option(
        "--finetune-engine-env",
        "Variables that the engine's process gets beside those on its list: NAMES, PREFIX_*.",
        metavar="NAMES",
    )
    option(
        "--finetune-engine-timeout",
        "End an engine that gives no sign of life for so long amid a request, 0 never (3600).",
        metavar="SECONDS",
    )
    option("--finetune-engine-memory-gib", "This machine's memory that the engine may take (all).", metavar="GIB")
    option("--finetune-memory-gib", "Memory that training may take (what the device has).", metavar="GIB")
    option("--finetune-store", "Folder of the store (.finetune in the rootdir).", metavar="DIR")
    option(
        "--finetune-store-from",
        "Read this store, too, and write nothing there, as a pull request's run does main's: a folder, or a URL.",
        twin=False,  # whose run it is, the pull request must not say
        metavar="DIR",
    )
    option(
        "--finetune-remote",
        "Take what the store lacks from here, and put there what is made: s3://bucket/prefix, gs://, file:///folder.",
        metavar="URL",
    )
    option("--finetune-report", "Write the whole run as JSON to this file.", metavar="FILE")
    option("--finetune-html", "Write the run as a page of HTML, which loads nothing, to this file.", metavar="FILE")
    option("--finetune-markdown", "Write the run as Markdown, for a pull request, to this file.", metavar="FILE")
    option("--finetune-adapter", "Gate this adapter folder, made elsewhere, in place of training one.", metavar="DIR")
    option(
        "--finetune-shadow", "The spool of `pytest-finetune shadow`, which the fixture shadow reads.", metavar="FILE"
    )
    option("--finetune-seed", "Seed of training in place of 0.", metavar="N")
    option("--finetune-seeds", "Train so many seeds, and judge the recipe instead of one adapter (1).", metavar="N")
    option(
        "--finetune-no-early-stop",
        "Measure all rows, also after the verdict is settled; it stays the same.",
        twin=False,
        action="store_true",
    )
    option("--finetune-track", "Tell trackers of training's losses: tensorboard, mlflow, wandb (off).", metavar="NAMES")
    option(
        "--finetune-explain",
        "Say for every stage of every suite why it was reused or made.",
        twin=False,
        action="store_true",
    )
    option(
        "--finetune-evidence",
        "Copy all that the verdicts rest on into this new folder, from which --finetune-recompute judges anew.",
        twin=False,
        metavar="DIR",
    )
    option(
        "--finetune-recompute",
        "Judge anew from what --finetune-store holds, and ask no model: what is missing is a fault.",
        twin=False,
        action="store_true",
    )
    option(
        "--finetune-matrix",
        "With --finetune-plan: write the suites to run to this file, as a job matrix of GitHub Actions.",
        twin=False,
        metavar="FILE",
    )
    option(
        "--finetune-cells",
        "With --finetune-plan: write what is to be run into this folder, a cell a suite, method and seed.",
        twin=False,
        metavar="DIR",
    )
    option(
        "--finetune-measure",
        "Train and measure this seed of the recipe only, from 0, and judge nothing: run-cell's, merge judges.",
        twin=False,
        metavar="PART",
    )
    option(
        "--finetune-executor",
        "Who runs the suites' cells before the tests: local:N at once, ray, ray://HOST:PORT (this process).",
        metavar="NAME",
    )
    # None has an ini twin: a pull request can edit the ini file, and must not accept its own changes, or code.
    option(
        "--finetune-policy-ref",
        "Fail where less must be proven than at this commit, or by other rows or code: origin/main.",
        twin=False,
        metavar="REF",
    )
    option(
        "--finetune-accept-policy-change",
        "Pass in spite of what --finetune-policy-ref finds, which reports flag all the same.",
        twin=False,
        action="store_true",
    )
    option(
        "--finetune-trust-remote-code",
        "Run the code that a model brings along in its folder or repository (auto_map), with all that you may do.",
        twin=False,
        action="store_true",
    )
    option("--finetune-retrain", "Train again, also where the store has the adapter.", twin=False, action="store_true")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register our hooks."""
    from pytest_finetune import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and open the run's state under ``--finetune``."""
    config.addinivalue_line("markers", "finetune: set by the plugin on every test of a suite; select with -m finetune.")
    if config.getoption("finetune_matrix") and not config.getoption("finetune_plan"):
        raise pytest.UsageError("--finetune-matrix: is written by a plan; add --finetune-plan")
    if config.getoption("finetune_cells") and not config.getoption("finetune_plan"):
        raise pytest.UsageError("--finetune-cells: are written by a plan; add --finetune-plan")
    if not (config.getoption("finetune") or config.getoption("finetune_plan") or config.getini("finetune")):
        return
    from pytest_finetune.outcomes import usage_errors
    from pytest_finetune.session import KEY, FinetuneSession

    with usage_errors():
        config.stash[KEY] = FinetuneSession(config, OUTCOME)
    config.pluginmanager.register(config.stash[KEY].outcomes, "finetune_outcomes")


def _session(config: pytest.Config) -> FinetuneSession | None:
    import sys

    module = sys.modules.get("pytest_finetune.session")
    return config.stash.get(module.KEY, None) if module else None


def _asks(item: pytest.Item, fixtures: frozenset[str]) -> bool:
    """Whether a test uses one of these fixtures of ours, and not a parameter of its own that is called the same."""
    names = fixtures.intersection(getattr(item, "fixturenames", ()))
    info: Any = getattr(item, "_fixtureinfo", None)  # pytest has no public way to tell whose a fixture is
    return any(own.func.__module__ == __name__ for name in names for own in info.name2fixturedefs.get(name, ()))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have GitHub's runner take nothing that models or tests print for a command."""
    state = _session(session.config)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if state and reporter and (stop := state.hush()):
        reporter.write_line(stop)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the engine, however the run ended; then, after all that pytest prints, tell GitHub's runner."""
    if session := _session(config):
        session.close()
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter and session.resume:
            for line in (session.resume, *session.annotations):
                reporter.write_line(line)


def pytest_collect_file(file_path: Any, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a suite's file, whose ``data`` item checks the data."""
    if file_path.name != "suite.toml" or _session(parent.config) is None:
        return None
    from pytest_finetune.collect import SuiteFile

    return SuiteFile.from_parent(parent, path=file_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses our ``case`` once for each held-out row."""
    session = _session(metafunc.config)
    if session is None or not _asks(metafunc.definition, frozenset({"case"})):
        return
    from pytest_finetune import collect

    collect.parametrise(session, metafunc)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before -k and -m deselect: a narrowed run is not an ungated suite
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Mark the tests of suites; skip them without ``--finetune``, check their suites with it."""
    session = _session(config)
    asking = [item for item in items if _asks(item, FIXTURES)]
    if session is None:
        if asking:
            from pytest_finetune import suite

            for item in asking:
                if suite.find(item.path.parent, config.rootpath):
                    item.add_marker("finetune")
                    item.add_marker(pytest.mark.skip(reason=SKIPPED))
        yield
        return
    from pytest_finetune import collect

    ours = collect.of_suites(items, asking)
    for item in ours:
        item.add_marker("finetune")
    if beyond := collect.check(session, ours):
        items[:] = [item for item in items if item not in beyond]
        config.hook.pytest_deselected(items=beyond)
    yield
    collect.arrange(session, items)


@pytest.hookimpl(tryfirst=True)  # before the terminal prints what there is to say
def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the engine's imports, and read the suites' rows meanwhile."""
    state = _session(session.config)
    if not state or not state.checked:  # pytest finishes a collection that ended in a usage error, too
        return
    from pytest_finetune import collect

    runs = not session.config.option.collectonly and not state.options.plan
    if runs and not state.options.executor:
        state.prepare(collect.selected(state, session.items))
    collect.check_rows(state)
    if runs and state.options.executor:
        from pytest_finetune.cells import executor
        from pytest_finetune.outcomes import usage_errors

        with usage_errors():
            executor.fill(state)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say which suites this machine cannot run."""
    state = _session(config)
    return state.notes if state else []


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Print the plan instead of running, where that is asked for."""
    state = _session(session.config)
    if not state or not state.options.plan:
        return None
    from itertools import chain

    from pytest_finetune import plan
    from pytest_finetune.cells import cell, matrix
    from pytest_finetune.outcomes import usage_errors
    from pytest_finetune.report.terminal import policy_lines

    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    pipelines = [pipeline for pipeline in state.pipelines.values() if not state.lacks(pipeline)]
    session.testsfailed += sum(any(finding.refuses for finding in p.curated.findings) for p in pipelines)
    changes = policy_lines(state.policy, state.options.accept_policy_change)
    for text, colour in chain(changes, *map(plan.lines, pipelines)):
        if reporter:
            reporter.write_line(text, **{colour: True} if colour else {})
    with usage_errors():
        if state.options.matrix and not session.testsfailed:
            matrix.write(state.options.matrix, state)
        if state.options.cells and not session.testsfailed:
            cell.write(state.options.cells, state)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Say a gate's outcome and a user's mistake in plain lines, without a traceback."""
    report = yield
    if session := _session(item.config):
        from pytest_finetune import outcomes

        if call.excinfo is not None:
            outcomes.plain(report, call.excinfo.value, OUTCOME)
        if call.when == "call" and item.nodeid in session.measured and not hasattr(report, OUTCOME):
            outcomes.measured(report)
        if call.when == "call" and session.cases.has(item):
            outcomes.case(report, session.cases, item, OUTCOME)
        if "finetune" in item.keywords:
            outcomes.without_secrets(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)  # pytest's own answer for a subtest comes before any other
def pytest_report_teststatus(report: pytest.TestReport | pytest.CollectReport) -> Any:
    """Give INCONCLUSIVE, a fault of the machinery and a failed case their own letter and colour."""
    status = yield
    outcome: str = report.outcome  # pytest-rerunfailures has a word of its own, for an attempt that is not the last
    return status if outcome == "rerun" else STATUS.get(getattr(report, OUTCOME, ""), status)


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Any:
    """Have pytest-timeout end a suite's test by a signal: its thread ends pytest, with the code of a refuted claim."""
    if settings.method == "signal" or "finetune" not in item.keywords or not _session(item.config):
        return None
    import pytest_timeout

    return pytest_timeout.pytest_timeout_set_timer(item, settings._replace(method="signal"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Have xdist's workers open the store that their controller opened."""
    if session := _session(node.config):
        node.workerinput["finetune_store"] = str(session.store.root)


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: Any) -> None:
    """Call it a fault that an xdist worker died, and no test's failure."""
    if _session(report.node.config):
        setattr(report, OUTCOME, "ERROR")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what an xdist worker learned."""
    run = getattr(node, "workeroutput", {}).get("finetune")
    if run and (session := _session(node.config)):
        session.add_worker(run)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Hand the run to whoever reports it, and say in the exit code what kept it from passing."""
    state = _session(session.config)
    if state is None:
        return
    if state.options.plan:
        if state.options.matrix and state.pipelines and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # other machines run what this one cannot
        return
    from pytest_finetune.errors import FinetuneError
    from pytest_finetune.outcomes import EXIT_CODES
    from pytest_finetune.report.escape import visible

    if session.shouldfail and not session.testsfailed:  # cut short, as by --session-timeout: the rest proved nothing
        exitstatus = pytest.ExitCode.INTERRUPTED
    session.exitstatus = state.outcomes.exit_code(int(exitstatus))
    try:
        state.finish(int(exitstatus))
    except FinetuneError as error:  # a full disk; what the tests came to stays said
        if reporter := session.config.pluginmanager.get_plugin("terminalreporter"):
            reporter.ensure_newline()
            reporter.write_line(f"ERROR: {visible(str(error))}", red=True)
        if session.exitstatus != pytest.ExitCode.TESTS_FAILED:
            session.exitstatus = EXIT_CODES["ERROR"]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print a block a suite."""
    state = _session(config)
    if state is None or state.finished is None or config.option.collectonly:
        return
    from pytest_finetune.report.terminal import run_lines

    lines = list(run_lines(state.finished, config.option.verbose > 0, config.getoption("finetune_explain")))
    if lines:
        terminalreporter.section("finetune")
    for text, colour in lines:
        terminalreporter.write_line(text, **{colour: True} if colour else {})


@pytest.fixture
def finetune_pipeline(request: pytest.FixtureRequest) -> Pipeline:
    """The stages of this test's suite; the other fixtures are views of it."""
    session = _session(request.config)
    if session is None:
        pytest.skip(SKIPPED)
    return session.pipeline(request.path.parent)


@pytest.fixture
def suite(finetune_pipeline: Pipeline) -> SuiteSpec:
    """The suite: what its suite.toml says, defaults filled in."""
    return finetune_pipeline.spec


@pytest.fixture
def heldout(finetune_pipeline: Pipeline) -> Rows:
    """The held-out rows, which nothing but the gate may see."""
    from pytest_finetune import fixtures

    return fixtures.heldout(finetune_pipeline)


@pytest.fixture
def general(finetune_pipeline: Pipeline) -> General:
    """The general suites by name: skills that the adapter must keep."""
    from pytest_finetune import fixtures

    return fixtures.general(finetune_pipeline)


@pytest.fixture
def base_model(finetune_pipeline: Pipeline) -> ModelHandle:
    """The base model, asked with the prompt that the adapter is served with."""
    from pytest_finetune import fixtures

    return fixtures.base_model(finetune_pipeline)


@pytest.fixture
def baseline(finetune_pipeline: Pipeline) -> ModelHandle:
    """The base model with the best prompt found on the dev split."""
    from pytest_finetune import fixtures

    return fixtures.baseline(finetune_pipeline)


@pytest.fixture
def adapter(finetune_pipeline: Pipeline) -> AdapterHandle:
    """The fine-tune, trained when a test first asks for it."""
    from pytest_finetune import fixtures

    return fixtures.adapter(finetune_pipeline)


@pytest.fixture
def case(request: pytest.FixtureRequest, finetune_pipeline: Pipeline) -> Case:
    """One held-out row and the adapter's answer; a test with it runs for each row, and ``gate.pass_rate`` judges."""
    from pytest_finetune import fixtures

    return fixtures.case(request, finetune_pipeline)


@pytest.fixture
def shadow(request: pytest.FixtureRequest, finetune_pipeline: Pipeline) -> ShadowHandle:
    """What the shadow proxy saw of live traffic, for ``gate.holds``."""
    from pytest_finetune import fixtures

    return fixtures.shadow(request, finetune_pipeline)


@pytest.fixture
def gate(request: pytest.FixtureRequest, finetune_pipeline: Pipeline) -> Gate:
    """What decides claims: ``gate.beats``, ``gate.keeps``, ``gate.reaches``, ``gate.pass_rate``, ``gate.holds``."""
    from pytest_finetune import fixtures

    return fixtures.gate(request, finetune_pipeline)
