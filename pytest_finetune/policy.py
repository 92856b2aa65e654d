"""The policy: what must be proven, and by which rows and code; how a working tree differs from a commit in it."""

import configparser
import json
import posixpath
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_finetune import suite
from pytest_finetune.errors import SuiteError
from pytest_finetune.git import Repository, Tree
from pytest_finetune.records import PolicyChange

ALL = "all suites"  # what changes are of that no suite has alone
BESIDE_TESTS = ("conftest.py", "__init__.py")  # which pytest runs, also above the tests
COMPILED = (".pyc", ".so", ".pyd")  # what Python imports in place of a source that is unchanged
PYTEST_FILES = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
ON_ISSUE = ("off", "warn", "drop", "fail")  # the weakest first
SHOWN = 120  # characters of a value
NOT_IN_GIT = "not in git"

Key = tuple[str, ...]  # tables and key: ("gate", "margin")
# What becomes weaker when it falls, and when it rises; all else of a policy has no direction that can be told.
FALLS = {("gate", "margin"), ("checks", "balance", "rarest"), ("checks", "sizing", "least")}
RISES = {("gate", name) for name in ("max_drop", "guard", "alpha")} | {
    ("checks", "near_leakage", "threshold"),
    ("checks", "near_duplicates", "threshold"),
    ("checks", "balance", "commonest"),
    ("checks", "sizing", "most"),
    ("checks", "knowledge", "share"),
}
ONLY_TOLD = {
    ("name",),
    ("model",),
    ("revision",),
    ("task",),
    ("data", "dev"),
    ("data", "dev_share"),
    ("prompts", "serve"),
    ("generation", "batch_size"),
}
# What the baseline tries: whatever is no longer tried makes it weaker, and so easier to beat.
TRIED = {("prompts", name) for name in ("candidates", "shots", "selection")}


def changes(root: Path, suites: Sequence[Path], ref: str) -> tuple[PolicyChange, ...]:
    """Return how the policy of the working tree differs from that of a commit.

    Args:
        root: the project's folder; suites below it that are gone are found, too.
        suites: the `suite.toml` files to compare.
        ref: the commit, such as ``origin/main``.

    Raises:
        SuiteError: there is no git, no repository, no such commit; a suite is not valid.
    """
    repository = Repository(root, ref, f"--finetune-policy-ref={ref}")
    found: list[PolicyChange] = []
    for file in suites:
        found += _of_suite(repository, file)
        folder = _relative(repository, file.parent)
        if repository.then.find(posixpath.join(folder, suite.FILE)):  # a new one had no bar that its surroundings lower
            found += _around(repository, folder)
    found += _gone(repository, _relative(repository, root))
    return tuple(dict.fromkeys(found))


def check(root: Path, ref: str) -> None:
    """Raise SuiteError where there is no such commit to compare with."""
    Repository(root, ref, f"--finetune-policy-ref={ref}")


def line(change: PolicyChange) -> str:
    """Return a change in one line; what stands in it is of whoever changed it, and must be escaped."""
    return f"{change.suite}: {change.what}: {change.before or 'nothing'} -> {change.after or 'nothing'}"


def _relative(repository: Repository, folder: Path) -> str:
    try:
        return folder.resolve().relative_to(repository.top).as_posix()
    except ValueError:
        raise SuiteError(f"{repository.option}: {folder} is not in the repository {repository.top}") from None


def _of_suite(repository: Repository, file: Path) -> Iterator[PolicyChange]:
    folder, now = _relative(repository, file.parent), suite.read(file)
    name = now.get("name", file.parent.name)
    then = repository.then.find(posixpath.join(folder, suite.FILE))
    if not then:
        # Tests belong to the nearest suite: one inside another takes tests away from it.
        above = [str(place) for place in PurePosixPath(folder).parents]
        taken = any(repository.then.find(posixpath.join(place, suite.FILE)) for place in above)
        yield PolicyChange(name, "suite added" + taken * " inside another", "none", folder, lowers=taken)
        return
    try:
        before = suite.parse(file, repository.read(then[0]))
    except SuiteError as error:
        yield PolicyChange(name, f"{suite.FILE} was not valid", _short(str(error)), "valid", lowers=True)
        return
    yield from _settings(name, _said(before), _said(now))
    sources = (_sources(before), _sources(now))
    for label in (label for label in sources[0] if label in sources[1]):  # else its key came or went, which is told
        yield from _files(repository, name, label, *(_finder(folder, side[label]) for side in sources))
    yield from _code(repository, name, folder)


def _settings(name: str, before: Mapping[Key, Any], after: Mapping[Key, Any]) -> Iterator[PolicyChange]:
    """Compare two suites key by key."""
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if old == new or (key[2:] and key[0] == "general" and not (key[:2] in before and key[:2] in after)):
            continue
        what = f"[{'.'.join(key[:-1])}] {key[-1]}" if key[1:] else key[0]
        lowers = _lowers(key, old, new)
        if isinstance(old, list) and isinstance(new, list):
            gone, come = [v for v in old if v not in new], [v for v in new if v not in old]
            if not gone + come:  # in another order only
                continue
            old, new = gone or None, come or None
        yield PolicyChange(name, what, _short(old), _short(new), lowers)


def _lowers(key: Key, old: Any, new: Any) -> bool:
    """Whether a change of a value asks for less, or may: what has no direction that can be told counts."""
    if key in ONLY_TOLD:
        return False
    if key == ("requires",):  # what no machine offers is never judged
        return not set(new or ()) <= set(old or ())
    if key in TRIED:
        return not set(old or ()) <= set(new or ())
    if key[:2] == ("gate", "slices"):
        return old is not None and (new is None or new > old)
    if key[-1] == "on_issue":
        return ON_ISSUE.index(new) < ON_ISSUE.index(old)
    if old is not None and new is not None and key in FALLS | RISES:
        return bool(new < old if key in FALLS else new > old)
    safe: dict[Key, Any] = {
        ("gate", "on_inconclusive"): "fail",
        ("prompts", "chat_template"): "both",
        ("prompts", "answer_format"): True,
    }
    if key[0] == "general" and len(key) == 2:
        return new is None
    return not (key in safe and new == safe[key])


def _said(raw: dict[str, Any]) -> dict[Key, Any]:
    """Return by key what a suite says, defaults filled in; rows are files, and training is no policy."""
    said = _filled(suite.schema(), raw)
    prompts, answer = said["prompts"], said["answer"]
    prompts.setdefault("candidates", [prompts.get("serve", "")])
    prompts.setdefault("serve", prompts["candidates"][0])
    said["gate"].setdefault("metric", suite.default_metric(said["task"], tuple(answer.get("labels", ()))))
    general = {}
    for entry in raw.get("general", ()):
        about = _filled(suite.schema()["properties"]["general"]["items"], entry)
        outputs = {key: value for key, value in about["outputs"].items() if key not in ("base", "adapter")}
        task = {key: entry[key] for key in ("metric", "lm_eval", "limit", "num_fewshot") if key in entry}
        asked = task if "lm_eval" in entry else {"metric": about["metric"], "fields": about["fields"]}
        general[_general_name(entry)] = {**asked, "outputs": outputs}
    data = {key: value for key, value in said["data"].items() if key not in ("train", "heldout")}
    flat = _flat({**said, "training": {}, "general": general, "data": data})
    return {**flat, **{("general", name): "judged" for name in general}}


def _filled(schema: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    filled = dict(raw)
    for key, told in schema.get("properties", {}).items():
        about = suite.schema()["$defs"][told["$ref"].rpartition("/")[2]] if "$ref" in told else told
        if about.get("type") == "object":
            filled[key] = _filled(about, raw.get(key, {}))
        elif "default" in about:
            filled.setdefault(key, about["default"])
    return filled


def _flat(table: Mapping[str, Any], above: Key = ()) -> dict[Key, Any]:
    flat: dict[Key, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, (*above, key)) if isinstance(value, Mapping) else {(*above, key): value}
    return flat


def _general_name(entry: Mapping[str, Any]) -> str:
    if "lm_eval" in entry:
        return str(entry.get("name") or suite.task_name(entry["lm_eval"]))
    return str(entry.get("name") or PurePosixPath(_names(entry.get("data", "outputs"))[0]).stem)


def _names(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _sources(raw: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return by what they are for the files, folders, patterns and hub ids that a suite judges by."""
    sources = {"held-out": _names(raw["data"]["heldout"]), "code of metrics": _code_of(raw.get("gate", {}))}
    if isinstance(schema := raw.get("answer", {}).get("schema"), str):
        sources["answer schema"] = [schema]
    for entry in raw.get("general", ()):
        outputs = entry.get("outputs", {})
        sources[f"general {_general_name(entry)}"] = [
            *_names(entry.get("data", [])),
            *(outputs[side] for side in ("base", "adapter") if side in outputs),
            *_task_of(entry),
        ]
        sources["code of metrics"] += _code_of(entry)
    return sources


def _task_of(entry: Mapping[str, Any]) -> list[str]:
    """Return where a task of lm-eval lies that is the project's own: its folder, or the file where it has none."""
    name = entry.get("lm_eval", "")
    if not suite.is_path(name):
        return []
    folder = posixpath.dirname(name) if name.endswith((".yaml", ".yml")) else name
    return [folder if posixpath.normpath(folder) != "." else name]


def _code_of(entry: Mapping[str, Any]) -> list[str]:
    return list(filter(None, [suite.code_of(entry.get("metric", ""))]))


def _finder(folder: str, names: Iterable[str]) -> Callable[[Tree], set[str]]:
    """Return what finds the files of ``names`` in a tree; what git does not know stands for itself."""

    def find(tree: Tree) -> set[str]:
        found: set[str] = set()
        for name in names:
            hub = name.startswith("hub:")
            found.update((not hub and tree.find(posixpath.join(folder, name))) or [name])
        return found

    return find


def _files(
    repository: Repository,
    name: str,
    label: str,
    before: Callable[[Tree], set[str]],
    after: Callable[[Tree], set[str]],
) -> Iterator[PolicyChange]:
    """Compare the files that something is judged by; rows that came, went or changed may all make it easier."""
    old, new = before(repository.then), after(repository.now)
    then = dict.fromkeys(old, "") | repository.digests_then(old & repository.then.paths)
    now = dict.fromkeys(new, "") | repository.digests_now(new & repository.now.paths)
    for path in sorted(old | new):
        if then.get(path) != now.get(path):
            what = "added" if path not in old else "removed" if path not in new else "edited"
            sides = _digest(then.get(path)), _digest(now.get(path))
            yield PolicyChange(name, f"{label}: {path} {what}", *sides, lowers=True)


def _digest(name: str | None) -> str:
    return "none" if name is None else name[:12] or NOT_IN_GIT


def _code(repository: Repository, name: str, folder: str) -> Iterator[PolicyChange]:
    """Compare the code in a suite's folder: its tests, its metrics, their helpers."""

    def is_code(path: str) -> bool:
        # What git does not track came with no commit: Python writes its caches beside the sources.
        return path.endswith(".py") or (path.endswith(COMPILED) and path in repository.tracked)

    def find(tree: Tree) -> set[str]:
        return _with_targets(tree, filter(is_code, tree.reached(folder)))

    yield from _files(repository, name, "code", find, find)


def _around(repository: Repository, folder: str) -> Iterator[PolicyChange]:
    """Compare what else pytest runs or goes by, from the top of the repository down to a suite's folder."""
    below, *above = [folder, *map(str, PurePosixPath(folder).parents)] if folder != "." else ["."]
    names = [(below, PYTEST_FILES), *((place, (*BESIDE_TESTS, *PYTEST_FILES)) for place in above)]
    paths = {posixpath.normpath(f"{place}/{file}") for place, files in names for file in files}

    def find(tree: Tree) -> set[str]:
        return _with_targets(tree, paths & tree.paths)

    for change in _files(repository, ALL, "pytest", find, find):
        path = change.what.removeprefix("pytest: ").rpartition(" ")[0]
        if _pytest_part(repository, path, then=True) != _pytest_part(repository, path, then=False):
            yield change


def _with_targets(tree: Tree, paths: Iterable[str]) -> set[str]:
    """Return paths, and what those of them that are links lead to."""
    return {file for path in paths for file in (path, *tree.find(path))}


def _pytest_part(repository: Repository, path: str, then: bool) -> object:
    """Return what pytest reads of a file, None where there is none."""
    if path not in (repository.then if then else repository.now).paths:
        return None
    text = (repository.read(path) if then else (repository.top / path).read_bytes()).decode("utf-8", "replace")
    file = posixpath.basename(path)
    try:
        if file == "pyproject.toml":
            said = tomllib.loads(text)
            part = {key: value for key, value in said.get("tool", {}).items() if key.startswith("pytest")}
            plugins = said.get("project", {}).get("entry-points", {}).get("pytest11")
            return (part, plugins) if part or plugins else None
        if file in ("setup.cfg", "tox.ini"):
            ini = configparser.RawConfigParser()
            ini.read_string(text)
            return {name: dict(ini[name]) for name in ("pytest", "tool:pytest") if ini.has_section(name)} or None
    except (tomllib.TOMLDecodeError, configparser.Error):
        pass
    return text


def _gone(repository: Repository, root: str) -> Iterator[PolicyChange]:
    """Yield the suites below the project's folder that are no more."""
    for path in repository.then.below(root):
        if posixpath.basename(path) == suite.FILE and path not in repository.now.paths:
            folder = posixpath.dirname(path)
            name = posixpath.basename(folder) or repository.top.name
            yield PolicyChange(name, "suite removed", folder or ".", "none", lowers=True)


def _short(value: object) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
