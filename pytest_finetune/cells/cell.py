"""A cell: one suite, method and seed, trained and measured on one machine, and judged with all others."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from pytest_finetune import digest, harness, suite
from pytest_finetune.errors import SuiteError
from pytest_finetune.measure import LIBRARIES
from pytest_finetune.methods import CHOICES, METHODS
from pytest_finetune.pipeline import Pipeline
from pytest_finetune.records import from_json, to_plain
from pytest_finetune.session import FinetuneSession
from pytest_finetune.suite import SuiteSpec

NAME = r"\w[\w.-]*"  # of a suite whose evidence has a folder
SHORT = 16  # digits of a digest in the name of a result


@dataclass(frozen=True, slots=True)
class Cell:
    """One unit of work, that any machine can do any number of times.

    Args:
        suite: the suite's name.
        path: its folder, relative to the project.
        options: of the command line, which change what is made: ``method``, ``seed``, ``engine``.
        part: which seed of the recipe, from 0.
        seeds: how many seeds the recipe has.
        whole: whether all seeds are in this cell, since later ones need what the first found.
        digest: of all that it works on but the base model's bytes, and of the code that does it.
        of: how many cells its plan has.
    """

    suite: str
    path: str
    options: dict[str, str] = field(default_factory=dict, hash=False)
    part: int = 0
    seeds: int = 1
    whole: bool = True
    digest: str = ""
    of: int = field(default=0, compare=False)

    @property
    def title(self) -> str:
        """How people call it, and the name of its file."""
        return self.recipe_title if self.whole else f"{self.recipe_title}-{self.part}"

    @property
    def recipe_title(self) -> str:
        """How people call what is judged together."""
        return "-".join(filter(None, (self.suite, self.options.get("method"))))

    @property
    def recipe(self) -> tuple[object, ...]:
        """What is judged together: all seeds of a suite's method."""
        return self.suite, self.path, tuple(sorted(self.options.items())), self.seeds

    @property
    def is_named(self) -> bool:
        """Whether its name and path are ones that a plan writes: whoever wrote them ran the code that is judged, and
        neither is a way out of a folder, or an option.
        """
        place = PurePosixPath(self.path)
        astray = self.path.startswith("-") or "\0" in self.path or place.is_absolute() or ".." in place.parts
        return bool(re.fullmatch(NAME, self.suite)) and not astray

    @property
    def result(self) -> str:
        """The name of the folder with its result."""
        return self.digest[:SHORT]

    @property
    def made_with(self) -> dict[str, str]:
        """The options that its evidence must name."""
        return {**self.options, "seeds": str(self.seeds if self.whole else 1)}

    def arguments(self) -> list[str]:
        """Return the options of pytest that train and measure it, and judge nothing."""
        said = [f"--finetune-{name}={value}" for name, value in self.made_with.items() if value]
        return [f"--finetune-measure={self.part}", *said]


def inputs_of(spec: SuiteSpec, root: Path) -> str:
    """Return the digest of what all cells of a suite work on, the same on every machine."""
    files = {spec.file, *spec.folder.glob("**/*.py"), *_local(spec)}
    above = (place / "conftest.py" for place in (spec.folder, *spec.folder.parents) if place.is_relative_to(root))
    files |= {file for file in above if file.is_file()}
    named = sorted([os.path.relpath(file, root), digest.of_file(file)] for file in files if file.is_file())
    versions = digest.versions(*LIBRARIES, "accelerate")
    tasks = [harness.inputs_of(g.task, f"{spec.file}: general {g.name}") for g in spec.general if g.task]
    hub = [source for source in spec.sources if source.startswith("hub:")]
    return digest.of([named, tasks, hub, versions, digest.of_package()])


def digest_of(cell: Cell, inputs: str) -> str:
    """Return the digest of a cell, by that of its suite's inputs."""
    return digest.of([cell.suite, cell.path, cell.options, cell.part, cell.seeds, cell.whole, inputs])


def _local(spec: SuiteSpec) -> Iterator[Path]:
    for source in map(Path, spec.sources):
        yield from source.rglob("*") if source.is_dir() else (source,)


def planned(session: FinetuneSession) -> list[Cell]:
    """Return the cells of a run: one a suite, method and seed."""
    found = []
    options = session.options
    for pipeline in session.pipelines.values():
        spec, root = pipeline.spec, session.config.rootpath
        place, inputs = Path(os.path.relpath(spec.folder, root)).as_posix(), inputs_of(spec, root)
        for method in options.methods or ("",):
            said = {"method": method, "seed": str(options.seed or ""), "engine": options.engine}
            split = options.seeds > 1 and _splits(pipeline, method)
            for part in range(options.seeds if split else 1):
                bare = Cell(spec.name, place, said, part, options.seeds, whole=not split)
                found.append(replace(bare, digest=digest_of(bare, inputs)))
    return [replace(cell, of=len(found)) for cell in found]


def _splits(pipeline: Pipeline, method: str) -> bool:
    """Whether seeds can be apart: the ranks of a ladder are found by the first, and a prompt has none."""
    return not pipeline.spec.ladder and (method or pipeline.spec.training.method) in {*METHODS, "auto"}


def write(folder: Path, session: FinetuneSession) -> None:
    """Write the cells of a run, a file each.

    Raises:
        SuiteError: two have one name; a name that no file can have; they cannot be written.
    """
    cells = planned(session)
    check_names(cells)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for cell in cells:
            (folder / f"{cell.title}.json").write_text(json.dumps(to_plain(cell), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise SuiteError(f"--finetune-cells={folder}: cannot be written: {error.strerror}") from None


def check_names(cells: Sequence[Cell]) -> None:
    """Refuse suites whose files or folders would have one name, or none.

    Raises:
        SuiteError: naming the suite.
    """
    seen: dict[str, str] = {}
    for cell in cells:
        if not re.fullmatch(NAME, cell.suite) or seen.setdefault(cell.title, cell.path) != cell.path:
            problem = "must be of letters, digits, _, . and -" if cell.title not in seen else "is another suite's, too"
            raise SuiteError(
                f"{Path(cell.path, suite.FILE)}: name = {cell.suite!r} {problem}: cells are kept in files so called"
            )


def read(file: Path) -> Cell:
    """Read a cell.

    Raises:
        SuiteError: the file is missing, or no cell.
    """
    try:
        cell = from_json(Cell, file.read_bytes())
        if not (cell.is_named and re.fullmatch(r"[0-9a-f]{64}", cell.digest)):
            raise ValueError
        if cell.options.keys() - {"method", "seed", "engine"} or cell.options.get("method", "") not in ("", *CHOICES):
            raise ValueError
    except OSError as error:
        raise SuiteError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError:
        raise SuiteError(f"{file}: no cell; write cells with pytest --finetune-plan --finetune-cells=DIR") from None
    return cell


def in_folder(folder: Path) -> list[Cell]:
    """Return the cells in a folder, in the order of their files.

    Raises:
        SuiteError: there are none, or one cannot be read.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise SuiteError(f"{folder}: no cells there; write them with pytest --finetune-plan --finetune-cells={folder}")
    cells = [read(file) for file in files]
    if {cell.of for cell in cells} != {len(cells)}:
        raise SuiteError(
            f"{folder}: {len(cells)} cells, and they were planned as {cells[0].of}; plan into a new folder"
        )
    return cells


def check_current(cells: Sequence[Cell], root: Path) -> None:
    """Refuse cells of other rows, settings or code than stand here: their results would be of neither.

    Raises:
        SuiteError: one is, or its suite is not there.
    """
    inputs: dict[str, str] = {}  # by path: a suite's files are read once for all its cells
    for cell in cells:
        file = root / cell.path / suite.FILE
        if not file.is_file():
            raise SuiteError(f"cell {cell.title}: no {suite.FILE} in {root / cell.path}; run it in pytest's rootdir")
        if cell.path not in inputs:
            inputs[cell.path] = inputs_of(suite.load(file, root), root)
        if digest_of(cell, inputs[cell.path]) != cell.digest:
            raise SuiteError(
                f"cell {cell.title}: was planned for other rows, settings, code or versions than stand here; plan "
                "anew, or take the same commit and the same libraries"
            )
