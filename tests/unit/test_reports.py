"""Reports of a run: what they say, how long they may be, and that no text in them acts."""

import json
import sys
import unicodedata
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import escaping
from benchmarks.runner_log import Command, commands, heard
from pytest_finetune import cli
from pytest_finetune.records import PolicyChange, RunOutcome, RunRecord, TestRecord, Verdict
from pytest_finetune.report import compare, github, junit, markdown, run_json, terminal
from pytest_finetune.report.escape import visible
from pytest_finetune.report.wrap import cells, wrapped

RUN = escaping.run_of([f"text {i}" for i in range(escaping.A_RUN)])
LONG, VERY_LONG = (
    escaping.run_of(["中文 or <b>words</b> and @more, " * 20] * suites * escaping.A_RUN, judged=suites)
    for suites in (4, 60)
)
HOSTILE = [
    *("::error::x", "\t ::Add-Mask::x", "a ##[add-mask]x", "##[set-env name=PATH]x", "::stop-commands::x"),
    *("a\r::debug::x", ":\ufe0f:error::x", ":\u034f:error::x", "#\u200b#[error]x", ":\x00:error::x"),
]


@pytest.mark.attack(16)
@pytest.mark.parametrize("text", HOSTILE)
def test_commands_are_known_and_neutralised(text: str) -> None:
    """What GitHub's runner takes for a command, and might take for one, is none once it is shown."""
    assert list(commands(text))
    assert not list(commands(visible(text)))


@pytest.mark.attack(16, 17, 18)
def test_hostile_outputs_act_nowhere() -> None:
    """Of 2,400 hostile outputs in every report none is a command, an element, a mention or a control character."""
    assert escaping.fuzz(2400) == {}


@pytest.mark.attack(16, 17)
@given(st.binary(max_size=40))
def test_any_bytes_are_printable_and_no_command(output: bytes) -> None:
    """Whatever bytes a model's output is made of, what is shown of it is one line of plain characters."""
    for text in (
        output.decode("utf-8", "surrogateescape"),
        output.decode("latin-1"),
        output.decode("utf-16", "replace"),
    ):
        shown = visible(f"##[{text}::error::{text}")
        assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, shown))
        assert not list(commands(shown))


@pytest.mark.attack(16, 17)
def test_two_hostile_runs_are_compared_harmlessly() -> None:
    """What a comparison quotes of two runs does not act on a terminal or a CI runner."""
    hostile = "\r::error::x ##[add-mask]y\x1b]0;z\x07\u202e"
    run = runs.run(1, 6, lambda said: f"{hostile}{said}")
    lines = [text for text, _ in compare.run_lines(run, replace(run, suites=(*run.suites, *run.suites)))]
    assert any("error" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    assert not list(commands("\n".join(lines)))


@given(st.text(), st.integers(1, 60))
def test_wrapped_text_is_no_wider_and_whole(text: str, room: int) -> None:
    """A line is never wider than there is room (for a wide character, at least), and no word gets lost."""
    lines = list(wrapped("  label  ", visible(text), 9 + room))
    assert max(map(cells, lines)) <= 9 + max(room, 2)
    assert "".join(line[9:] for line in lines).replace(" ", "") == visible(text).replace(" ", "")
    assert all(line.startswith(" " * 9) or not line for line in lines[1:])


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_block_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is wider than the terminal, and every text begins in one column."""
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = [line for line, _ in terminal.suite_lines(LONG.suites[0], verbose=True)]
    assert max(map(cells, lines)) <= columns
    block = [line for line in lines if line.startswith("  ")]
    assert len(block) > 10
    assert all(line[15] == " " and line[16] != " " for line in block)


def test_lost_examples_are_shown_with_v() -> None:
    """Without -v one line says that there are some; with it they are told one by one."""
    brief, whole = (
        "\n".join(text for text, _ in terminal.run_lines(RUN, verbose=verbose)) for verbose in (False, True)
    )
    assert "5 worst lost examples: -v shows them" in brief
    assert "text 9" not in brief
    assert "text 9" in whole


@pytest.mark.parametrize(("accepted", "colour"), [(False, "red"), (True, "yellow")])
def test_policy_changes_come_first(accepted: bool, colour: str) -> None:
    """A bar that was lowered is the first thing said, in red where nobody accepted it."""
    (text, shown), *_ = terminal.run_lines(replace(RUN, policy_accepted=accepted))
    assert text.startswith("  policy")
    assert "lowers the bar" in text
    assert shown == colour


@settings(max_examples=30)
@given(st.integers(1_000, 100_000))
def test_markdown_is_never_longer(limit: int) -> None:
    """The text has no more characters than it may have."""
    assert len(markdown.text(LONG, limit)) <= limit


@pytest.mark.parametrize("limit", [2_000, 9_000, 30_000, 60_000])
def test_markdown_keeps_to_its_limit(limit: int) -> None:
    """However short, it begins with marker, verdict and policy, is whole Markdown, and says what was left out."""
    text = markdown.text(LONG, limit)
    assert text.startswith(f"{markdown.MARKER}\n## ❌ Fine-tuning gate: FAIL\n\n> ⚠️ **Changes of the policy")
    assert text.splitlines()[-1].startswith("Left out for length: ")
    tags = [tag for tag, _ in escaping.structure(escaping.renderer().render(text)) if not tag.startswith("text")]
    unclosed: list[str] = []
    for tag in tags:
        if tag.startswith("/"):
            assert unclosed.pop() == tag[1:]
        else:
            unclosed.append(tag)
    assert not unclosed


def test_markdown_of_a_run_has_all_of_it() -> None:
    """A run of usual size is shown whole: claims, tests that did not pass with their messages, lost examples."""
    text = markdown.text(RUN)
    assert "Left out" not in text
    assert "| ❔ INCONCLUSIVE | <code>text 5 beats text 4</code> on <code>text 2</code> | 50.0 % → 60.0 % |" in text
    assert "100 (about 400 needed)" in text
    assert "❌ FAIL <code>text 0</code>, <code>text 1&#58;7</code>\n\n<pre>\ntext 2\n</pre>" in text
    assert text.count("<details>") == 2


def test_summary_is_no_larger_than_github_takes() -> None:
    """The summary of many suites is at most 1 MiB of UTF-8, and longer than a comment."""
    assert len(github.summary(VERY_LONG, 1_000_000).encode()) <= (1 << 20) - 1_000_000
    summary = github.summary(VERY_LONG)
    assert len(summary) < len(summary.encode()) <= 1 << 20
    assert len(summary) > 60_000 >= len(markdown.text(VERY_LONG))


def test_annotations_are_eight_and_the_worst_first() -> None:
    """Of many tests that did not pass the worst are marked, where they stand in the repository."""
    order: list[RunOutcome] = ["PASS", "SKIPPED", "INCONCLUSIVE", "ERROR", "FAIL"]
    outcomes = [outcome for outcome, count in zip(order, (1, 1, 1, 5, 3), strict=True) for _ in range(count)]
    tests = tuple(
        TestRecord(f"test_{i}", "suites/test_a.py", i, outcome, "50 % of a, b: c\nand more")
        for i, outcome in enumerate(outcomes)
    )
    lines = github.annotations(replace(RUN, tests=tests), Path("models"))
    found = list(commands("\n".join(lines)))
    assert len(lines) == len(found) == github.MOST
    title = {"file": "models/suites/test_a.py", "line": "8", "title": "FAIL: test_8"}
    assert found[0] == Command("error", title, "50 % of a, b: c\nand more")
    assert [one.properties["title"].split(":")[0] for one in found[:-1]] == ["FAIL"] * 3 + ["ERROR"] * 4
    assert found[-1].data == "2 more tests did not pass"
    (warned,) = commands(github.annotations(replace(RUN, tests=tests[:3]))[0])
    assert warned.name == "warning"


def test_publish_adds_to_the_summary(tmp_path: Path) -> None:
    """The summary is added to what the file holds; one that cannot be written is a warning, and no more."""
    file = tmp_path / "summary.md"
    file.write_text("before\n")
    environment = {"GITHUB_STEP_SUMMARY": str(file), "GITHUB_WORKSPACE": str(tmp_path)}
    lines = github.publish(RUN, tmp_path / "sub", environment)
    assert "file=sub/text 1," in lines[0]
    assert file.read_text() == "before\n" + github.summary(RUN)
    *_, warning = github.publish(RUN, tmp_path, {"GITHUB_STEP_SUMMARY": str(tmp_path)})
    assert warning == f"warning: GITHUB_STEP_SUMMARY={tmp_path}: cannot be written: Is a directory"


@pytest.mark.attack(16)
def test_hushed_runner_hears_nothing() -> None:
    """Between the two lines no command is obeyed, also one that guesses how they end."""
    stop, resume = github.hushed()
    log = [stop, "::error::x", "##[error]x", "::0123456789abcdef::", "::error::y", resume, "::notice::z"]
    assert [one.data for one in heard("\n".join(log))] == ["z"]
    assert github.hushed() != (stop, resume)


@pytest.mark.attack(18)
def test_junit_properties_are_xml(pytester: pytest.Pytester) -> None:
    """Names and values that XML cannot hold, or that would end an attribute, are read back as they are shown."""
    hostile = '\x00\x1b[31m\ud800\ufffe"/><failure/>&<!--'
    verdict: Verdict = escaping.run_of([hostile] * escaping.A_RUN).suites[0].verdicts[0]
    given_properties = junit.properties(verdict)
    pytester.makepyfile(
        f"def test_it(request):\n    request.node.user_properties += {given_properties!r}\n",
    )
    pytester.runpytest_inprocess("--junitxml=junit.xml", "-p", "no:cacheprovider").assert_outcomes(passed=1)
    read = ET.parse(pytester.path / "junit.xml").iter("property")
    assert [(one.attrib["name"], one.attrib["value"]) for one in read] == given_properties
    assert not list(ET.parse(pytester.path / "junit.xml").iter("failure"))


def test_a_saved_run_says_what_it_came_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that broke before any suite was looked at is not drawn as nothing: its tests and its outcome are told."""
    broken = TestRecord("test_it.py::test_keeps", "test_it.py", 9, "ERROR", "ERROR: the engine died\nmore")
    monkeypatch.setenv("COLUMNS", "140")
    run = replace(RUN, suites=(), policy=(), tests=(replace(broken, outcome="PASS"), broken), outcome="ERROR")
    assert list(terminal.outcome_lines(run)) == [
        ("  ERROR         test_it.py:9  test_keeps: ERROR: the engine died", "red"),
        (
            "  outcome       ERROR: The machinery failed; that is no verdict on the model. Tests: 1 ERROR, 1 PASS.",
            "red",
        ),
    ]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved run."""
    run_json.write(RUN, tmp_path / "run.json")
    return tmp_path / "run.json"


def test_report_draws_a_saved_run(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A saved run is drawn in the terminal, as Markdown to a file or to the terminal."""
    assert cli.main(["report", str(saved)]) == 0
    drawn = capsys.readouterr().out
    assert "INCONCLUSIVE  text 5 beats text 4 by 5.0 points" in drawn
    assert drawn.endswith("Tests: 4 FAIL, 2 ERROR, 2 INCONCLUSIVE.\n")
    assert cli.main(["report", str(saved), "--markdown", "-"]) == 0
    assert capsys.readouterr().out == markdown.text(RUN)
    assert cli.main(["report", str(saved), "--markdown", str(saved.with_name("run.md"))]) == 0
    assert saved.with_name("run.md").read_text() == markdown.text(RUN)


@pytest.mark.parametrize("option", ["--html", "--markdown"])
def test_a_saved_run_is_never_drawn_over(saved: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    """A report is not written in place of the run that it is drawn from."""
    before = saved.read_bytes()
    assert cli.main(["report", str(saved), option, str(saved.parent / "." / saved.name)]) == 4
    assert capsys.readouterr().err.startswith(f"ERROR: {option}={saved}: is the saved run itself")
    assert saved.read_bytes() == before


def test_report_is_coloured_on_a_terminal_only(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colours are for a terminal whose user did not refuse them."""
    shown = []
    for tty, refused in ((False, ""), (True, "1"), (True, "")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda tty=tty: tty)
        monkeypatch.setenv("NO_COLOR", refused)
        cli.main(["report", str(saved)])
        shown.append("\x1b" in capsys.readouterr().out)
    assert shown == [False, False, True]


def test_report_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """The schema of a run can be had without the package's files; without a run or --schema one line says so."""
    assert cli.main(["report", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == run_json.schema()
    assert cli.main(["report"]) == 4
    assert capsys.readouterr().err == "ERROR: report: name the file that --finetune-report wrote, or --schema\n"


def test_a_lowered_bar_is_counted_whatever_else_is_left_out() -> None:
    """Changes with names so long that none fits are still told by their number."""
    change = PolicyChange("x" * 1000, "y" * 1000, "<" * 1000, ">" * 1000, lowers=True)
    run: RunRecord = replace(RUN, policy=(change,) * 70)
    assert "**Changes of the policy that lower the bar: 70**, **not accepted**" in markdown.text(run, 2_000)


def test_verdict_tells_github(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict over cells is told to GitHub, too: an annotation, the summary, and Markdown for the comment."""
    (tmp_path / "matrix.json").write_text(json.dumps({"include": [{"suite": "intent", "path": "intent"}]}))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    options = ["--matrix", str(tmp_path / "matrix.json"), "--evidence", str(tmp_path), "--markdown"]
    assert cli.main(["verdict", *options, str(tmp_path / "run.md")]) == 11
    log = capsys.readouterr().out
    assert log.startswith("::stop-commands::")
    (told,) = heard(log)
    assert (told.name, told.properties["title"]) == ("error", "ERROR: cell intent")
    assert (tmp_path / "summary.md").read_text() == (tmp_path / "run.md").read_text()
    assert "Fine-tuning gate: ERROR" in (tmp_path / "run.md").read_text()


@pytest.mark.attack(16, 17)
def test_commands_say_mistakes_in_one_harmless_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What a mistake quotes is no command of a CI runner, and stays on its line."""
    assert cli.main(["report", "a\n::error::x##[group]"]) == 4
    said = capsys.readouterr().err
    assert said == "ERROR: a\\n:\\x3aerror:\\x3ax##\\x5bgroup]: cannot be read: No such file or directory\n"
