"""Evidence: what one machine measured is judged anew by another, which asks no model."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from colours import SUITE, TEST, rows
from servers import running

from pytest_finetune.cli import main

pytestmark = pytest.mark.slow

PLAIN = "\n\ndef test_loads(adapter):\n    assert adapter.load()\n"
Damage = Callable[[Path], object]
VERDICT = ("verdict", "--matrix=matrix.json", "--evidence=cells")


def gate(root: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the gate in a folder."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--finetune", *options]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was gated, with its evidence in `cells/colours`."""
    root = tmp_path_factory.mktemp("cell")
    folder = root / "colours"
    folder.mkdir()
    (root / "pytest.ini").write_text("[pytest]\n")
    (root / "matrix.json").write_text(json.dumps({"include": [{"suite": "colours", "path": "colours"}]}))
    (folder / "suite.toml").write_text(SUITE)
    (folder / "train.jsonl").write_text(rows(0, 150))
    (folder / "heldout.jsonl").write_text(rows(1000, 150))
    (folder / "test_colours.py").write_text(TEST + PLAIN)
    done = gate(root, "--finetune-evidence=cells/colours")
    assert done.returncode == 0, done.stdout
    return root


@pytest.fixture
def other(cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same checkout on another machine: without a store, and with the evidence."""
    root = tmp_path / "other"
    shutil.copytree(cell, root, ignore=shutil.ignore_patterns(".finetune", "__pycache__"))
    monkeypatch.chdir(root)
    return root


def test_evidence_is_judged_anew(cell: Path, other: Path) -> None:
    """Another machine reaches the same claims from the evidence alone; what would load the model is skipped."""
    done = gate(other, "--finetune-recompute", "--finetune-store=cells/colours", "--finetune-report=run.json")
    assert done.returncode == 0, done.stdout
    assert "3 passed, 1 skipped" in done.stdout
    told = json.loads((cell / "cells/colours/run.json").read_text())
    found = json.loads((other / "run.json").read_text())
    assert found["suites"][0]["verdicts"] == told["suites"][0]["verdicts"]
    assert not list((other / "cells/colours").glob("verdict/*"))


def edit_heldout(root: Path) -> None:
    """Ask about another row than the cell did."""
    file = root / "colours/heldout.jsonl"
    file.write_text(file.read_text().replace("item 1003:", "item 1003 again:"))


def lose_outputs(root: Path) -> None:
    """Lose what the models said."""
    shutil.rmtree(root / "cells/colours/outputs")


def forge_outputs(root: Path) -> None:
    """Edit what a model said, without its manifest."""
    for file in (root / "cells/colours/outputs").glob("*/rows.txt"):
        file.chmod(0o644)
        text = file.read_text()
        file.unlink()  # a hard link of the cell's
        file.write_text(text.replace("box", "fox"))


def grow_code(root: Path) -> None:
    """Be of another version of this package."""
    file = root / "cells/colours/evidence.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "code": "0"}))


def tell_otherwise(outcome: str) -> Damage:
    """Return what lets the cell have told another outcome of its plain test."""

    def damage(root: Path) -> None:
        file = root / "cells/colours/run.json"
        run: dict[str, Any] = json.loads(file.read_text())
        for test in run["tests"]:
            if test["name"].endswith("test_loads"):
                test["outcome"] = outcome
        file.unlink()
        file.write_text(json.dumps(run))

    return damage


def add_test(lines: str) -> Damage:
    """Return what adds a test of claims."""

    def damage(root: Path) -> None:
        with (root / "colours/test_colours.py").open("a") as file:
            file.write(f"\n\nimport pytest\n\n\n{lines}\n")

    return damage


def skip_claims(root: Path) -> None:
    """Decide the claims in the cell alone."""
    add_test("def test_more(gate, adapter, baseline, heldout):\n    gate.beats(adapter, baseline, on=heldout)")(root)
    test = root / "colours/test_colours.py"
    test.write_text("import pytest\n\n@pytest.mark.skip\n" + test.read_text().lstrip())


def forget_suite(root: Path) -> None:
    """Have another suite, which the plan does not name."""
    (root / "others").mkdir()
    shutil.copy(root / "colours/suite.toml", root / "others")


def plan_nothing(root: Path) -> None:
    """Have no suite, and a plan that says so."""
    shutil.rmtree(root / "colours")
    (root / "matrix.json").write_text('{"include": []}')


OUTSIDE = '{"include": [{"suite": "../colours", "path": "colours"}]}'
EXPECTED = """@pytest.mark.xfail
def test_more(gate, baseline, heldout):
    gate.reaches(baseline, on=heldout, at_least=0.9)
"""
CAUGHT = """def test_more(gate, baseline, heldout):
    with pytest.raises(AssertionError):
        gate.reaches(baseline, on=heldout, at_least=0.9)
"""


def forge_verdict(root: Path) -> None:
    """Tell of a claim that is refuted that it was proven, with the numbers of one that was."""
    add_test("def test_more(gate, baseline, heldout):\n    gate.reaches(baseline, on=heldout, at_least=0.9)")(root)
    file = root / "cells/colours/run.json"
    run: dict[str, Any] = json.loads(file.read_text())
    told = {"name": "colours/test_colours.py::test_more", "outcome": "PASS", "message": ""}
    run["tests"].append(run["tests"][-1] | told)
    run["suites"][0]["verdicts"].append(run["suites"][0]["verdicts"][0] | {"test": told["name"]})
    file.unlink()
    file.write_text(json.dumps(run))


def need_library(root: Path) -> None:
    """Be made with a library that is not installed here."""
    file = root / "cells/colours/evidence.json"
    note = json.loads(file.read_text())
    file.write_text(json.dumps({**note, "libraries": {**note["libraries"], "no-such-library": "1.0"}}))


DAMAGE: dict[str, tuple[Damage, int, str]] = {
    "none": (lambda root: None, 0, "verdict: PASS"),
    "a file called as a library": (
        lambda root: (root / "jsonschema.py").write_text("raise SystemExit(0)\n"),
        0,
        "verdict: PASS",
    ),
    "another row": (edit_heldout, 11, "lacks what colours needs"),
    "lost outputs": (lose_outputs, 11, "lacks what colours needs"),
    "forged outputs": (forge_outputs, 11, "lacks what colours needs"),
    "another version": (grow_code, 11, "made by another version of pytest-finetune"),
    "a library that is not here": (need_library, 11, "made with no-such-library 1.0, and none is installed here"),
    "lost cell": (lambda root: shutil.rmtree(root / "cells/colours"), 11, "skipped, cancelled or lost"),
    "lost record": (lambda root: (root / "cells/colours/run.json").unlink(), 11, "its evidence is damaged"),
    "a claim expected to fail": (add_test(EXPECTED), 1, " 1 failed, "),
    "a refuted claim caught": (add_test(CAUGHT), 1, "a claim in it is refuted, whatever the test made of that"),
    "claims skipped here": (skip_claims, 11, "the cell decided claims in this test, and judging anew skipped it"),
    "a forged verdict": (forge_verdict, 1, "FAIL: baseline reaches 90.0 %"),
    "a suite forgotten": (forget_suite, 11, "the plan asked for no cell of this suite"),
    "a test failed in the cell": (tell_otherwise("FAIL"), 1, "in its cell: FAIL"),
    "a fault in the cell": (tell_otherwise("ERROR"), 11, "in its cell: ERROR"),
    "nothing planned": (plan_nothing, 11, "verdict: SKIPPED"),
}


@pytest.mark.attack(5)
@pytest.mark.parametrize("name", DAMAGE)
def test_only_whole_evidence_passes(name: str, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`pytest-finetune verdict` passes what it judged anew, and nothing that is lost, damaged or of other rows."""
    damage, code, line = DAMAGE[name]
    damage(other)
    assert main([*VERDICT, "--suites=.", "--report=run.json", "--html=run.html"]) == code
    assert line in capsys.readouterr().out
    outcome = {0: "PASS", 1: "FAIL", 11: "SKIPPED" if name == "nothing planned" else "ERROR"}[code]
    assert json.loads((other / "run.json").read_text())["outcome"] == outcome
    assert f"<title>{outcome} " in (other / "run.html").read_text()


def test_mistakes_are_one_line(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no evidence, no matrix, or a folder in use is said in one line."""
    done = gate(other, "--finetune-recompute")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "holds no evidence.json that can be read" in done.stderr
    done = gate(other, "--finetune-evidence=colours")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "there is something already; name a new folder" in done.stderr
    Path("file").touch()
    done = gate(other, "--finetune-evidence=file/evidence")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "file is no folder that can be written; name another" in done.stderr
    assert main([*VERDICT, "--policy-ref="]) == pytest.ExitCode.USAGE_ERROR
    assert "--finetune-policy-ref=: " in capsys.readouterr().err
    for text, line in (("[]", "no matrix; write one with"), (OUTSIDE, "no cell that a plan would write")):
        Path("matrix.json").write_text(text)
        assert main(VERDICT) == pytest.ExitCode.USAGE_ERROR
        assert line in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="links of one disk")
def test_evidence_takes_no_second_copy(cell: Path) -> None:
    """What the store holds already is linked, since adapters are large."""
    weights = next((cell / "cells/colours/adapter").glob("*/*.safetensors"))
    assert weights.stat().st_nlink == 2


def test_report_that_cannot_be_written(other: Path) -> None:
    """A disk that fails at the end is one line and a fault, and what the tests came to stays said."""
    (other / "out").mkdir()
    (other / "conftest.py").write_text(
        "import shutil\n\ndef pytest_runtest_logfinish():\n    shutil.rmtree('out', ignore_errors=True)\n"
    )
    done = gate(other, "--finetune-recompute", "--finetune-store=cells/colours", "--finetune-html=out/page.html")
    assert done.returncode == 11
    assert "ERROR: --finetune-html=" in done.stdout
    assert "adapter beats baseline" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_promotes_from_evidence_alone(other: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where only the evidence is, what was judged anew is released, and the release is promoted where it serves."""
    assert main([*VERDICT, "--report=run.json"]) == 0
    assert main(["promote", "run.json", "--out=releases"]) == 4
    assert "no ledger in .finetune" in capfd.readouterr().err
    assert main(["promote", "run.json", "--out=releases", "--store=cells"]) == 0
    [release] = [path for path in Path("releases/colours").iterdir() if path.is_dir() and not path.is_symlink()]
    assert Path("releases/colours/current").resolve() == release.resolve()
    told = (release / "run.json").read_text()
    assert str(other) not in told
    assert "item 1003" not in told  # no held-out row
    card = (release / "README.md").read_text()
    assert all(said in card for said in ("**PASS**", "attempt 1", "150", "trainable parameters"))
    Path("serving").mkdir()
    serve = [sys.executable, "-m", "pytest_finetune.cli", "serve", "embedded", "--port=0", "--adapters-from=serving"]
    with running(serve) as (_, line):
        [url] = re.findall(r"http://\S+/v1", line)
        again = ["promote", str(release / "run.json"), "--out=serving", "--store=cells", f"--load={url}"]
        assert main(again) == 0, capfd.readouterr()
        asked = {"model": release.name, "messages": [{"role": "user", "content": "item 7: sky"}]}
        answer = httpx2.post(f"{url}/chat/completions", json=asked, timeout=60).json()
    assert answer["model"] == release.name
    assert answer["choices"][0]["message"]["content"] == "box blue"
