"""The built wheel, away from the source tree: it has all that it needs, and gates a suite."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from colours import SUITE, TEST, rows

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pytest_finetune"
UNSEEN = ("__editable__", "pytest_finetune")  # of what the tests are installed with


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python in an environment with the wheel, the dependencies of this one, and not the source tree."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"  # a build leaves folders behind
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    here, pip = Path(sys.executable), ("pip", "--disable-pip-version-check", "--quiet")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work), str(source))
    run(here, work, *pip, *build)
    shutil.rmtree(source)
    venv.create(work / "venv", symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(work / "venv")}))
    shared = work / "shared"
    shared.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(UNSEEN) and path.suffix != ".pth":
            (shared / path.name).symlink_to(path)
    (site / "shared.pth").write_text(f"{shared}\n")
    [wheel] = work.glob("*.whl")
    python = work / "venv" / "bin" / "python"
    run(here, work, *pip, "--python", str(python), "install", "--no-deps", str(wheel))
    return python


def run(python: Path, folder: Path, *command: str) -> str:
    """Run a module with that Python, in a folder, without the paths of this process; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = [str(python), "-m", *command]
    done = subprocess.run(started, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_file_is_in_it(python: Path) -> None:
    """The embedded model, schemas, templates and all modules are installed, byte for byte."""
    [installed] = python.parents[1].glob("lib/python*/site-packages/pytest_finetune")
    source = {path.relative_to(PACKAGE): path for path in PACKAGE.rglob("*") if path.is_file()}
    wanted = {name: path.read_bytes() for name, path in source.items() if "__pycache__" not in name.parts}
    assert {name for name in wanted if not (installed / name).is_file()} == set()
    assert all((installed / name).read_bytes() == content for name, content in wanted.items())


@pytest.mark.slow
def test_gates_without_the_source(python: Path, tmp_path: Path) -> None:
    """A suite passes, and the commands work, with the installed package alone."""
    folder = tmp_path / "colours"
    folder.mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (folder / "suite.toml").write_text(SUITE)
    (folder / "train.jsonl").write_text(rows(0, 150))
    (folder / "heldout.jsonl").write_text(rows(1000, 150))
    (folder / "test_colours.py").write_text(TEST)
    (tmp_path / "where.py").write_text("import pytest_finetune; print(pytest_finetune.__file__)\n")
    assert str(python.parents[1]) in run(python, tmp_path, "where")
    run(python, tmp_path, "pytest", "--finetune", "--finetune-html=page.html", "--finetune-report=run.json")
    assert "adapter beats baseline" in (tmp_path / "page.html").read_text()
    for command in (
        ["--help"],
        ["init", "sorted", "--yes"],
        ["lint", "sorted"],
        ["report", "run.json"],
    ):
        run(python, tmp_path, "pytest_finetune.cli", *command)
    assert (tmp_path / "sorted" / "suite.toml").is_file()
