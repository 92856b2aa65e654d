"""The HTML report: what is on the page, and that nothing of a run acts in it."""

import base64
import gzip
import hashlib
import json
import random
import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import runs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_finetune.cli import main
from pytest_finetune.records import RunRecord, TestRecord, Verdict
from pytest_finetune.report import markdown, run_json
from pytest_finetune.report.escape import HIDDEN
from pytest_finetune.report.html import charts, page

HOSTILE = (
    "</td></script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}\u202e\x1b[31m\x00\ud800\u2028&lt;"
)


class Skeleton(HTMLParser):
    """The elements of a page with their attributes, and its text; values of what can act are kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[object] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kept = ("href", "src", "class", "id", "http-equiv", "type")
        self.elements.append((tag, [(name, value if name in kept else "") for name, value in attrs]))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.elements.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.elements.append(decl)


def examples(text: str) -> list[dict[str, Any]]:
    """Return the examples that a page holds."""
    packed = re.search(r'id="packed">([^<]*)<', text)
    assert packed
    found: list[dict[str, Any]] = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    return found


def test_verdict_comes_first() -> None:
    """The page tells the outcome, then changes of policy, tests that failed, each suite, and the examples."""
    words = " ".join(Skeleton(page(runs.run())).words)
    parts = ["A claim is refuted.", "nobody accepted it", "Tests that did not pass", "refuted\nline 2", "At a glance"]
    parts += [
        "Claims",
        "Slices",
        "Prompt baseline",
        "plain instruction 20.0 %",
        "Training",
        "240 MiB",
        "Cost of a request",
    ]
    parts += ["same prompt, two answers", "What was judged", "Examples, side by side", "numpy"]
    places = [words.index(part) for part in parts]
    assert places == sorted(places)
    accepted = page(replace(runs.run(), policy_accepted=True))
    assert "the change was accepted" in accepted
    assert "nobody accepted" not in accepted


@pytest.mark.parametrize("outcome", ["PASS", "FAIL", "INCONCLUSIVE", "ERROR", "SKIPPED"])
def test_any_run_has_a_page(outcome: Any) -> None:
    """A run that learned nothing of any suite has a page, too, and no outcome but a proven one reads as one."""
    empty = replace(runs.run(0), outcome=outcome, policy=(), tests=())
    bare = replace(runs.run(1).suites[0], rows={}, baseline=None, adapter=None, measurements=(), verdicts=(), texts={})
    for run in (empty, replace(empty, suites=(bare,))):
        text = page(run)
        assert f"o-{outcome}" in text
        assert "Every claim is proven" not in text + markdown.text(run)


def test_open_claim_is_no_proven_one() -> None:
    """A run that passes with an open claim, as on_inconclusive = "warn" lets it, does not say that all are proven."""
    first = runs.run(1).suites[0]
    verdict = replace(first.verdicts[0], outcome="INCONCLUSIVE", claims=first.verdicts[0].claims[2:])
    run = replace(runs.run(1), outcome="PASS", suites=(replace(first, verdicts=(verdict,)),))
    for text in (page(run), markdown.text(run)):
        assert "No claim is refuted, but not every one is proven." in text
        assert "Every claim is proven" not in text


def test_harmless_change_of_policy_is_no_alarm() -> None:
    """A policy that changed and lowers nothing is told, and not as something that somebody had to accept."""
    run = runs.run()
    harmless = page(replace(run, policy=tuple(replace(change, lowers=False) for change in run.policy)))
    assert "The policy is changed; nothing lowers the bar" in harmless
    assert "accepted" not in harmless
    assert 'class="banner o-FAIL"' not in harmless
    assert 'class="banner o-FAIL"' in page(run)
    proven = run.suites[1:]
    assert "The bar is lowered, and nobody accepted that." in page(replace(run, suites=proven, tests=()))
    assert "A test failed." in page(replace(run, suites=proven, policy=()))


@pytest.mark.parametrize("file", ["suites/1/test_it.py", "test_it.py"])
def test_no_suite_looks_proven_of_which_a_test_broke(file: str) -> None:
    """A suite is as bad as its worst test, also where the claims that were reached are proven; no test proves it."""
    suite = runs.run().suites[1]
    broken = TestRecord(f"{file}::test_keeps", file, 9, "ERROR", "the engine died")
    for test, outcome in ((broken, "ERROR"), (replace(broken, outcome="PASS"), "PASS")):
        text = page(replace(runs.run(), suites=(suite,), tests=(test,)))
        assert f'class="dot o-{outcome}"' in text
        assert re.search(rf'id="suite-1-name">.*badge o-{outcome}"', text)
    bare = replace(suite, file="/repository/suites/1/suite.toml", verdicts=())
    for test, outcome in ((broken, "ERROR"), (replace(broken, outcome="PASS"), "SKIPPED")):
        assert f'class="dot o-{outcome}"' in page(replace(runs.run(), suites=(bare,), tests=(test,)))


@pytest.mark.attack(18)
@settings(max_examples=40)
@example(HOSTILE)
@example("{% raw %}<!--]]>&#x3c;script>")
@given(st.text(max_size=60))
def test_hostile_text_stays_text(hostile: str) -> None:
    """Whatever a run holds, the page has the template's elements and attributes, and shows what does not print."""
    plain, text = page(runs.run(rows=6)), page(runs.run(rows=6, said=lambda said: f"{hostile}{said}"))
    assert Skeleton(text).elements == Skeleton(plain).elements
    told = text + json.dumps(examples(text), ensure_ascii=False)
    assert not {char for char in told if unicodedata.category(char) in HIDDEN} - {"\n", "\t"}
    text.encode()


@pytest.mark.attack(18)
def test_nothing_but_its_own_code_runs() -> None:
    """The policy of the page names its one script and one style by their hashes and allows nothing else."""
    text = page(runs.run())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert rules.keys() == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    assert {rules[name] for name in ("default-src", "base-uri", "form-action")} == {"'none'"}
    for rule, tag in (("script-src", "script"), ("style-src", "style")):
        (code,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
    assert not re.search(r"<[^>]+\s(on\w+|style)=|url\(|@import|https?:", text)


def test_page_stays_small() -> None:
    """5 suites of 1000 examples fit in 1 MB: whole as they are, and cut, which the page says, where texts are long."""
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(3, 9))) for _ in range(4000)]
    usual = page(runs.run(5, 1000, lambda said: f"{said} {' '.join(chance.choices(words, k=4))}"))
    assert len(usual.encode()) <= 1_000_000
    assert "Texts are cut" not in usual
    assert sum(len(one["rows"]) for one in examples(usual)) == 5000

    long = page(
        runs.run(5, 1000, lambda said: f"{said} {' '.join(chance.choices(words, k=60))}" if "box" in said else said)
    )
    assert len(long.encode()) <= 1_000_000
    cut = re.search(r"Texts are cut to (\d+) characters", long)
    assert cut
    longest = max(len(text) for one in examples(long) for row in one["rows"] for text in row[1:5])
    assert longest == int(cut[1])
    assert sum(len(one["rows"]) for one in examples(long)) == 5000


def test_examples_pair_what_claims_compare() -> None:
    """Each data set stands once, with the two that a claim compares; a level stands alone; rows join by their ids."""
    suite = runs.run(1).suites[0]
    before, after = suite.measurements
    (claim, *_, level) = suite.verdicts[0].claims
    part = replace(after, ids=after.ids[6:9], outputs=after.outputs[6:9], scores=(1.0, 0.5, 0.0), slices=())
    copy = [replace(part, subject=who, on="copy") for who in ("base model", "adapter")]
    alone = replace(part, on="test_case", metric="test_case")
    claims = (
        level,
        replace(level, on="test_case", metric="test_case"),
        claim,
        replace(claim, kind="retention", on="2 general suites", before="base model"),
        replace(claim, kind="guard", on="copy", before="base model"),
    )
    verdict = Verdict("test", "PASS", claims)
    changed = replace(suite, measurements=(before, after, *copy, alone), verdicts=(verdict,))
    found = examples(page(replace(runs.run(1), suites=(changed,))))
    names = [(one["on"], one["before"], one["after"], len(one["rows"])) for one in found]
    assert names == [
        ("held-out", "baseline", "adapter", 12),
        ("copy", "base model", "adapter", 3),
        ("test_case", "", "adapter", 3),
    ]
    row = ["heldout.jsonl:1", "What colour\nis box 0?", "the box 0 is green", "the box 0 is red", "the box 0 is green"]
    assert found[0]["rows"][0] == [*row, "warm", 0.0, 1.0]
    assert [row[-2] for row in found[2]["rows"]] == [None] * 3


def test_intervals_stand_where_they_are() -> None:
    """Marks keep the order of their values, an infinite limit ends the axis, and ticks are round."""
    claim = runs.run(1).suites[0].verdicts[0].claims[0]
    (plot,) = charts.forests([("a", claim), ("b", replace(claim, low=-float("inf"), high=float("inf")))])
    first, second = plot.rows
    assert 0 < first.bound < first.low < first.estimate < first.high < 100
    assert (second.low, second.high) == (0.0, 100.0)
    assert plot.zero
    assert plot.zero < first.bound
    assert [text for _, text in plot.ticks] == ["0", "+10", "+20", "+30", "+40"]


def test_command_draws_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`pytest-finetune report run.json --html FILE` draws the page that the run itself would have written."""
    saved, drawn = tmp_path / "run.json", tmp_path / "run.html"
    run: RunRecord = runs.run(said=lambda said: f"{HOSTILE}{said}")
    run_json.write(run, saved)
    assert main(["report", str(saved), "--html", str(drawn)]) == 0
    assert drawn.read_text(encoding="utf-8") == page(run)
    assert main(["report", str(saved), "--html", str(tmp_path)]) == 4
    assert capsys.readouterr().err.startswith(f"ERROR: --html={tmp_path}: ")
