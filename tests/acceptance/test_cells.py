"""Cells: a recipe's seeds are made apart, by hand or on a cluster, and come to the verdict of one run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import colours
import pytest

import recipes
from benchmarks import ray_cluster
from pytest_finetune import cli
from pytest_finetune.cells import result
from pytest_finetune.cells.cell import read
from pytest_finetune.ledger import Ledger
from pytest_finetune.records import to_plain
from pytest_finetune.report import run_json
from pytest_finetune.store import Store

GENERAL = 'gate = { max_drop = 0.2, guard = 0.3 }\n[[general]]\nname = "again"\ndata = "heldout.jsonl"\n'
ASSERTS = """
def test_says_so(gate, adapter, baseline, base_model, heldout, general):
    assert gate.beats(adapter, baseline, on=heldout).claims[0].n == 150
    assert gate.keeps(adapter, base_model, on=general).outcome == "PASS"
"""
SEEDS = ("--finetune", "--finetune-seeds=3")


@pytest.fixture
def recipe(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite with a general one, in the working folder; every process has one thread, which its bits depend on."""
    (project / "suite.toml").write_text(colours.SUITE.replace("epochs = 4", "epochs = 2") + GENERAL)
    (project / "test_colours.py").write_text(colours.TEST + colours.KEEPS + ASSERTS)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(project.parent)
    return project.parent


def substance(file: Path) -> str:
    """Return all that a saved run found, but for what clocks and folders say, and what was reused."""
    run = run_json.read(file)
    suites: list[dict[str, Any]] = [to_plain(suite) for suite in run.suites]
    for suite in suites:
        del suite["stages"], suite["adapter"]["path"]
        for clock in ("seconds", "peak_bytes"):
            del suite["adapter"]["curve"][clock]
        for made in suite["measurements"]:
            del made["usage"]["seconds"]
    return json.dumps([suites, run.outcome, [to_plain(test) for test in run.tests]], sort_keys=True)


@pytest.mark.slow
def test_shards_merge_to_one_run(
    recipe: Path, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three cells, each with a store of its own, merge to what one run found, byte for byte; a lacking one is named."""
    assert pytester.runpytest_subprocess(*SEEDS, "--finetune-report=one.json", "--finetune-store=one").ret == 0
    assert pytester.runpytest_subprocess(*SEEDS, "--finetune-plan", "--finetune-cells=cells").ret == 0
    files = sorted(Path("cells").glob("*.json"))
    assert [file.name for file in files] == ["colours-0.json", "colours-1.json", "colours-2.json"]
    for number, file in enumerate(files[:2]):
        assert cli.main(["run-cell", str(file), f"--store=s{number}", f"--results=r{number}"]) == 0
    assert "2 passed, 3 skipped" in capsys.readouterr().out
    assert cli.main(["run-cell", str(files[0]), "--store=elsewhere", "--results=r0"]) == 0
    assert "cell colours-0: done before" in capsys.readouterr().out
    assert not Path("elsewhere").exists()

    merge = ["merge", "cells", "--report=merged.json", "--results", "r0", "r1"]
    assert cli.main(merge) == 4
    told = capsys.readouterr().err
    assert told.startswith("ERROR: r0: no result of 1 of 3 cells: colours-2; run each, as in pytest-finetune run-cell")
    assert cli.main(["run-cell", str(files[2]), "--store=s2", "--results=r2"]) == 0
    assert cli.main([*merge, "r2", "--evidence=kept"]) == 0
    assert capsys.readouterr().out.endswith("verdict: PASS\n")
    assert substance(Path("merged.json")) == substance(Path("one.json"))
    assert [entry.attempt for entry in Ledger(Path(".finetune")).entries()] == [1, 1]
    assert cli.main([*merge, "r2"]) == 0, "judging again is no further attempt"
    assert [entry.attempt for entry in Ledger(Path(".finetune")).entries()] == [1, 1]

    (recipe / "colours" / "heldout.jsonl").write_text(colours.rows(1000, 149))
    assert cli.main(["run-cell", str(files[0]), "--results=new"]) == 4
    assert "cell colours-0: was planned for other rows, settings, code or versions" in capsys.readouterr().err
    assert cli.main([*merge, "r2"]) == 4, "what is judged stands in the suite's files, too"
    assert "cell colours-0: was planned for other rows, settings, code or versions" in capsys.readouterr().err
    (recipe / "colours" / "heldout.jsonl").write_text(colours.rows(1000, 150))
    weights = next(Path("r1").glob("*/adapter/*/adapter_model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert cli.main([*merge, "r2"]) == 4
    assert "a file of it is damaged; run its cell again" in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_cell_measured_must_be_judged(
    project: Path, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test that has claims is passed over where results are judged, and no cell is what nobody planned."""
    skips = """
def test_second(gate, adapter, baseline, heldout):
    import os, pytest
    if "LACKS" in os.environ:
        pytest.skip("no such thing here")
    gate.beats(adapter, baseline, on=heldout, margin=0.01)
"""
    (project / "test_colours.py").write_text("def test_other(baseline): pass\n" + skips)
    monkeypatch.chdir(project.parent)
    plan = ("--finetune", "--finetune-plan", "--finetune-method=prompt", "--finetune-cells=cells")
    assert pytester.runpytest_subprocess(*plan).ret == 0
    run = ["run-cell", "cells/colours-prompt.json"]
    assert cli.main([*run, "--", "--finetune-method=lora"]) == 4
    assert "--finetune-method=lora is the plan's to say; plan cells with it" in capsys.readouterr().err
    monkeypatch.setenv("PYTEST_ADDOPTS", "--finetune-seed=7")
    assert cli.main(run) == 4
    assert "was made with --finetune-method=prompt, --finetune-seed=7" in capsys.readouterr().err
    monkeypatch.delenv("PYTEST_ADDOPTS")
    assert cli.main(run) == 0
    monkeypatch.setenv("LACKS", "1")
    assert cli.main(["merge", "cells"]) == 11
    assert "test_second: the cell decided claims in this test, and judging anew skipped it" in capsys.readouterr().out
    (project / "test_colours.py").write_text(skips)
    assert pytester.runpytest_subprocess(*plan).ret == 0
    assert cli.main(run) == 4
    assert "colours-prompt: all its tests were skipped here; run it where they are not" in capsys.readouterr().err
    assert len(list(Path("results").glob("*"))) == 1


@pytest.mark.slow
def test_local_executor(recipe: Path, pytester: pytest.Pytester) -> None:
    """Cells run here, two at once, and the tests then judge without an engine; a second run makes nothing."""
    assert pytester.runpytest_subprocess(*SEEDS, "--finetune-report=one.json", "--finetune-store=one").ret == 0
    options = (*SEEDS, "--finetune-executor=local:2", "--finetune-report=cells.json")
    for _ in range(2):
        result = pytester.runpytest_subprocess(*options)
        assert result.ret == 0
        assert substance(Path("cells.json")) == substance(Path("one.json"))
    results = list(Path(".finetune/results").glob("*/result.json"))
    assert len(results) == 3
    suite = recipe / "colours" / "suite.toml"
    suite.write_text(suite.read_text().replace("training = { ", 'training = { method = "qlora", variant = "loftq", '))
    result = pytester.runpytest_subprocess(*options)
    assert result.ret == 11
    result.stdout.fnmatch_lines(["*local:2: 3 of 3 cells failed (colours-0*): *loftq*needs a GPU*"])


@pytest.mark.slow
def test_a_cancelled_run_ends_its_cells(recipe: Path) -> None:
    """SIGTERM ends the cells at work, which checkpoint, and begins no other; nothing is left running."""
    command = [sys.executable, "-m", "pytest", *SEEDS, "--finetune-executor=local:2"]
    with Path("log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    until(process, lambda: len(list(Path(".finetune").glob("unfinished/*/checkpoint-*"))) > 0)
    process.terminate()
    assert process.wait(60) == 2, Path("log").read_text()
    assert not list(Path(".finetune").glob("results/*/result.json"))
    left = subprocess.run(["pgrep", "--session", str(process.pid)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


@pytest.mark.slow
def test_a_killed_cell_leaves_nothing_running(recipe: Path, pytester: pytest.Pytester) -> None:
    """Kill -9 of run-cell ends what it began; the same command then goes on from the checkpoint, and is done."""
    plan = ("--finetune-plan", "--finetune-cells=cells")
    assert pytester.runpytest_subprocess(*SEEDS, *plan).ret == 0
    command = [sys.executable, "-m", "pytest_finetune.cli", "run-cell", "cells/colours-1.json"]
    process = subprocess.Popen(command, start_new_session=True)
    until(process, lambda: len(list(Path(".finetune").glob("unfinished/*/checkpoint-*"))) > 0)
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    alive = ["pgrep", "--session", str(process.pid)]
    while subprocess.run(alive, capture_output=True, text=True, check=False).stdout:
        assert time.monotonic() < end, "its run goes on"
        time.sleep(0.1)
    assert not list(Path("results").glob("*/result.json"))
    assert subprocess.run(command, check=False).returncode == 0
    assert len(list(Path("results").glob("*/result.json"))) == 1


def until(process: "subprocess.Popen[bytes]", so: Callable[[], bool]) -> None:
    """Wait until something is so of a run at work."""
    end = time.monotonic() + 120
    while not so():
        assert time.monotonic() < end, "never so"
        assert process.poll() is None, "the run ended before"
        time.sleep(0.1)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[str]"]:
    """A Ray cluster on this machine: a head that runs nothing, and two nodes of one core each."""
    pytest.importorskip("ray")
    command = [sys.executable, str(ray_cluster.__file__), "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        monkeypatch.setenv("RAY_ADDRESS", process.stdout.readline().strip())
        yield process
        process.stdin.close()


@pytest.mark.slow
def test_a_node_dies_amid_its_cell(recipe: Path, pytester: pytest.Pytester, cluster: "subprocess.Popen[str]") -> None:
    """Ray runs the cells of a killed node again on the one that is left; the verdict is that of one process."""
    assert pytester.runpytest_subprocess(*SEEDS, "--finetune-report=one.json", "--finetune-store=one").ret == 0
    options = [*SEEDS, "--finetune-executor=ray", "--finetune-report=ray.json"]
    with Path("ray.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "pytest", *options], stdout=log, stderr=log)
    until(process, lambda: len(list(Path(".finetune").glob("work-*"))) == 2)  # both nodes train
    assert cluster.stdin
    print("kill", file=cluster.stdin, flush=True)
    assert process.wait(300) == 0, Path("ray.log").read_text()
    assert substance(Path("ray.json")) == substance(Path("one.json"))


@pytest.mark.slow
def test_results_cross_without_shared_storage(recipe: Path, pytester: pytest.Pytester) -> None:
    """A node that does not see the store works in its own, and its result comes whole with the answer."""
    from pytest_finetune.cells.ray import _work

    assert pytester.runpytest_subprocess(*SEEDS, "--finetune-plan", "--finetune-cells=cells").ret == 0
    cell = read(Path("cells/colours-2.json"))
    error, archive = _work(to_plain(cell), str(recipe / "nowhere"), "mark", [])
    assert error == ""
    assert not result.found(Path(".finetune/results"), cell), "what was sent is not kept there, too"
    result.unpack(archive, Path("here"), cell)
    assert result.found(Path("here"), cell)
    store = Store(Path("store"))
    result.adopt(store, Path("here", cell.result))
    assert len(list(Path("store").glob("adapter/*/adapter_model.safetensors"))) == 1


@pytest.mark.slow
def test_another_ray_is_refused(
    recipe: Path, pytester: pytest.Pytester, cluster: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster of another version of Ray is one line, with what to install."""
    options = [*SEEDS, "--finetune-executor=ray"]
    (recipe / "old_ray.py").write_text("import ray\nray.__version__ = '2.0.0'\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(recipe), os.environ.get("PYTHONPATH", "")]))
    refused = pytester.runpytest_subprocess("-p", "old_ray", *options)
    assert refused.ret == 4
    refused.stderr.fnmatch_lines(["ERROR: --finetune-executor=*:*: Version mismatch: *; install ray==2.0.0 there*"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("--finetune-executor=slurm",),
            "--finetune-executor=slurm: write local:N (cells at once here), ray, or ray://*",
        ),
        (("--finetune-executor=ray://127.0.0.1:9",), "--finetune-executor=ray://127.0.0.1:9: nobody answers there: *"),
        (("--finetune-cells=cells",), "--finetune-cells: are written by a plan; add --finetune-plan"),
        (("--finetune-method=lora,full",), "--finetune-method=lora,full: one run judges one method; plan cells of*"),
        (("--finetune-measure=x",), "--finetune-measure=x: write which seed of the recipe, a whole number from 0"),
    ],
)
def test_bad_options(project: Path, pytester: pytest.Pytester, options: tuple[str, ...], told: str) -> None:
    """A wrong option of cells is one line."""
    if "ray" in options[0]:
        pytest.importorskip("ray")
    result = pytester.runpytest_subprocess("--finetune", *options)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {told}"])


def test_cells_of_several_methods(project: Path, pytester: pytest.Pytester) -> None:
    """A plan writes a cell for each suite, method and seed; where a ladder's first seed finds the rank, one for all."""
    plan = ("--finetune", "--finetune-plan", "--finetune-seeds=3", "--finetune-cells=cells")
    assert pytester.runpytest_subprocess(*plan, "--finetune-method=lora,prompt").ret == 0
    made = {file.stem: json.loads(file.read_text()) for file in (pytester.path / "cells").glob("*.json")}
    assert sorted(made) == ["colours-lora-0", "colours-lora-1", "colours-lora-2", "colours-prompt"]
    assert len({cell["digest"] for cell in made.values()}) == 4
    assert made["colours-prompt"]["whole"]
    for broken in ('{"suite": "../x"}', "[]", "not JSON", json.dumps({**made["colours-prompt"], "path": "-x"})):
        (pytester.path / "cells" / "broken.json").write_text(broken)
        assert cli.main(["run-cell", str(pytester.path / "cells" / "broken.json")]) == 4


@pytest.mark.slow
def test_slurm_template(project: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The template for Slurm runs cells as jobs, here by submitit's own local executor, and passes over done ones."""
    pytest.importorskip("submitit")
    monkeypatch.chdir(project.parent)
    plan = ("--finetune", "--finetune-plan", "--finetune-method=prompt", "--finetune-cells=cells")
    assert pytester.runpytest_subprocess(*plan).ret == 0
    template = Path(recipes.__file__).with_name("cells") / "slurm.py"
    command = [
        sys.executable,
        str(template),
        "cells",
        "--store=store",
        "--results=results",
        "--cluster=local",
        "--gpus=0",
    ]
    first = pytester.run(*command)
    first.stdout.fnmatch_lines(["1 of 1 cells done"])
    pytester.run(*command).stdout.fnmatch_lines(["0 of 0 cells done"])
    assert cli.main(["merge", "cells", "--store=store"]) in (1, 10)  # a prompt is no better than itself
