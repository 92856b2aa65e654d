"""Mistakes of users and runs that must cost nothing: one clear line, no traceback, no torch."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from colours import KEEPS, SUITE, TEST

import pytest_finetune

Spoil = Callable[[Path], object]


def spoil_suite(old: str, new: str) -> Spoil:
    """Return what replaces text in suite.toml."""
    return lambda folder: (folder / "suite.toml").write_text(SUITE.replace(old, new))


def spoil_model(folder: Path) -> None:
    """Name a model folder that has a config and no weights."""
    (folder / "hollow").mkdir()
    (folder / "hollow" / "config.json").write_text("{}")
    spoil_suite('"embedded"', '"./hollow"')(folder)


SPOILED: dict[str, tuple[Spoil, str]] = {
    "held-out missing": (lambda f: (f / "heldout.jsonl").unlink(), "*suite.toml*heldout.jsonl*no such file*"),
    "no held-out key": (spoil_suite(', heldout = "heldout.jsonl"', ""), "*suite.toml*'heldout' is missing*"),
    "malformed TOML": (spoil_suite('"embedded"', "embedded"), "*suite.toml: not valid TOML*"),
    "wrong type": (spoil_suite("epochs = 4", 'epochs = "4"'), "*suite.toml: training.epochs*must be of type number*"),
    "unknown key": (spoil_suite("epochs = 4", "epoch = 4"), "*suite.toml*unknown key 'epoch'; did you mean 'epochs'?*"),
    "row without a field": (
        lambda f: (f / "train.jsonl").write_text('{"prompt": "x"}\n'),
        "*train.jsonl:1: the row has no field 'completion'*",
    ),
    "not JSON": (lambda f: (f / "train.jsonl").write_text("{\n"), "*train.jsonl:1: not JSON*"),
    "unknown metric": (
        lambda f: (f / "suite.toml").write_text(SUITE + 'gate = { metric = "exactmatch" }\n'),
        "*suite.toml: metric 'exactmatch' is not one of*did you mean 'exact_match'?*",
    ),
    "model without weights": (spoil_model, "*hollow has no weights*"),
    "hub id without revision": (spoil_suite('"embedded"', '"some/model"'), "*needs a revision*"),
    "misspelt model": (spoil_suite('"embedded"', '"embeded"'), "*needs a revision*; did you mean 'embedded'?*"),
    "leads out": (spoil_suite('"train.jsonl"', '"../../secret.jsonl"'), "*leads out of*"),
    "no gate": (
        lambda f: (f / "test_colours.py").write_text("def test_it(adapter):\n    assert adapter.path\n"),
        "*suite.toml: no test gates this suite*",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_mistake_is_one_line(name: str, pytester: pytest.Pytester, project: Path) -> None:
    """Each mistake gives exit code 4, one line that names file and place, and no traceback."""
    spoil, line = SPOILED[name]
    spoil(project)
    result = pytester.runpytest_subprocess("--finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: " + line])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--finetune-device=cuda:99", "*--finetune-device=cuda:99: this machine has*"),
        ("--finetune-method=lorra", "*--finetune-method: 'lorra' is not one of*did you mean 'lora'?*"),
        ("--finetune-adapter=gone", "*--finetune-adapter=gone: no such folder*"),
        ("--finetune-track=tensorbored", "*--finetune-track: 'tensorbored' is not one of*mean 'tensorboard'?*"),
        ("--finetune-track=mlflow", "*--finetune-track=mlflow: it is not installed; pip install mlflow"),
        ("--finetune-engine-timeout=soon", "*--finetune-engine-timeout=soon: write a number of seconds from 0"),
        ("--finetune-engine-memory-gib=0", "*--finetune-engine-memory-gib=0: write a number of GiB above 0"),
        ("--finetune-memory-gib=nan", "*--finetune-memory-gib=nan: write a number of GiB above 0"),
        ("--finetune-store=colours/suite.toml", "*--finetune-store=*: a file stands there; name a folder"),
        ("--finetune-store-from=colours/suite.toml", "*--finetune-store-from=*: a file stands there; name a folder"),
        ("--finetune-store-from=.finetune", "*--finetune-store-from=.finetune: is the run's own store; name another*"),
        ("--finetune-seed=x", "*--finetune-seed=x: write a whole number*"),
    ],
)
def test_bad_option_is_one_line(option: str, line: str, pytester: pytest.Pytester, project: Path) -> None:
    """A bad option is a usage error that names it."""
    result = pytester.runpytest_subprocess("--finetune", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: " + line])


@pytest.mark.fault(23)
def test_leakage_is_refused(pytester: pytest.Pytester, project: Path) -> None:
    """A held-out row copied into train is refused before any compute, with both places."""
    leaked = (project / "heldout.jsonl").read_text().splitlines()[0]
    with (project / "train.jsonl").open("a") as stream:
        stream.write(leaked + "\n")
    result = pytester.runpytest_subprocess("--finetune")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*data refused: leakage: 1 held-out*heldout.jsonl:1 = train.jsonl:151*"])
    assert not (pytester.path / ".finetune" / "adapter").exists()


def test_plain_pytest_loads_only_the_face(pytester: pytest.Pytester) -> None:
    """Where no test asks for our fixtures, plain pytest imports the plugin, its hooks, and nothing more of ours."""
    pytester.makepyfile("def test_nothing(tmp_path): pass")
    pytester.makeconftest(
        "import sys\ndef pytest_unconfigure():\n    print(*sorted(m for m in sys.modules if 'pytest_finetune' in m))\n"
    )
    plain = pytester.runpytest_subprocess("-s", "-p", "no:xdist")
    plain.assert_outcomes(passed=1)
    ours = "pytest_finetune pytest_finetune.hookspecs pytest_finetune.plugin"
    plain.stdout.re_match_lines([f"(__editable___pytest_finetune\\S+ )?{re.escape(ours)}$"])


def test_public_names_are_there() -> None:
    """What the package names as public can be had from it."""
    assert all(getattr(pytest_finetune, name) for name in pytest_finetune.__all__)


def test_skipped_without_the_option_and_without_torch(pytester: pytest.Pytester, project: Path) -> None:
    """Plain pytest skips with one reason, and neither it nor collection imports a heavy library."""
    (project / "test_colours.py").write_text(TEST + KEEPS)
    watch = (
        "import sys\ndef pytest_unconfigure():\n"
        "    heavy = {'torch', 'transformers', 'peft', 'datasets', 'evaluate', 'bitsandbytes'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy), 'LIGHT', 'numpy' not in sys.modules)\n"
    )
    (pytester.path / "conftest.py").write_text(watch)
    plain = pytester.runpytest_subprocess("-rs", "-s")
    plain.assert_outcomes(skipped=2)
    plain.stdout.fnmatch_lines(["*SKIPPED*needs --finetune*", "HEAVY [[][]] LIGHT True"])
    collected = pytester.runpytest_subprocess("--finetune", "--co", "-q", "-s")
    collected.stdout.fnmatch_lines(["*suite.toml::data", "*test_keeps_general_skills", "HEAVY [[][]] LIGHT *"])
    assert not (pytester.path / ".finetune").exists()


def test_plan_runs_nothing(pytester: pytest.Pytester, project: Path) -> None:
    """The plan says what a run would do and what 150 rows can prove, and makes no adapter."""
    result = pytester.runpytest_subprocess("--finetune-plan")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*data          135 train, 15 dev, 150 held-out: fit to use",
            "*method        lora, as the suite says",
            "*method        epochs = 4 is outside of the usual 1 to 3",
            "*memory        * GiB of * (cpu, 8 rows of up to * tokens at once)",
            "*baseline      about * answers on 15 dev rows, * tokens without examples",
            "*training      135 rows (0 replay), 68 steps, * tokens",
            "*judging       300 answers, before and after, * tokens",
            "*time          about * of arithmetic on cpu*",
            "*proof*150 held-out rows cannot show *10.0 points*(465 would*",
        ]
    )
    assert not (pytester.path / ".finetune").exists()


@pytest.mark.parametrize(("margin", "line"), [(0.97, "*gain of 100.0*(* would*"), (1.0, "*cannot*(no number would*")])
def test_plan_of_impossible_margins(pytester: pytest.Pytester, project: Path, margin: float, line: str) -> None:
    """No gain is larger than all rows, and the plan says what would show the largest one."""
    (project / "suite.toml").write_text(SUITE + f"gate = {{ margin = {margin} }}\n")
    result = pytester.runpytest_subprocess("--finetune-plan")
    assert result.ret == 0
    result.stdout.fnmatch_lines([line])


def test_plan_of_refused_data(pytester: pytest.Pytester, project: Path) -> None:
    """The plan of a suite whose data is refused is that, in red, with exit code 1."""
    (project / "heldout.jsonl").write_text((project / "train.jsonl").read_text())
    result = pytester.runpytest_subprocess("--finetune-plan")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*held-out: refused", "*leakage: 150 held-out rows also in train*"])
    result.stdout.no_fnmatch_line("*training*")


def test_narrowed_runs(pytester: pytest.Pytester, project: Path) -> None:
    """-k that selects only the data item trains nothing; an unrelated test is untouched."""
    pytester.makepyfile(test_other="def test_other():\n    pass\n")
    result = pytester.runpytest_subprocess("--finetune", "-k", "data or other")
    result.assert_outcomes(passed=2, deselected=2)
    assert not (pytester.path / ".finetune" / "adapter").exists()


def test_first_failure_trains_nothing(pytester: pytest.Pytester, project: Path) -> None:
    """-x stops at a failure of the suite's free-form test; what comes after it is not trained."""
    first = "def test_answers(base_model):\n    assert base_model.generate(['hello']) == ['never']\n"
    (project / "test_colours.py").write_text(first + TEST)
    result = pytester.runpytest_subprocess("--finetune", "-x")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert not (pytester.path / ".finetune" / "adapter").exists()


@pytest.mark.parametrize(
    ("requires", "offline", "line"),
    [
        ("gpu", "0", "finetune: colours: 3 tests deselected: needs a GPU (this run's device is cpu*"),
        ("hub", "1", "finetune: colours: 3 tests deselected: needs the hub (HF_HUB_OFFLINE is set*"),
    ],
)
def test_suite_beyond_this_machine_is_deselected(
    requires: str, offline: str, line: str, pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite that requires what the machine lacks is deselected, with the reason; its tests never run."""
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    (project / "suite.toml").write_text(f'requires = ["{requires}"]\n' + SUITE)
    result = pytester.runpytest_subprocess("--finetune", "--finetune-device=cpu")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.assert_outcomes(deselected=3)
    result.stdout.fnmatch_lines([line])
