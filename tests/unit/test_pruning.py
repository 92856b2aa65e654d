"""`pytest-finetune store`: what goes by age and size, and what a verdict rests on stays."""

import os
import time
from pathlib import Path

import pytest

from pytest_finetune import unfinished
from pytest_finetune.cli import main
from pytest_finetune.holdings import entries
from pytest_finetune.ledger import Attempt
from pytest_finetune.store import Store, work_name

KB = 1000
DAY = 86400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of four adapters of 10 kB, not used for 1, 2, 3 and 4 days; a verdict rests on the last."""
    store = Store(tmp_path / "store")
    for days in (3, 1, 4, 2):
        made(store, f"unused{days}", days)
    attempt = Attempt("colours", "held-out", "q", ("a", "b"), "s", "adapter")
    store.ledger.number(attempt)
    store.ledger.decided(attempt, "PASS", {("adapter", "unused4")})
    return store


def made(store: Store, key: str, days: float, stage: str = "adapter") -> Path:
    """Make an entry that was last used so many days ago."""

    def make(folder: Path) -> None:
        (folder / "weights").write_bytes(b"." * 10 * KB)

    path = store.folder(stage, key, make)
    os.utime(path / "manifest.json", (time.time() - days * DAY,) * 2)
    return path


def left(store: Store) -> list[str]:
    """Return the keys of the entries that are there."""
    return sorted(entry.key for entry in entries(store))


@pytest.mark.parametrize(
    ("options", "stays"),
    [
        ([], [1, 2, 3, 4]),
        (["--prune-days=9"], [1, 2, 3, 4]),
        (["--prune-days=2.5"], [1, 2, 4]),
        (["--prune-days=0"], [4]),
        (["--max-size=1MB"], [1, 2, 3, 4]),
        (["--max-size=31kB"], [1, 2, 4]),
        (["--max-size=25 KB"], [1, 4]),
        (["--max-size=20.8KiB"], [1, 4]),
        (["--max-size=12000"], [4]),
        (["--max-size=31KB", "--prune-days=1.5"], [1, 4]),
        (["--max-size=12KB", "--prune-days=0", "--dry-run"], [1, 2, 3, 4]),
    ],
    ids=str,
)
def test_what_goes(store: Store, options: list[str], stays: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    """By age and by size, longest unused first; what a verdict rests on stays, and the listing says why."""
    assert main(["store", f"--store={store.root}", *options]) == 0
    assert left(store) == [f"unused{days}" for days in stays]
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in said] == ["unused4", "unused3", "unused2", "unused1"]
    assert said[0].endswith("needed by attempt 1 of colours")
    if options:
        assert sum("deleted" in line for line in said) == (3 if "--dry-run" in options else 4 - len(stays))
    assert all(("would be" in line) == ("--dry-run" in options) for line in said if "deleted" in line)


def test_what_must_stay_is_too_large(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, the exit code is 1, and only what nobody needs goes."""
    assert main(["store", f"--store={store.root}", "--max-size=9KB"]) == 1
    assert "must stay, which is more than --max-size=9KB" in capsys.readouterr().out
    assert left(store) == ["unused4"]


def test_what_is_used_is_not_old(store: Store) -> None:
    """A hit counts as use, also of rows; one of today changes nothing, and a store that cannot be written serves."""
    path = store.root / "adapter" / "unused3" / "manifest.json"
    reader = Store(store.root)
    reader.folder("adapter", "unused3", lambda folder: None)
    assert time.time() - path.stat().st_mtime < DAY / 2
    now = time.time() - DAY / 2
    os.utime(path, (now, now))
    list(reader.group("adapter", "unused3"))
    reader.folder("adapter", "unused3", lambda folder: None)
    assert path.stat().st_mtime == pytest.approx(now)
    chunk = made(store, "g-0a", 5, "outputs")
    list(reader.group("outputs", "g"))
    assert time.time() - (chunk / "manifest.json").stat().st_mtime < DAY / 2


def test_left_overs_go_and_what_is_at_work_stays(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """What was set aside, and checkpoints of the dead, are deleted as entries are; those of a run at work are not."""
    weights = store.root / "adapter" / "unused3" / "weights"
    weights.write_text("damaged")
    made(store, "unused3", 3)
    folders = list((store.root / "quarantine").iterdir())
    dead, alive = (store.root / "unfinished" / f"k-{unfinished.HOST}-{pid}-0a" for pid in (2**22 + 1, os.getpid()))
    lost, new, own = (store.root / name for name in ("work-a-1-x", "work-b-1-x", f"{work_name(os.getpid())}x"))
    for folder in (dead, alive, lost, new, own):
        folder.mkdir(parents=True)
    os.utime(lost, (time.time() - 8 * DAY,) * 2)
    os.utime(own, (time.time() - 8 * DAY,) * 2)
    assert main(["store", f"--store={store.root}", "--prune-days=0"]) == 0
    assert not any(folder.exists() for folder in (dead, lost, *folders))
    assert alive.exists()
    assert capsys.readouterr().out.count("needed by the run that writes it") == 3
    assert set(store.root.glob("work-*")) == {new, own}


def test_a_damaged_ledger_deletes_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it cannot be told what is needed, nothing goes."""
    (store.root / "ledger" / "00000001" / "outcome.json").write_text("?")
    assert main(["store", f"--store={store.root}", "--prune-days=0"]) == 4
    assert "outcome.json: damaged" in capsys.readouterr().err
    assert len(list((store.root / "adapter").iterdir())) == 4


@pytest.mark.parametrize("option", ["--max-size=lots", "--max-size=-1GB", "--max-size=5XB", "--prune-days=-1"])
def test_a_limit_that_is_none(store: Store, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is one line that says what to write, and nothing goes."""
    assert main(["store", f"--store={store.root}", option]) == 4
    assert f"ERROR: {option}: write a number" in capsys.readouterr().err
    assert len(left(store)) == 4
