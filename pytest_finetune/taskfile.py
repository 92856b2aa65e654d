"""A task of lm-evaluation-harness that is the project's own: its YAML file, and the other files it is made of."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_finetune.errors import SuiteError

SUFFIXES = (".yaml", ".yml")
PATTERN = "*?["  # what makes a file's name a pattern


def find(path: Path) -> Path:
    """Return the YAML file of one task: the file itself, or the only one in a folder.

    Raises:
        SuiteError: it holds no task or several, or a file that is no YAML.
    """
    if path.is_file():
        told = read(path)
        if "group" in told or isinstance(told.get("task"), list):
            raise SuiteError(f"{path}: {named(members(told))}")
        if "task" not in told:
            raise SuiteError(f"{path}: no key 'task', so it is no task of lm-eval; name the file of one")
        return path
    tasks = [file for file in sorted(path.rglob("*")) if file.suffix in SUFFIXES and _is_task(read(file))]
    if len(tasks) != 1:
        found = ", ".join(file.relative_to(path).as_posix() for file in tasks) or "none"
        raise SuiteError(f"{path}: a folder must hold the YAML file of one task; it holds {found}; name one")
    return tasks[0]


def members(group: dict[str, Any]) -> list[str]:
    """Return the names of the tasks in a group."""
    found = group.get("task") or []
    listed = found if isinstance(found, list) else [found]
    return [str(one.get("task", one.get("group", one))) if isinstance(one, dict) else str(one) for one in listed]


def named(tasks: Iterable[str]) -> str:
    """Return what to write in the place of several tasks."""
    return f"a group of tasks; give each a [[general]] of its own: {', '.join(tasks)}"


def read(file: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return what a YAML file says, with what it includes below it; runs no code that it names.

    Raises:
        SuiteError: naming the file.
    """
    said = _plain(file)
    merged: dict[str, Any] = {}
    for name in _names(said.pop("include", ())):
        other = (file.parent / name).resolve()
        if other in seen:
            raise SuiteError(f"{file}: include {name!r} leads back to itself")
        merged |= read(other, (*seen, other))
    return merged | said


def files(file: Path) -> Iterator[Path]:
    """Yield all that a task is made of: its YAML, those it includes, the code that they name, data on this disk."""
    yield file
    said = _plain(file)
    for module in sorted({function.rpartition(".")[0] for function in _functions(said)}):
        code = file.parent / f"{module.replace('.', '/')}.py"  # else it is a library's, or whoever loads it says so
        yield from [code] if code.is_file() else []
    for name in _names(said.get("include", ())):
        yield from files((file.parent / name).resolve())
    for place in _places(localised(read(file), file.parent)):
        for path in _matches(place):
            yield from sorted(inner for inner in (path, *path.rglob("*")) if inner.is_file())


def localised(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a task's config in which data that lies beside its YAML file is named by the whole path.

    lm-eval looks for it in the working folder only, so that a suite could be run from one place alone.
    """
    options = {**(config.get("dataset_kwargs") or {})}
    changed = {**config}
    for name in ("data_files", "data_dir"):
        if name in options:
            options[name] = _found(options[name], folder)
    if options:
        changed["dataset_kwargs"] = options
    if "data_files" not in options and isinstance(config.get("dataset_path"), str):
        changed["dataset_path"] = _found(config["dataset_path"], folder)
    return changed


def _found(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _found(one, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [_found(one, folder) for one in value]
    if not isinstance(value, str) or not value or Path(value).is_absolute() or "://" in value:
        return value
    return str(folder / value) if any(_matches(str(folder / value))) else value


def _matches(place: str) -> Iterator[Path]:
    """Yield the files and folders that a path names, which may be a pattern."""
    fixed = Path(place)
    while any(mark in str(fixed) for mark in PATTERN):
        fixed = fixed.parent
    if fixed == Path(place):
        yield from [fixed] if fixed.exists() else []
    else:
        with suppress(ValueError):  # such as **x, which whoever loads the data refuses
            yield from sorted(fixed.glob(Path(place).relative_to(fixed).as_posix()))


def _places(config: dict[str, Any]) -> Iterator[str]:
    """Yield where a task's data may lie."""
    options = config.get("dataset_kwargs") or {}
    stack = [options.get("data_files"), options.get("data_dir"), config.get("dataset_path")]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            stack.extend(value.values() if isinstance(value, dict) else value)


def _functions(value: Any) -> Iterator[str]:
    """Yield the functions that a task names."""
    if isinstance(value, _Function):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _functions(inner)


class _Function(str):
    """The name of a function in a YAML file."""

    __slots__ = ()


def _is_task(told: dict[str, Any]) -> bool:
    return isinstance(told.get("task"), str) and "group" not in told


def _names(value: object) -> list[str]:
    return [value] if isinstance(value, str) else list(map(str, value)) if isinstance(value, (list, tuple)) else []


def _plain(file: Path) -> dict[str, Any]:
    """Return what one YAML file says; a function stands for its name."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # it ships no types
        """Of its own, so that the library's stays as it is."""

    Loader.add_multi_constructor("!", lambda loader, tag, node: _Function(loader.construct_scalar(node)))
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise SuiteError(f"{file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SuiteError(f"{file}: no valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, dict):
        raise SuiteError(f"{file}: no task of lm-eval: its YAML is {type(found).__name__}, not a table")
    if not isinstance(options := found.get("dataset_kwargs"), (dict, type(None))):
        raise SuiteError(f"{file}: dataset_kwargs is {type(options).__name__}, not a table")
    return found
