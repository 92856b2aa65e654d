"""`pytest-finetune promote`: only what passed leaves, and only as it was judged."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_finetune import cli, digest
from pytest_finetune.records import Adapter, RunRecord, SuiteRecord
from pytest_finetune.report import run_json
from pytest_finetune.tuning import SHIPPED


@pytest.fixture
def passed(tmp_path: Path) -> RunRecord:
    """A run of one suite, whose adapter lies beside what training left there."""
    folder = tmp_path / "store"
    folder.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json", "curve.json"):
        (folder / name).write_text(name)
    adapter = Adapter(str(folder), digest.of_files(folder, SHIPPED), "lora")
    suite = SuiteRecord("colours", "colours/suite.toml", "embedded", "", {}, adapter=adapter)
    return RunRecord("0", "2026-01-01T00:00:00+00:00", 0.0, {}, (suite,), "PASS")


def promote(run: RunRecord, folder: Path) -> int:
    """Run the command; return its exit code."""
    run_json.write(run, folder / "run.json")
    return cli.main(["promote", str(folder / "run.json"), "--out", str(folder / "out")])


def test_copies_what_ships(tmp_path: Path, passed: RunRecord) -> None:
    """The weights and their configuration are copied a folder a suite, with sums of all and nothing else."""
    assert promote(passed, tmp_path) == 0
    copied = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert copied == ["colours/adapter_config.json", "colours/adapter_model.safetensors"]
    sums = (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()
    assert sorted(sums) == sorted(f"{digest.of_file(tmp_path / 'out' / name)}  {name}" for name in copied)


@pytest.mark.parametrize("outcome", ["FAIL", "INCONCLUSIVE", "ERROR", "SKIPPED"])
def test_only_what_passed(tmp_path: Path, passed: RunRecord, outcome: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing leaves a run that did not pass, and the line says what it came to."""
    assert promote(replace(passed, outcome=outcome), tmp_path) == 4  # type: ignore[arg-type]
    assert f"came to {outcome}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_what_was_judged(tmp_path: Path, passed: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    """An adapter that changed since is refused, and nothing is written."""
    (tmp_path / "store" / "adapter_model.safetensors").write_text("others")
    assert promote(passed, tmp_path) == 4
    assert "does not hold the adapter that was judged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_overwrites_nothing(tmp_path: Path, passed: RunRecord) -> None:
    """A folder that is there stays as it is."""
    (tmp_path / "out").mkdir()
    assert promote(passed, tmp_path) == 4
    assert not list((tmp_path / "out").iterdir())
