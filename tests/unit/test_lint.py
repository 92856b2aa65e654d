"""`pytest-finetune lint`: what a commit hook says of suites, in seconds and without a model."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from colours import SUITE, rows
from written import WITHOUT_ROWS, on_issue

from pytest_finetune.cli import main

ROOT = Path(__file__).parents[2]
QUIET = SUITE + '[answer]\nlabels = ["box red", "box green", "box blue"]\n' + on_issue("off", *WITHOUT_ROWS)
GENERAL = '[[general]]\ndata = "../general/copy.jsonl"\n'
LEAKED = json.loads(rows(0, 1))
Spoil = Callable[[Path], object]


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite without a finding, in the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "colours"
    for name in ("colours", "general"):
        (tmp_path / name).mkdir()
    (folder / "suite.toml").write_text(QUIET + GENERAL)
    (folder / "train.jsonl").write_text(rows(0, 150))
    (folder / "heldout.jsonl").write_text(rows(1000, 60))
    (tmp_path / "general/copy.jsonl").write_text(rows(2000, 20))
    return folder


def append(name: str, *found: object) -> Spoil:
    """Return what adds rows to a file."""

    def edit(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.writelines(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in found)

    return edit


FAILS: dict[str, tuple[Spoil, str]] = {
    "suite": (
        lambda f: (f / "suite.toml").write_text(QUIET.replace("epochs", "epoch")),
        r"colours/suite.toml: \[training\] unknown key 'epoch'; did you mean 'epochs'\?",
    ),
    "JSON": (append("heldout.jsonl", "{"), "colours/heldout.jsonl:61: not JSON: .*"),
    "field": (
        append("heldout.jsonl", {"prompt": "x"}),
        "colours/heldout.jsonl:61: the row has no field 'completion' .*",
    ),
    "label": (
        append("train.jsonl", {"prompt": "x", "completion": "box pink"}),
        r"colours/train.jsonl:151: references: .*not among \[answer\] labels.*",
    ),
    "empty": (
        append("heldout.jsonl", {"prompt": "", "completion": "box red"}),
        "colours/heldout.jsonl:61: empty: 1 held-out row without a question or a reference .*",
    ),
    "leakage": (
        append("heldout.jsonl", LEAKED),
        r"colours/train.jsonl:1: leakage: .*\(heldout.jsonl:61 = train.jsonl:1\)",
    ),
    "encoding": (
        append("../general/copy.jsonl", {"prompt": "a\ufffd", "completion": "box red"}),
        "general/copy.jsonl:21: encoding: .*",
    ),
    "conflict": (
        append("train.jsonl", {**LEAKED, "completion": "box blue"}),
        r"colours/train.jsonl:(1|151): conflicts: .*",
    ),
}


def test_clean_suite_is_silent(colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing is wrong nothing is said."""
    assert main(["lint"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", FAILS)
def test_failed_check_is_a_line_with_its_place(name: str, colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong gives exit code 1 and a line with file and line, seen from the working folder."""
    spoil, line = FAILS[name]
    spoil(colours)
    assert main(["lint"]) == 1
    said = capsys.readouterr().out
    assert any(re.fullmatch(line, text) for text in said.splitlines()), said


def test_one_suite_that_fails_is_enough(colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All suites are looked at, and the worst decides, whichever comes last."""
    shutil.copytree(colours, colours.parent / "paint")
    append("heldout.jsonl", "{")(colours)
    assert main(["lint"]) == 1
    append("../paint/heldout.jsonl", "{")(colours)
    assert main(["lint"]) == 1
    assert len(re.findall(": not JSON: ", capsys.readouterr().out)) == 3


def test_warning_does_not_fail(colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A check that warns or drops is told, and fails no commit."""
    append("train.jsonl", json.loads(rows(3, 1)))(colours)
    assert main(["lint", "colours"]) == 0
    assert re.match(r"colours/train.jsonl:151: warning: duplicates: .*train.jsonl:151", capsys.readouterr().out)


def test_each_finding_stands_at_its_own_row(colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a finding, at its first row; the others are counted."""
    append("heldout.jsonl", *({"prompt": "", "completion": "box red"} for _ in range(15)))(colours)
    append("train.jsonl", {"prompt": "x", "completion": "box pink"})(colours)
    assert main(["lint"]) == 1
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"colours/heldout.jsonl:61: empty: 15 held-out rows .* and 12 more\)", first)
    assert re.fullmatch(r"colours/train.jsonl:151: references: 1 train row .*'box pink'\)", second)


@pytest.mark.parametrize(
    ("paths", "code"),
    [
        (["colours/suite.toml"], 1),
        (["colours/heldout.jsonl"], 1),
        (["general/copy.jsonl"], 1),  # which only the suite's own file leads to
        (["general"], 4),
        (["colours"], 1),
        (["elsewhere.jsonl"], 0),
        (["colours/gone.jsonl"], 4),
    ],
)
def test_files_lead_to_their_suites(paths: list[str], code: int, colours: Path) -> None:
    """A hook names files: of the suites that they belong to or that read them all is checked, and no other."""
    Path("elsewhere.jsonl").write_text("{\n")
    append("heldout.jsonl", "{")(colours)
    assert main(["lint", *paths]) == code


def test_hostile_rows_cannot_act(colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stands in a row is shown, and moves no terminal and no runner."""
    append("train.jsonl", {"prompt": "x", "completion": "\x1b[2J::error::x"})(colours)
    assert main(["lint"]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "::error" not in said


def test_hub_rows_touch_no_network(colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A suite whose rows are on a hub is only told of."""
    text = QUIET.replace('"heldout.jsonl"', f'"hub:x/y@{"0" * 40}:test"')
    (colours / "suite.toml").write_text(text)
    assert main(["lint"]) == 0
    assert "colours/suite.toml:1: note: its rows are no files" in capsys.readouterr().out


def test_hook_lints_the_example_suites() -> None:
    """The hook's own entry passes on the example suites, and never loads torch."""
    (hook,) = importlib.import_module("yaml").safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    program, *arguments = shlex.split(hook["entry"])
    assert program == "pytest-finetune"
    files = [str(path) for path in (ROOT / "eval_suites").rglob("*") if re.search(hook["files"], path.as_posix())]
    assert len(files) > 20
    code = "import sys; from pytest_finetune.cli import main; sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
