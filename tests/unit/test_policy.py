"""The policy: every change by which less must be proven is found, in real repositories."""

import os
import shutil
import subprocess
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from colours import SUITE, TEST, rows
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune import policy
from pytest_finetune.errors import SuiteError
from pytest_finetune.records import PolicyChange

BASE = (
    SUITE.replace("task =", 'requires = ["hub"]\ntask =').replace("shots = [0]", "shots = [0, 2]")
    + """
[answer]
labels = ["box red", "box green", "box blue"]
schema = "answer.schema.json"
[gate]
metric = "python:house.py:score"
margin = 0.1
max_drop = 0.02
target = 0.9
slices = { french = 0.1 }
[checks]
sizing = { on_issue = "warn", least = 20 }
[[general]]
data = "../general"
metric = "python:../shared/score.py:score"
[[general]]
name = "mmlu"
outputs = { base = "out/base_*.jsonl", adapter = "out/adapter.jsonl" }
[[general]]
lm_eval = "tasks/arc.yaml"
limit = 200
"""
)
Edit = Callable[[Path], object]


def git(root: Path, *arguments: str) -> None:
    """Run git as nobody in particular."""
    who = [f"GIT_{role}_{what}=x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, **dict(pair.split("=") for pair in who)}
    subprocess.run(["git", *arguments], cwd=root, env=environment, check=True, capture_output=True)


def commit(root: Path) -> None:
    """Commit all that stands in a folder, which becomes a repository."""
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "x")


def fill(root: Path) -> Path:
    """Write a suite that has some of everything, and commit it."""
    folder = root / "suites" / "colours"
    files = {
        "pytest.ini": "[pytest]\n",
        "pyproject.toml": '[project]\nname = "x"\n[tool.pytest]\nminversion = "9"\n',
        "suites/conftest.py": "",
        "suites/shared/score.py": "def score(prediction, reference):\n    return 0.0\n",
        "suites/general/a.jsonl": rows(2000, 20),
        "suites/general/b.jsonl": rows(3000, 20),
        "suites/colours/suite.toml": BASE,
        "suites/colours/train.jsonl": rows(0, 60),
        "suites/colours/heldout.jsonl": rows(1000, 60),
        "suites/colours/answer.schema.json": "{}",
        "suites/colours/house.py": "def score(prediction, reference):\n    return float(prediction == reference)\n",
        "suites/colours/test_colours.py": TEST,
        "suites/colours/out/base_1.jsonl": "{}\n",
        "suites/colours/tasks/arc.yaml": "task: arc\n",
        "suites/colours/tasks/arc.jsonl": "{}\n",
        "suites/colours/out/adapter.jsonl": "{}\n",
        "suites/other/suite.toml": BASE,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    commit(root)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit, to be copied."""
    root = tmp_path_factory.mktemp("base")
    fill(root)
    return root


@pytest.fixture
def colours(base: Path, tmp_path: Path) -> Path:
    """The suite's folder in a checkout of its own."""
    shutil.copytree(base, tmp_path / "checkout", symlinks=True)
    return tmp_path / "checkout" / "suites" / "colours"


def changes(folder: Path) -> list[PolicyChange]:
    """Return what differs from main."""
    return list(policy.changes(folder.parent.parent, sorted(folder.rglob("suite.toml")), "main"))


def toml(old: str, new: str) -> Edit:
    """Return what replaces text in suite.toml."""
    assert old in BASE

    return lambda folder: (folder / "suite.toml").write_text(BASE.replace(old, new))


def tracked(name: str) -> Edit:
    """Return what adds a file that git tracks."""

    def edit(folder: Path) -> None:
        (folder / name).write_bytes(b"x")
        subprocess.run(["git", "add", "-f", name], cwd=folder, check=True)

    return edit


def append(name: str, text: str = "# more\n") -> Edit:
    """Return what adds text to a file, made if need be."""

    def edit(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(text)

    return edit


def remove(name: str) -> Edit:
    """Return what deletes a file."""
    return lambda folder: (folder / name).unlink()


def rename_heldout(folder: Path) -> None:
    """Judge by other rows under another name."""
    (folder / "easy.jsonl").write_text(rows(9000, 60))
    toml('heldout = "heldout.jsonl"', 'heldout = "easy.jsonl"')(folder)


def link_heldout(folder: Path) -> None:
    """Put a link to other rows where the held-out rows were."""
    (folder / "easy.jsonl").write_text(rows(9000, 60))
    (folder / "heldout.jsonl").unlink()
    (folder / "heldout.jsonl").symlink_to("easy.jsonl")


def nest(folder: Path) -> None:
    """Take tests in a folder below into a suite of their own, which asks for less."""
    (folder / "easy").mkdir()
    (folder / "easy" / "suite.toml").write_text(SUITE)


LOWERING: dict[str, tuple[Edit, str]] = {
    "margin": (toml("margin = 0.1", "margin = 0.05"), "[gate] margin: 0.1 -> 0.05"),
    "margin by default": (toml("margin = 0.1", ""), "[gate] margin: 0.1 -> 0.05"),
    "max_drop": (toml("max_drop = 0.02", "max_drop = 0.2"), "[gate] max_drop: 0.02 -> 0.2"),
    "guard": (toml("margin", "guard = 0.5\nmargin"), "[gate] guard: 0.05 -> 0.5"),
    "alpha": (toml("margin", "alpha = 0.2\nmargin"), "[gate] alpha: 0.05 -> 0.2"),
    "target": (toml("target = 0.9", "target = 0.99"), "[gate] target: 0.9 -> 0.99"),
    "no target": (toml("target = 0.9", ""), "[gate] target: 0.9 -> none"),
    "metric": (toml("python:house.py:score", "contains"), "[gate] metric: python:house.py:score -> contains"),
    "inconclusive": (toml("target", 'on_inconclusive = "warn"\ntarget'), "[gate] on_inconclusive: fail -> warn"),
    "slice raised": (toml("french = 0.1", "french = 0.5"), "[gate.slices] french: 0.1 -> 0.5"),
    "slice removed": (toml("french = 0.1", ""), "[gate.slices] french: 0.1 -> none"),
    "check off": (
        toml("[checks]", '[checks]\nleakage = { on_issue = "off" }'),
        "[checks.leakage] on_issue: fail -> off",
    ),
    "check weaker": (toml("least = 20", "least = 2"), "[checks.sizing] least: 20 -> 2"),
    "threshold": (
        toml("[checks]", "[checks]\nnear_leakage = { threshold = 0.99 }"),
        "[checks.near_leakage] threshold: 0.8 -> 0.99",
    ),
    "labels": (toml(', "box blue"', ""), '[answer] labels: ["box blue"] -> none'),
    "candidate": (
        toml('candidates = ["Name the box."]', 'candidates = ["?"]'),
        '[prompts] candidates: ["Name the box."] -> ["?"]',
    ),
    "shots": (toml("shots = [0, 2]", "shots = [0]"), "[prompts] shots: [2] -> none"),
    "selection": (toml("shots =", 'selection = ["fixed"], shots ='), '[prompts] selection: ["balanced", "retrieved"]*'),
    "chat template": (toml("shots =", 'chat_template = "off", shots ='), "[prompts] chat_template: both -> off"),
    "tokens": (toml("max_new_tokens = 6", "max_new_tokens = 1"), "[generation] max_new_tokens: 6 -> 1"),
    "requires": (toml('["hub"]', '["hub", "gpu"]'), 'requires: none -> ["gpu"]'),
    "fields": (
        toml('"heldout.jsonl"', '"heldout.jsonl", fields = { prompt = "p" }'),
        "[data.fields] prompt: prompt -> p",
    ),
    "general removed": (
        toml('[[general]]\ndata = "../general"\nmetric = "python:../shared/score.py:score"\n', ""),
        "[general] general: judged -> none",
    ),
    "general metric": (toml("python:../shared/score.py:score", "contains"), "[general.general] metric: python:*"),
    "outputs' metric": (
        toml('"out/adapter.jsonl"', '"out/adapter.jsonl", metric = "acc"'),
        "[general.mmlu.outputs] metric*",
    ),
    "a task's limit": (toml("limit = 200", "limit = 2"), "[general.arc] limit: 200 -> 2"),
    "a task's metric": (toml("limit = 200", 'limit = 200\nmetric = "acc"'), "[general.arc] metric: none -> acc"),
    "a task's data": (append("tasks/arc.jsonl"), "general arc: suites/colours/tasks/arc.jsonl edited: *"),
    "another task": (toml("tasks/arc.yaml", "arc"), "[general.arc] lm_eval: tasks/arc.yaml -> arc"),
    "held-out edited": (append("heldout.jsonl", rows(5000, 1)), "held-out: suites/colours/heldout.jsonl edited: *"),
    "held-out renamed": (rename_heldout, "held-out: suites/colours/easy.jsonl added: *"),
    "held-out linked": (link_heldout, "held-out: suites/colours/heldout.jsonl removed: *"),
    "hub id": (toml('"heldout.jsonl"', f'"hub:x/y@{"0" * 40}:test"'), "held-out: hub:x/y@0*:test added: *"),
    "general edited": (append("../general/a.jsonl"), "general general: suites/general/a.jsonl edited: *"),
    "general's file removed": (remove("../general/b.jsonl"), "general general: suites/general/b.jsonl removed: *"),
    "outputs edited": (append("out/base_1.jsonl"), "general mmlu: suites/colours/out/base_1.jsonl edited: *"),
    "schema edited": (append("answer.schema.json", " "), "answer schema: suites/colours/answer.schema.json edited: *"),
    "metric's code": (append("house.py"), "code of metrics: suites/colours/house.py edited: *"),
    "code of a general metric": (append("../shared/score.py"), "code of metrics: suites/shared/score.py edited: *"),
    "test edited": (append("test_colours.py"), "code: suites/colours/test_colours.py edited: *"),
    "test removed": (remove("test_colours.py"), "code: suites/colours/test_colours.py removed: * -> none"),
    "code added": (append("conftest.py"), "code: suites/colours/conftest.py added: none -> *"),
    "conftest above": (append("../conftest.py"), "pytest: suites/conftest.py edited: *"),
    "conftest at the top": (append("../../conftest.py"), "pytest: conftest.py added: *"),
    "pytest's settings": (append("../../pytest.ini", "addopts = -x\n"), "pytest: pytest.ini edited: *"),
    "settings nearer": (append("../tox.ini", "[pytest]\n"), "pytest: suites/tox.ini added: *"),
    "pyproject": (append("../../pyproject.toml", 'addopts = ["-x"]\n'), "pytest: pyproject.toml edited: *"),
    "package above": (append("../__init__.py"), "pytest: suites/__init__.py added: *"),
    "plugin": (append("../../pyproject.toml", '[project.entry-points.pytest11]\nx = "x"\n'), "pytest: pyproject.toml*"),
    "compiled code": (tracked("cpython.pyc"), "code: suites/colours/cpython.pyc added: *"),
    "suite inside another": (nest, "suite added inside another: none -> suites/colours/easy"),
    "another suite removed": (remove("../other/suite.toml"), "suite removed: suites/other -> none"),
}
HARMLESS: dict[str, tuple[Edit, str]] = {
    "margin": (toml("margin = 0.1", "margin = 0.2"), "[gate] margin: 0.1 -> 0.2"),
    "max_drop": (toml("max_drop = 0.02", "max_drop = 0.01"), "[gate] max_drop: 0.02 -> 0.01"),
    "slice added": (toml("french = 0.1", "french = 0.1, german = 0.2"), "[gate.slices] german: none -> 0.2"),
    "slice lowered": (toml("french = 0.1", "french = 0.05"), "[gate.slices] french: 0.1 -> 0.05"),
    "check stricter": (toml('on_issue = "warn"', 'on_issue = "fail"'), "[checks.sizing] on_issue: warn -> fail"),
    "candidate added": (toml('["Name the box."]', '["Name the box.", "?"]'), '[prompts] candidates: none -> ["?"]'),
    "requires less": (toml('requires = ["hub"]', ""), 'requires: ["hub"] -> none'),
    "model": (toml('model = "embedded"', 'model = "./other"'), "model: embedded -> ./other"),
    "general added": (
        toml("[[general]]\ndata", '[[general]]\ndata = "x.jsonl"\n[[general]]\ndata'),
        "[general] x: none -> judged",
    ),
}
NO_POLICY: dict[str, Edit] = {
    "nothing": lambda folder: None,
    "Python's own cache": append("house.cpython-311.pyc"),
    "touched": lambda folder: os.utime(folder / "heldout.jsonl"),
    "train rows": append("train.jsonl", rows(7000, 5)),
    "training": toml("epochs = 4", "epochs = 5"),
    "order": toml('"box red", "box green"', '"box green", "box red"'),
    "path written otherwise": toml('heldout = "heldout.jsonl"', 'heldout = "./heldout.jsonl"'),
    "default written out": toml("margin", "alpha = 0.05\nmargin"),
    "another table of pyproject": lambda folder: (folder / "../../pyproject.toml").write_text(
        '[project]\nname = "y"\n[tool.pytest]\nminversion = "9"\n'
    ),
    "setup.cfg without pytest": append("../../setup.cfg", "[metadata]\nname = x\n"),
}


def told(change: PolicyChange) -> str:
    """Return a change in one line."""
    return f"{change.what}: {change.before} -> {change.after}"


@pytest.mark.parametrize("name", LOWERING)
def test_what_lowers_the_bar_is_found(name: str, colours: Path) -> None:
    """Each way to have less proven, or by other rows or code, is told with before and after, and lowers."""
    edit, line = LOWERING[name]
    edit(colours)
    found = [told(change) for change in changes(colours) if change.lowers]
    assert any(fnmatchcase(text, line.replace("[", "[[]")) for text in found), found


@pytest.mark.parametrize("name", HARMLESS)
def test_what_raises_the_bar_is_told_and_harmless(name: str, colours: Path) -> None:
    """What asks for more, or bears on no bar, is the only change that is told, and does not lower."""
    edit, line = HARMLESS[name]
    edit(colours)
    assert [(told(change), change.lowers) for change in changes(colours)] == [(line, False)]


@pytest.mark.parametrize("name", NO_POLICY)
def test_what_is_no_policy_is_not_told(name: str, colours: Path) -> None:
    """The daily work of a pull request (rows to train on, training) is no change of the policy."""
    NO_POLICY[name](colours)
    assert changes(colours) == []


def test_suite_removed_and_added(colours: Path) -> None:
    """A suite that moved is one that is gone, which lowers, and one that is new, which does not."""
    moved = colours.rename(colours.parent / "paint")
    lowers = {(change.suite, change.what): change.lowers for change in changes(moved)}
    assert lowers == {("paint", "suite added"): False, ("colours", "suite removed"): True}


def test_first_suite_of_all_lowers_nothing(colours: Path) -> None:
    """What pytest goes by may come with the first suite, as init writes it: there was no bar before."""
    top = colours.parents[1]
    (top / "pytest.toml").write_text("[pytest]\n")
    git(top, "checkout", "-q", "--orphan", "empty")
    git(top, "rm", "-rq", "--cached", ".")
    git(top, "commit", "-qm", "x", "--allow-empty")
    git(top, "add", "-A")
    found = policy.changes(top, [colours / "suite.toml"], "empty")
    assert [(change.what, change.lowers) for change in found] == [("suite added", False)]


def test_suite_that_was_not_valid_counts(colours: Path) -> None:
    """A suite that was not valid on the base branch has no bar to hold to, which somebody has to accept."""
    (colours / "suite.toml").write_text("model = 3\n")
    git(colours, "commit", "-qam", "broken")
    (colours / "suite.toml").write_text(BASE)
    (change,) = changes(colours)
    assert change.lowers
    assert change.what == "suite.toml was not valid"


def test_rows_behind_filters_are_compared_as_git_stores_them(colours: Path) -> None:
    """Where a filter (line ends, Git LFS) changes files between repository and checkout, only content counts."""
    (colours / ".gitattributes").write_text("*.jsonl filter=upper\n")
    git(colours, "config", "filter.upper.clean", "tr a-z A-Z")
    git(colours, "config", "filter.upper.smudge", "tr A-Z a-z")
    git(colours, "add", "--renormalize", ".")
    git(colours, "commit", "-qam", "filtered")
    os.utime(colours / "heldout.jsonl", (1, 1))
    assert changes(colours) == []
    append("heldout.jsonl", "{}\n")(colours)
    assert [change.what for change in changes(colours)] == ["held-out: suites/colours/heldout.jsonl edited"]


def test_rows_in_a_submodule_are_compared_by_its_commit(colours: Path, tmp_path: Path) -> None:
    """Rows in a submodule are those of the commit that the repository names: another one is a change."""
    rows_of = tmp_path / "rows"
    rows_of.mkdir()
    (colours / "heldout.jsonl").rename(rows_of / "heldout.jsonl")
    commit(rows_of)
    git(colours, "-c", "protocol.file.allow=always", "submodule", "add", str(rows_of), "rows")
    toml('"heldout.jsonl"', '"rows/heldout.jsonl"')(colours)
    commit(colours.parent.parent)
    assert changes(colours) == []
    append("rows/heldout.jsonl", "{}\n")(colours)
    git(colours / "rows", "commit", "-qam", "x")
    (change,) = changes(colours)
    assert (change.what, change.after) == ("held-out: suites/colours/rows edited", "changed")


def test_linked_rows_are_followed(colours: Path) -> None:
    """Rows behind a link in the repository are compared themselves: an edit of the target is found."""
    (colours / "rows").mkdir()
    (colours / "heldout.jsonl").rename(colours / "rows" / "real.jsonl")
    (colours / "linked").symlink_to("rows")
    (colours / "heldout.jsonl").symlink_to("linked/real.jsonl")
    commit(colours.parent.parent)
    assert changes(colours) == []
    append("rows/real.jsonl", "{}\n")(colours)
    assert [change.what for change in changes(colours)] == ["held-out: suites/colours/rows/real.jsonl edited"]


def test_linked_code_is_followed(colours: Path) -> None:
    """Code behind links in a suite's folder, to a file, to a folder or in a circle, is compared itself."""
    (colours / "score.py").symlink_to("../shared/score.py")
    (colours / "lib").symlink_to("../../lib")
    (colours / "circle").symlink_to("..")
    (colours / "../../lib").mkdir()
    (colours / "../../lib/own.py").touch()
    commit(colours.parent.parent)
    assert changes(colours) == []
    append("../shared/score.py")(colours)
    append("../../lib/own.py")(colours)
    edited = {change.what for change in changes(colours)}
    assert {"code: suites/shared/score.py edited", "code: lib/own.py edited"} <= edited


def test_nothing_of_the_environment_or_the_repository_runs(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIT_DIR of a hook misleads nobody, and programs that settings of git name do not run."""
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "touch ran")
    git_config = colours.parent.parent / ".git" / "config"
    git_config.write_text(
        git_config.read_text() + '[core]\nfsmonitor = "touch ran; false"\n[diff "x"]\ntextconv = touch ran\n'
    )
    (colours / ".gitattributes").write_text("* diff=x\n")
    append("heldout.jsonl", "{}\n")(colours)
    assert len(changes(colours)) == 1
    assert not list(colours.parent.parent.rglob("ran"))


@pytest.mark.parametrize(
    ("ref", "line"),
    [
        ("origin/gone", "--finetune-policy-ref=origin/gone: no such commit here; fetch it (git fetch origin BRANCH"),
        ("--output=x", "--finetune-policy-ref=--output=x: name a branch, a tag or a commit"),
        ("", "--finetune-policy-ref=: name a branch, a tag or a commit"),
    ],
)
def test_unknown_commit_is_one_line(ref: str, line: str, colours: Path) -> None:
    """A commit that is not here is named with the remedy; what looks like an option never reaches git."""
    with pytest.raises(SuiteError) as error:
        policy.changes(colours, [], ref)
    assert str(error.value).startswith(line)


def test_no_repository_and_no_git_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a repository, and without git, the message says so."""
    with pytest.raises(SuiteError, match=r"--finetune-policy-ref=main: .*not a git repository"):
        policy.changes(tmp_path, [], "main")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SuiteError, match=r"--finetune-policy-ref=main: git cannot be run .*install it"):
        policy.changes(tmp_path, [], "main")


NUMBERS = st.floats(0.001, 0.4)


@given(before=NUMBERS, after=NUMBERS, key=st.sampled_from(["margin", "max_drop", "guard", "alpha"]))
def test_direction_of_a_bar(before: float, after: float, key: str) -> None:
    """For any two values of a bar, exactly one direction lowers it, and no change is none."""
    sides = [
        policy._said({"model": "m", "data": {"train": "a", "heldout": "b"}, "gate": {key: v}}) for v in (before, after)
    ]
    found = list(policy._settings("s", *sides))
    lowered = before > after if key == "margin" else before < after
    assert [change.lowers for change in found] == ([lowered] if before != after else [])
