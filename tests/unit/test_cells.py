"""Cells: files that people hand around, and folders that several machines write to."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune import cli
from pytest_finetune.cells import cell as cells
from pytest_finetune.cells import judging, result
from pytest_finetune.cells.cell import Cell, in_folder
from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.records import to_plain
from pytest_finetune.store import Store

OPTIONS = {"method": "lora", "seed": "", "engine": ""}
CELL = Cell("süß", "suites/one", OPTIONS, 1, 3, whole=False, digest="0a" * 32)


def made(folder: Path, text: str) -> Path:
    """Return a finished result's folder."""
    (folder / "outputs").mkdir(parents=True)
    (folder / "outputs" / "value.json").write_text(text)
    result.write(folder, result.Result(CELL, 1.0))
    return folder


@pytest.mark.parametrize(
    "changed",
    [
        {"options": {**OPTIONS, "method": "../../elsewhere"}},
        {"options": {**OPTIONS, "method": 5}},
        {"options": {**OPTIONS, "seed": None}},
        {"options": {**OPTIONS, "store": "x"}},
        {"options": ["method"]},
        {"path": "/etc"},
        {"path": "suites/../../one"},
        {"path": "-p"},
        {"suite": "../one"},
        {"part": "1"},
        {"part": [1]},
        {"digest": "../" * 22},
    ],
)
def test_what_no_plan_would_write(tmp_path: Path, changed: dict[str, Any]) -> None:
    """A cell that was written by hand is one line, and no way out of a folder."""
    file = tmp_path / "cell.json"
    file.write_text(json.dumps(to_plain(CELL)))
    assert cells.read(file) == CELL
    file.write_text(json.dumps({**to_plain(CELL), **changed}))
    with pytest.raises(SuiteError, match=r"cell\.json: no cell; write cells with"):
        cells.read(file)


def test_a_cell_without_end(tmp_path: Path) -> None:
    """A file deeper than Python reads is no cell, too."""
    (tmp_path / "cell.json").write_text("[" * 100_000)
    with pytest.raises(SuiteError, match="no cell"):
        cells.read(tmp_path / "cell.json")


def test_the_first_result_stays(tmp_path: Path) -> None:
    """Of two that finish one cell the first is kept; half a result gives way, and nothing is moved into another's."""
    results = tmp_path / "results"
    (results / CELL.result).mkdir(parents=True)
    (results / CELL.result / "half").touch()
    for number in range(2):
        result.publish(made(tmp_path / f"work{number}", str(number)), results, CELL)
    assert (results / CELL.result / "outputs" / "value.json").read_text() == "0"
    assert not (results / CELL.result / "half").exists()
    assert not result._moved(made(tmp_path / "late", "2"), results / CELL.result)
    assert not (results / CELL.result / "late").exists()


def test_results_on_another_disk(tmp_path: Path) -> None:
    """Where no folder can be renamed a result is copied, whole."""
    if not (other := Path("/dev/shm")).is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other disk here")
    results = tempfile.mkdtemp(dir=other)
    try:
        result.publish(made(tmp_path / "work", "0"), Path(results), CELL)
        assert result.found(Path(results), CELL)
        assert Path(results, CELL.result, "outputs", "value.json").read_text() == "0"
    finally:
        shutil.rmtree(results)


def test_a_file_where_a_folder_is_due(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results, or a store, that cannot be written are one line."""
    (tmp_path / "file").touch()
    work = made(tmp_path / "work", "0")
    with pytest.raises(EngineError, match=r"file.*: Not a directory"):
        result.publish(work, tmp_path / "file", CELL)
    with pytest.raises(EngineError, match=r"store .*file: "):
        judging.merged([CELL], {CELL: work}, Store(tmp_path / "file"), judging.Bar())


def test_a_plan_that_lost_a_cell(tmp_path: Path) -> None:
    """Cells are as many as were planned: a recipe of which none is left would not be missed else."""
    for number in range(2):
        named = replace(CELL, of=3, part=number)
        (tmp_path / f"{number}.json").write_text(json.dumps(to_plain(named)))
    with pytest.raises(SuiteError, match="2 cells, and they were planned as 3; plan into a new folder"):
        in_folder(tmp_path)
    (tmp_path / "2.json").write_text(json.dumps(to_plain(replace(CELL, of=3, part=2))))
    assert len(in_folder(tmp_path)) == 3


def test_cells_of_two_plans(tmp_path: Path) -> None:
    """A folder that holds what an earlier plan wrote, too, is refused: one recipe would stand for the other."""
    whole = replace(CELL, part=0, seeds=1, whole=True, digest="1b" * 32)
    with pytest.raises(SuiteError, match="cells of süß-lora are of two plans; plan into a new folder"):
        judging.merged([CELL, whole], {}, Store(tmp_path), judging.Bar())


def test_a_report_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said before anything is judged, and counted as an attempt."""
    (tmp_path / "matrix.json").write_text(json.dumps({"include": [{"suite": "one", "path": "one"}]}))
    verdict = ["verdict", f"--matrix={tmp_path / 'matrix.json'}", f"--evidence={tmp_path}"]
    assert cli.main([*verdict, f"--report={tmp_path / 'none' / 'run.json'}"]) == 4
    told = capsys.readouterr()
    assert told.err.startswith("ERROR: --report=")
    assert "verdict" not in told.out
