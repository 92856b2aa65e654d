"""Bad data, from the command line: refused before any compute, mended, cleaned into files of its own."""

import json
import sys
from pathlib import Path

import pytest
from colours import SUITE, rows

COMMAND = Path(sys.executable).parent / "pytest-finetune"
BAD = [
    json.loads(rows(1000, 1)),  # the first held-out row
    {**json.loads(rows(7, 1)), "completion": "box blue"},  # a train row, answered differently
    {"prompt": "", "completion": "box red"},
    {"prompt": "item 901: frÃ¶g", "completion": "box green"},
    {"prompt": "item 902: sky", "completion": "box sky"},
]
LABELS = 'answer = { labels = ["box red", "box green", "box blue"] }\n'
DROP = "".join(
    f'[checks.{name}]\non_issue = "drop"\n' for name in ("leakage", "conflicts", "empty", "encoding", "references")
)


@pytest.fixture
def spoiled(project: Path) -> Path:
    """The suite with five bad rows at the end of train."""
    with (project / "train.jsonl").open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in BAD)
    (project / "suite.toml").write_text(SUITE + LABELS)
    return project


@pytest.mark.slow
@pytest.mark.fault(23)
def test_bad_data_is_refused_then_mended(pytester: pytest.Pytester, spoiled: Path) -> None:
    """Each bad row is named in a line of its own and nothing is trained; the suite without them passes."""
    refused = pytester.runpytest_subprocess("--finetune")
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    refused.stdout.fnmatch_lines(
        [
            "*suite.toml: data refused: encoding: 1 train row with broken characters*(train.jsonl:154 mojibake*",
            "*empty: 1 train row without*(train.jsonl:153 empty question)",
            "*references: 1 train row*not among*labels (train.jsonl:155 reference 'box sky')",
            "*leakage: 1 held-out row also in train*(heldout.jsonl:1 = train.jsonl:151)",
            "*conflicts: 2 train rows*(train.jsonl:152 = train.jsonl:8, train.jsonl:8 = train.jsonl:152)",
        ]
    )
    refused.stdout.no_fnmatch_line("*Traceback*")
    assert not (pytester.path / ".finetune" / "adapter").exists()
    (spoiled / "train.jsonl").write_text(rows(0, 150))
    mended = pytester.runpytest_subprocess("--finetune", "-k", "data")
    mended.assert_outcomes(passed=1, deselected=2)


@pytest.mark.slow
def test_dropped_rows_are_said(pytester: pytest.Pytester, spoiled: Path) -> None:
    """Where the suite says drop, the data item passes and the report says how many rows went."""
    (spoiled / "suite.toml").write_text(SUITE + LABELS + DROP)
    result = pytester.runpytest_subprocess("--finetune", "-k", "data")
    result.assert_outcomes(passed=1, deselected=2)
    result.stdout.fnmatch_lines(["*134 train, 15 dev, 150 held-out*", "*conflicts: 2 train rows*[[]2 dropped]*"])


def test_curate_writes_a_clean_copy(pytester: pytest.Pytester, spoiled: Path) -> None:
    """`curate --out` exits 1 where a check fails, 0 where rows are dropped; sources stay, DIR is never written over."""
    given = (spoiled / "train.jsonl").read_bytes()
    failed = pytester.run(COMMAND, "curate", "colours")
    assert failed.ret == 1
    failed.stdout.fnmatch_lines(["refused: conflicts: *"])
    (spoiled / "suite.toml").write_text(SUITE + LABELS + DROP)
    written = pytester.run(COMMAND, "curate", "colours", "--out", "clean")
    assert written.ret == 0
    clean = pytester.path / "clean"
    counts = {file.name: len(file.read_text().splitlines()) for file in clean.glob("*.jsonl")}
    assert counts == {"train.jsonl": 134, "dev.jsonl": 15, "heldout.jsonl": 150, "report.jsonl": 6}
    flag = json.loads((clean / "report.jsonl").read_text().splitlines()[0])
    assert flag["place"] == "train.jsonl:154"
    assert "| conflicts | train | 2 | 2 |" in (clean / "report.md").read_text()
    assert (spoiled / "train.jsonl").read_bytes() == given
    again = pytester.run(COMMAND, "curate", "colours", "--out", "clean")
    assert again.ret == 4
    again.stderr.fnmatch_lines(["ERROR: --out clean: is there already and not an empty folder; name a new one"])


@pytest.mark.slow
def test_few_rows_are_a_usage_error(pytester: pytest.Pytester, project: Path) -> None:
    """Thirty rows to train on end the run at once, in one line with what to do."""
    (project / "train.jsonl").write_text(rows(0, 30))
    result = pytester.runpytest_subprocess("--finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *suite.toml: [[]data] train has 30 usable rows; fine-tuning needs 50*"])


@pytest.mark.slow
def test_wrong_references_are_trained_out(pytester: pytest.Pytester, project: Path) -> None:
    """The check that trains finds flipped labels on the embedded model, before baseline and adapter."""
    flipped = [json.loads(line) for line in rows(0, 150).splitlines()]
    for i in (10, 70, 130):
        flipped[i]["completion"] = "box red" if flipped[i]["completion"] != "box red" else "box blue"
    (project / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in flipped))
    (project / "suite.toml").write_text(
        SUITE.replace("epochs = 4", "epochs = 7") + '[checks.wrong_references]\non_issue = "warn"\n'
    )
    result = pytester.runpytest_subprocess("--finetune", "-k", "data", timeout=240)
    result.assert_outcomes(passed=1, deselected=2)
    result.stdout.fnmatch_lines(["*wrong_references: *train references are unlikely*"])
    said = result.stdout.str()
    assert sum(f"train.jsonl:{i + 1} " in said for i in (10, 70, 130)) >= 2  # a flipped row may be cut for dev
    assert len(list((pytester.path / ".finetune" / "adapter").iterdir())) == 3  # one a fold, and none that ships
