"""Scores made elsewhere gate an adapter made elsewhere, on the embedded model."""

import json
from pathlib import Path

import pytest
from colours import KEEPS, SUITE

from pytest_finetune import digest
from pytest_finetune.tuning import SHIPPED

MAKE = """
import torch
from pathlib import Path
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
import pytest_finetune
base = AutoModelForCausalLM.from_pretrained(Path(pytest_finetune.__file__).parent / "embedded")
torch.manual_seed(0)
config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
get_peft_model(base, config).save_pretrained("made")
"""
ROWS = 200


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Gate the adapter in the folder ``made``."""
    return pytester.runpytest_subprocess(
        "--finetune", "-p", "no:cacheprovider", "--finetune-adapter=made", *args, timeout=240
    )


def scores(path: Path, right: int, first: int = 0) -> None:
    """Write plain lines, of which so many are right."""
    path.write_text("".join(f'{{"id": {i}, "score": {int(i < right)}}}\n' for i in range(first, first + ROWS)))


def outputs(project: Path, of: str = "") -> None:
    """Write a suite whose one general suite is scored elsewhere."""
    entry = f', of = "{of}"' if of else ""
    (project / "suite.toml").write_text(
        SUITE + f'[[general]]\nname = "arc"\noutputs = {{ base = "base.jsonl", adapter = "tuned.jsonl"{entry} }}\n'
    )


@pytest.fixture
def made(pytester: pytest.Pytester, project: Path) -> Path:
    """The colours suite, an adapter made by plain peft, and a test of what it keeps."""
    (pytester.path / "make.py").write_text(MAKE)
    assert pytester.runpython(pytester.path / "make.py").ret == 0
    (project / "test_colours.py").write_text(KEEPS)
    scores(project / "base.jsonl", ROWS)
    return project


@pytest.mark.slow
def test_plain_scores_gate_what_is_kept(pytester: pytest.Pytester, made: Path) -> None:
    """Equal scores pass and worse ones fail."""
    outputs(made, of=digest.of_files(pytester.path / "made", SHIPPED)[:12])
    scores(made / "tuned.jsonl", ROWS)
    kept = run(pytester)
    assert kept.ret == 0
    kept.stdout.fnmatch_lines(["*PASS*adapter keeps arc*100.0 % -> 100.0 %*"])
    scores(made / "tuned.jsonl", ROWS // 2)
    lost = run(pytester, "-v")
    assert lost.ret == 1
    lost.stdout.fnmatch_lines(["*FAIL*adapter keeps arc*", "*worst lost examples*", "*base.jsonl:*"])


@pytest.mark.slow
def test_of_names_the_adapter_that_was_scored(pytester: pytest.Pytester, made: Path) -> None:
    """Scores of another adapter are refused in one line, which gives the digest to write; with it they count."""
    scores(made / "tuned.jsonl", ROWS)
    outputs(made, of="0123456789ab")
    wrong = run(pytester, "--finetune-report=run.json")
    assert wrong.ret == 1
    (suite,) = json.loads((pytester.path / "run.json").read_text())["suites"]
    of = suite["adapter"]["digest"][:12]
    wrong.stdout.fnmatch_lines(
        [f'*general arc: its outputs are of the adapter 0123456789ab, and {of} is judged; *outputs.of = "{of}"*']
    )
    wrong.stdout.no_fnmatch_line("*Traceback*")
    outputs(made, of=of)
    assert run(pytester).ret == 0


@pytest.mark.slow
def test_other_rows_are_one_line(pytester: pytest.Pytester, made: Path) -> None:
    """Ids of one side only end the run before any compute."""
    outputs(made)
    scores(made / "tuned.jsonl", ROWS, first=1)
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *tuned.jsonl: general arc: 1 of 200 ids of the other side*first: 0*"])
    assert len([line for line in result.stderr.lines if line.startswith("ERROR")]) == 1
    assert not (pytester.path / ".finetune").exists()
