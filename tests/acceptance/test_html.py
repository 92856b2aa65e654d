"""`pytest --finetune --finetune-html=FILE`: where the page goes, and what is told before the run where it cannot."""

from pathlib import Path

import pytest

ARGS = ("--finetune", "-p", "no:cacheprovider")


def test_page_takes_the_place_of_an_older_one(pytester: pytest.Pytester, project: Path) -> None:
    """The page is written where it is asked for, by the ini file too, over the one of the run before."""
    (pytester.path / "run.html").write_text("older")
    pytester.makeini("[pytest]\nfinetune_html = run.html")
    result = pytester.runpytest_subprocess(*ARGS, "-k", "data")  # checks the rows, and starts no engine
    assert result.ret == 0
    text = (pytester.path / "run.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "150 heldout" in text
    assert not list(pytester.path.glob(".run.html*"))


@pytest.mark.parametrize("option", ["--finetune-html", "--finetune-report"])
@pytest.mark.parametrize(
    ("file", "why"), [("none/run.out", "no such folder *none; make it first"), ("colours", "cannot be written; *")]
)
def test_report_that_cannot_be_written_is_told_first(
    pytester: pytest.Pytester, project: Path, option: str, file: str, why: str
) -> None:
    """A report whose folder is missing, or which is a folder itself, ends the run in one line before it starts."""
    result = pytester.runpytest_subprocess(*ARGS, f"{option}={file}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {option}=*{file}: {why}"])
    assert "Traceback" not in result.stderr.str()
    assert not (pytester.path / ".finetune").exists()
