"""Claims under `pytest --finetune` on the embedded model: cases, levels, slices, looks, attempts, and their lines."""

import json
import sys
from pathlib import Path

import pytest
from colours import SUITE, TEST, rows

GENERAL = '[[general]]\ndata = "sort.jsonl"\n[[general]]\ndata = "copy.jsonl"\n'
CLAIMS = """
def test_beats_the_best_prompt(gate, adapter, baseline, heldout):
    gate.beats(adapter, baseline, on=heldout)

def test_keeps_general_skills(gate, adapter, base_model, general):
    gate.keeps(adapter, base_model, on=general)

def test_rate(gate):
    gate.pass_rate(test_is_not_red, at_least=0.5)

def test_reaches(gate, adapter, heldout):
    gate.reaches(adapter, on=heldout, at_least=0.98)

def test_is_not_red(case):
    assert "red" not in case.output, case.reference
"""


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run pytest in a process of its own, as people do."""
    return pytester.runpytest_subprocess("--finetune", "-p", "no:cacheprovider", *args, timeout=240)


@pytest.fixture
def claims(project: Path) -> Path:
    """The colours suite with slices and two general suites, of which the adapter forgets all."""
    sort = [{"prompt": f"Sort: {b} {a}", "completion": f"{a} {b}"} for a in range(10, 20) for b in range(20, 40)]
    copy = [{"prompt": f"Copy: {a} {b}", "completion": f"{a} {b}"} for a in range(10, 20) for b in range(40, 60)]
    heldout = [json.loads(line) for line in rows(1000, 150).splitlines()]
    for row in heldout:
        row["colour"] = row["completion"].split()[1]
    for name, data in (("sort", sort), ("copy", copy), ("heldout", heldout)):
        (project / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    sliced = SUITE.replace('heldout.jsonl" }', 'heldout.jsonl", fields = { slice = "colour" } }')
    (project / "suite.toml").write_text(sliced + "gate = { max_drop = 0.03, slices = { red = 0.1 } }\n" + GENERAL)
    (project / "test_colours.py").write_text(CLAIMS)
    return project


@pytest.mark.slow
def test_claims_of_every_kind(pytester: pytest.Pytester, claims: Path) -> None:
    """Each claim has its line, letter and property; cases fail nothing; a collapse costs a fifth of the answers."""
    result = run(pytester, "--junit-xml=junit.xml")
    assert result.ret == 1
    result.assert_outcomes(failed=2, passed=2 + 2 + 100)
    result.stdout.fnmatch_lines(
        [
            "finetune: colours: 150 held-out rows cannot show that a gain of 10.0 points *465 would*",
            "FAIL: adapter keeps sort: drop below 5.0 points: 100.0 % -> 0.0 %*n 40, *look 1 of 5",
            "FAIL: adapter keeps 2 general suites: mean drop below 3.0 points*n 80, *look 1 of 5",
            "not proven, as its subtests say: sort, copy",
            "*slice     * of held-out: 0.0 % -> 100.0 %*",
            "*PASS*slice red of held-out*",
        ]
    )
    said = result.stdout.str()
    assert "50 case failed" in said
    assert "2 inconclusive" in said  # whether copy is kept was open yet, and the level
    xml = (pytester.path / "junit.xml").read_text()
    assert 'name="finetune_outcome" value="INCONCLUSIVE"' in xml
    assert 'name="finetune_inconclusive" value="adapter reaches 0.98"' in xml


@pytest.mark.slow
def test_workers_share_cases(pytester: pytest.Pytester, claims: Path) -> None:
    """Under xdist each worker runs some of the cases, and the rate is of all; part of them is no rate."""
    result = run(pytester, "-n", "2", "-k", "rate or red")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*PASS*adapter reaches 50.0 % on cases of test_is_not_red: 66.7 % *n 150"])
    assert not list((pytester.path / ".finetune").glob("work-*"))
    part = run(pytester, "-k", "rate or (red and 7)")
    assert part.ret == 1
    part.stdout.fnmatch_lines(
        ["*gate.pass_rate(test_is_not_red): * of 150 cases did not run*run test_colours.py whole*"]
    )


@pytest.mark.slow
def test_only_a_selected_rate_excuses_cases(pytester: pytest.Pytester, claims: Path) -> None:
    """Where the test that judges the rate is deselected, failed cases fail; a second parameter is refused."""
    run(pytester, "-k", "not_red").assert_outcomes(failed=50, passed=100, deselected=6)
    tones = "import pytest\n@pytest.mark.parametrize('tone', ['a', 'b'])\ndef test_tone(case, tone):\n    assert tone\n"
    (claims / "test_colours.py").write_text(CLAIMS + tones)
    refused = run(pytester)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["ERROR: *test_tone*: a per-case test takes no parameter beside `case`*tone*"])


@pytest.mark.slow
def test_cases_without_a_rate_are_plain_tests(pytester: pytest.Pytester, project: Path) -> None:
    """Where no test judges their rate, failed cases fail; a parameter called `case` is none of ours."""
    case = "\ndef test_is_not_red(case):\n    assert 'red' not in case.output\n"
    (project / "test_colours.py").write_text(TEST + case)
    own = "import pytest\n@pytest.mark.parametrize('case', [1, 2])\ndef test_own(case):\n    assert case\n"
    (project / "test_own.py").write_text(own)
    run(pytester).assert_outcomes(failed=50, passed=105)
    pytester.runpytest_subprocess().assert_outcomes(skipped=2, passed=2)


@pytest.mark.slow
def test_attempts_show(pytester: pytest.Pytester, project: Path) -> None:
    """A second adapter on the same rows is judged at a quarter of alpha; the report and the ledger say so."""
    assert run(pytester).ret == 0
    second = run(pytester, "--finetune-seed=1")
    second.stdout.fnmatch_lines(["*worn *attempt 2 on these rows: proven at alpha / 4, *"])
    book = pytester.run(Path(sys.executable).parent / "pytest-finetune", "store", "ledger")
    book.stdout.fnmatch_lines(
        ["*colours: held-out, superiority label_accuracy: attempt 1, adapter *: PASS", "*attempt 2, adapter *: PASS"]
    )
    assert run(pytester).ret == 0


@pytest.mark.slow
def test_recipe_of_seeds(pytester: pytest.Pytester, project: Path) -> None:
    """Three seeds are trained, and the claim is about the recipe; two are refused in one line."""
    result = run(pytester, "--finetune-seeds=3", "--finetune-report=run.json")
    assert result.ret == 0
    assert len(list((pytester.path / ".finetune" / "adapter").iterdir())) == 3
    (verdict,) = json.loads((pytester.path / "run.json").read_text())["suites"][0]["verdicts"]
    assert verdict["claims"][0]["statistic"] == "t over 3 seeds"
    refused = run(pytester, "--finetune-seeds=2")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["ERROR: --finetune-seeds=2: write a whole number from 3 to 20*"])


@pytest.mark.slow
def test_hopeless_suite_is_refused_at_collection(pytester: pytest.Pytester, claims: Path) -> None:
    """A general suite that is too small to ever pass ends the run before any compute, in one line."""
    (claims / "sort.jsonl").write_text("".join((claims / "sort.jsonl").read_text().splitlines(keepends=True)[:50]))
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *suite.toml: general sort has 50 rows*takes 59 *[[]gate] guard = 0.05*"])
    assert not (pytester.path / ".finetune").exists()


def harness(path: Path, right: int, first: int = 0) -> None:
    """Write samples as lm-eval logs them (EleutherAI/lm-evaluation-harness, evaluation_tracker.py), 400 documents."""
    lines = [
        {
            "doc_id": i, "doc": {"query": f"question {i}"}, "target": "1", "arguments": [[f"question {i}", " yes"]],
            "resps": [[["-1.5", "False"]]], "filtered_resps": [["-1.5", "False"]], "filter": "none",
            "metrics": ["acc", "acc_norm"], "doc_hash": f"hash {i}", "acc": float(i < right), "acc_norm": 1.0,
        }
        for i in range(first, first + 400)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.slow
def test_outputs_made_elsewhere(pytester: pytest.Pytester, project: Path) -> None:
    """lm-eval's samples gate what is kept, for the adapter they are of; others, and other ids, are one line."""
    harness(project / "samples_base.jsonl", 300)
    harness(project / "samples_adapter.jsonl", 300)
    outputs = 'outputs = { base = "samples_base.jsonl", adapter = "samples_ad*.jsonl", metric = "acc" }'
    (project / "suite.toml").write_text(SUITE + f'[[general]]\nname = "arc"\n{outputs}\n')
    (project / "test_colours.py").write_text(CLAIMS.split("def test_rate", maxsplit=1)[0])
    refused = run(pytester, "--finetune-report=run.json")
    assert refused.ret == 1
    refused.stdout.fnmatch_lines(["*suite.toml: general arc: its outputs do not say which adapter*outputs.of*"])

    (suite,) = json.loads((pytester.path / "run.json").read_text())["suites"]
    named = outputs.replace(" }", f', of = "{suite["adapter"]["digest"][:12]}" }}')
    (project / "suite.toml").write_text(SUITE + f'[[general]]\nname = "arc"\n{named}\n')
    result = run(pytester)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*PASS*adapter keeps arc: mean drop below 2.0 points: 7?.? % -> 7?.?*"])

    harness(project / "samples_adapter.jsonl", 100)
    worse = run(pytester, "-v")
    assert worse.ret == 1
    worse.stdout.fnmatch_lines(["*FAIL*adapter keeps arc*", "*worst lost examples*", "*samples_base.jsonl:*question*"])

    harness(project / "samples_adapter.jsonl", 300, first=1)
    unequal = run(pytester)
    assert unequal.ret == pytest.ExitCode.USAGE_ERROR
    unequal.stderr.fnmatch_lines(["ERROR: *samples_adapter.jsonl: general arc: 1 of 400 ids*first: 0*"])
