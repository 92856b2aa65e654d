"""The verdict of a shadow: hard gates, quality, and what it takes to settle them."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_finetune import cli, digest
from pytest_finetune.errors import SuiteError
from pytest_finetune.metrics import resolve
from pytest_finetune.shadow import checks, quality
from pytest_finetune.shadow.assess import assess, chosen
from pytest_finetune.shadow.config import Limits
from pytest_finetune.shadow.exchange import Exchange, Pair, Reply
from pytest_finetune.shadow.spool import Spool
from pytest_finetune.shadow.verdict import ERRORS, LATENCY, REFUSALS, VALIDITY, Scored, ShadowVerdict, decide

RIGHT = Reply(200, "", 0.05, 0.2, "right", "r", 5, answer_id="a", completion_tokens=2)
WRONG = replace(RIGHT, text="wrong", text_digest="w")
DEFAULT = Limits()
FAILED = Reply(500, "HTTP 500", 0.0, 0.1)


def pair(number: int, candidate: Reply = RIGHT, primary: Reply = RIGHT, conversation: str = "") -> Pair:
    asked = f"question {number}"
    exchange = Exchange(
        number,
        float(number),
        conversation or f"c{number}",
        "x",
        "/v1/chat/completions",
        asked,
        digest.of(asked),
        {"messages": [{"role": "user", "content": asked}]},
    )
    return Pair(exchange, replace(primary, answer_id=f"a{number}"), candidate)


def judged(pairs: Sequence[Pair], limits: Limits = DEFAULT, attempt: int = 1) -> ShadowVerdict:
    """Decide with a score of 1 for each right answer."""
    scores = {p.exchange.number: (float(p.primary.text == "right"), float(p.candidate.text == "right")) for p in pairs}
    return decide("x", pairs, limits, [Scored("exact_match", scores)], attempt)


def outcomes(verdict: ShadowVerdict) -> dict[str, str]:
    return {claim.name: claim.outcome for claim in verdict.claims}


def test_a_good_candidate_is_promoted_when_enough_was_seen() -> None:
    """HOLD says how many pairs more it takes, and about so many then do."""
    better = [pair(i, primary=WRONG if i % 3 == 0 else RIGHT) for i in range(2000)]
    early = judged(better[:100])
    assert (early.outcome, early.quality_judged) == ("HOLD", True)
    assert early.more is not None
    assert 200 < early.more < 1000
    late = judged(better[: 100 + 2 * early.more])
    assert late.outcome == "PROMOTE"
    assert set(outcomes(late).values()) == {"PASS"}
    assert late.more == 0


def test_no_traffic_is_no_verdict() -> None:
    """Without a pair every claim is open, and nothing divides by nothing."""
    verdict = judged([])
    assert (verdict.outcome, verdict.pairs, verdict.more) == ("HOLD", 0, None)
    assert set(outcomes(verdict).values()) == {"INCONCLUSIVE"}
    json.dumps([claim.high for claim in verdict.claims], allow_nan=False)


@pytest.mark.parametrize(
    ("claim", "candidate", "limits"),
    [
        (ERRORS, FAILED, Limits()),
        (REFUSALS, replace(RIGHT, refused=True), Limits()),
        (VALIDITY, replace(RIGHT, valid=False), Limits(schema="{}")),
        (LATENCY, replace(RIGHT, seconds=2.0), Limits()),
        (LATENCY, replace(RIGHT, first_seconds=2.0), Limits(latency_of="first_token")),
        ("exact_match", WRONG, Limits()),
    ],
)
def test_each_gate_rejects_what_it_is_for(claim: str, candidate: Reply, limits: Limits) -> None:
    """A candidate that is as the primary but for one fault in three answers is rejected for that fault."""
    primary = replace(RIGHT, valid=True)
    bad, good = replace(candidate), replace(RIGHT, valid=True)
    pairs = [pair(i, bad if i % 3 == 0 else good, primary) for i in range(400)]
    verdict = judged(pairs, limits)
    assert verdict.outcome == "REJECT"
    assert outcomes(verdict)[claim] == "FAIL"
    assert "FAIL" not in {outcome for name, outcome in outcomes(verdict).items() if name not in (claim, *_with(claim))}


def _with(claim: str) -> tuple[str, ...]:
    return ("exact_match", VALIDITY) if claim == ERRORS else ()  # no answer is no right one, either


def test_a_failing_primary_is_not_the_candidate_s_fault() -> None:
    """Pairs whose primary failed are left out of what compares the two, and counted."""
    pairs = [pair(i, RIGHT, FAILED if i % 2 else RIGHT) for i in range(1000)]
    verdict = judged(pairs)
    assert verdict.left_out == 500
    assert next(claim for claim in verdict.claims if claim.name == REFUSALS).n == 500
    assert next(claim for claim in verdict.claims if claim.name == ERRORS).n == 1000


def test_callers_mistakes_are_nobody_s() -> None:
    """Requests that the primary refuses as wrong say nothing about the candidate, which refuses them as well."""
    wrong = replace(FAILED, status=400, error="HTTP 400")
    pairs = [pair(i, *((wrong, wrong) if i % 10 == 0 else (RIGHT, RIGHT))) for i in range(500)]
    verdict = judged(pairs)
    assert (verdict.pairs, verdict.left_out) == (450, 0)
    assert outcomes(verdict)[ERRORS] == "PASS"


def test_a_conversation_counts_once() -> None:
    """A thousand turns of one conversation are one piece of evidence for quality."""
    verdict = judged([pair(i, WRONG, conversation="same") for i in range(1000)])
    assert verdict.conversations == 1
    assert next(claim for claim in verdict.claims if claim.name == "exact_match").n == 1


def test_later_candidates_on_the_same_traffic_must_prove_more() -> None:
    """The second one has a quarter of alpha, so that trying many does not pass one by luck."""
    pairs = [pair(i, primary=WRONG if i % 3 == 0 else RIGHT) for i in range(450)]
    first, second = judged(pairs), judged(pairs, attempt=2)
    assert (first.outcome, second.outcome) == ("PROMOTE", "HOLD")
    assert second.alpha == first.alpha / 4


def test_quality_that_nobody_judged_holds() -> None:
    """Without references or a judge there is no PROMOTE, unless the settings say that the gates are enough."""
    pairs = [pair(i) for i in range(2000)]
    held = decide("x", pairs, Limits(), [])
    assert (held.outcome, held.quality_judged) == ("HOLD", False)
    assert "quality was not judged" in held.notes[0]
    assert decide("x", pairs, Limits(require_quality=False), []).outcome == "PROMOTE"


def test_the_same_whatever_the_order() -> None:
    """Pairs that come in another order make the same verdict."""
    rng = random.Random(0)
    pairs = [pair(i, rng.choice([RIGHT, WRONG]), rng.choice([RIGHT, WRONG])) for i in range(200)]
    one = judged(pairs)
    rng.shuffle(pairs)
    for claim, again in zip(one.claims, judged(pairs).claims, strict=True):
        assert (claim.outcome, claim.n) == (again.outcome, again.n)
        assert math.isclose(claim.low, again.low, abs_tol=1e-9)


# --- checks of single answers --------------------------------------------------------------------


def test_facts_of_an_answer() -> None:
    """Validity goes by the schema; refusals by how they begin, or by the settings' own patterns."""
    told = checks.facts(Limits(schema='{"type": "object"}'))
    assert [told(text)[0] for text in ("{}", "[]", "no JSON")] == [True, False, False]
    assert checks.facts(Limits())("x") == (None, False)
    refusals = ["I'm sorry, but I can't help with that.", "I cannot do this", "As an AI language model, I"]
    assert all(checks.facts(Limits())(text)[1] for text in refusals)
    answers = ["You can't pay by cheque.", "Sorry to hear that! Here is how:", "I can help you."]
    assert not any(checks.facts(Limits())(text)[1] for text in answers)
    assert checks.facts(Limits(refusals=("^Nein",)))("Nein danke")[1]


# --- references and judges -----------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """One of ten pairs, in half of which the candidate is wrong."""
    made = Spool(tmp_path / "s", create=True)
    for i in range(10):
        one = pair(i, WRONG if i % 2 else RIGHT)
        made.add(one.exchange, {"primary": one.primary, "candidate": one.candidate})
    return made


def test_references_by_id_and_by_question(spool: Spool, tmp_path: Path) -> None:
    """An answer is compared with the reference of its id, or of what was asked; others are not scored."""
    rows = [{"id": "a1", "reference": "right"}, {"prompt": "question 2", "completion": "right"}]
    rows += [{"id": "a2", "reference": "other"}]  # the id goes first
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    known = quality.references(tmp_path / "r.jsonl")
    found = quality.by_references(spool, list(spool.pairs()), resolve("exact_match", tmp_path), known)
    assert found.scores == {2: (1.0, 0.0), 3: (0.0, 0.0)}


def test_scores_outlive_the_texts(spool: Spool, tmp_path: Path) -> None:
    """After a purge the verdict has every pair that was scored before it."""
    metric, known = resolve("exact_match", tmp_path), quality.of_rows([(f"question {i}", "right") for i in range(10)])
    before = assess(spool, "x", Limits(), metric, known)
    spool.purge(math.inf)
    after = assess(spool, "x", Limits(), metric, known)
    assert [claim.n for claim in after.claims] == [claim.n for claim in before.claims]
    assert after.claims[-1] == before.claims[-1]


def test_withdrawn_references_count_no_more(spool: Spool, tmp_path: Path) -> None:
    """The references of today decide, also of pairs that were scored by others before."""
    metric = resolve("exact_match", tmp_path)
    pairs = list(spool.pairs())
    quality.by_references(spool, pairs, metric, quality.of_rows([(f"question {i}", "right") for i in range(10)]))
    rows = [("question 0", "right"), ("question 1", "wrong")]
    for _ in range(2):
        found = quality.by_references(spool, list(spool.pairs()), metric, quality.of_rows(rows))
        assert found.scores == {1: (1.0, 1.0), 2: (0.0, 1.0)}
        spool.purge(math.inf)
    rows[1] = ("question 1", "never scored")
    assert quality.by_references(spool, list(spool.pairs()), metric, quality.of_rows(rows)).scores == {1: (1.0, 1.0)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "r.jsonl:1: no JSON object"),
        ("[1]", "r.jsonl:1: no JSON object"),
        ('{"prompt": "a", "reference": "b"}\n{"prompt": "a"}', "r.jsonl:2: it needs a text 'reference'"),
        ('{"reference": "b"}', "r.jsonl:1: it needs"),
    ],
)
def test_mistakes_in_references(text: str, message: str, tmp_path: Path) -> None:
    """Each is one line with the file and the line."""
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(SuiteError, match=message):
        quality.references(tmp_path / "r.jsonl")


JUDGE = """
from pathlib import Path

def prefers_right(request, first, second):
    Path({log!r}).open("a").write("asked ")
    return {value}
"""


def judge(folder: Path, value: str) -> str:
    (folder / "judge.py").write_text(JUDGE.format(log=str(folder / "log"), value=value))
    return f"{folder / 'judge.py'}:prefers_right"


def test_a_judge_is_asked_in_both_orders_and_once(spool: Spool, tmp_path: Path) -> None:
    """It sees each disagreement both ways, agreements are ties unasked, and nothing is asked a second time."""
    named = judge(tmp_path, "float(first == 'right')")
    for _ in range(2):
        found, contradicting = quality.by_judge(spool, list(spool.pairs()), named)
    assert set(found.scores.values()) == {(0.5, 0.5), (1.0, 0.0)}
    assert (len(found.scores), contradicting) == (10, 0.0)
    assert (tmp_path / "log").read_text().count("asked") == 2 * 5


def test_a_judge_who_prefers_the_first_prefers_nobody(spool: Spool, tmp_path: Path) -> None:
    """Orders that contradict each other are a tie, and are counted."""
    found, contradicting = quality.by_judge(spool, list(spool.pairs()), judge(tmp_path, "1.0"))
    assert set(found.scores.values()) == {(0.5, 0.5)}
    assert contradicting == 1.0


@pytest.mark.parametrize(
    ("value", "message"), [("2", "must return 0 to 1"), ("1 / 0", "ZeroDivisionError"), ("None", "TypeError")]
)
def test_a_broken_judge_is_one_line(spool: Spool, tmp_path: Path, value: str, message: str) -> None:
    """The line names the judge and the exchange."""
    with pytest.raises(SuiteError, match=message):
        quality.by_judge(spool, list(spool.pairs()), judge(tmp_path, value))


# --- commands --------------------------------------------------------------------------------------


def test_verdict_as_a_command(spool: Spool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the outcome, each claim and what is missing, writes JSON, and says it in its exit code."""
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps({"id": f"a{i}", "reference": "right"}) for i in range(10)))
    options = [f"--spool={spool.path}", f"--references={tmp_path / 'r.jsonl'}", "--metric=exact_match"]
    assert cli.main(["shadow", "verdict", *options, f"--report={tmp_path / 'v.json'}"]) == 10
    said = capsys.readouterr().out
    assert "shadow of x: HOLD" in said
    assert "candidate keeps exact_match: drop below 2.0 points: 100.0 % -> 50.0 %" in said
    assert "pairs more are expected" in said
    assert "50.0 % of pairs agree" in said
    written = json.loads((tmp_path / "v.json").read_text())
    assert (written["outcome"], written["candidate"], len(written["claims"])) == ("HOLD", "x", 4)
    assert cli.main(["shadow", "verdict", *options, f"--report={tmp_path / 'v.json'}"]) == 4  # overwrites nothing
    for i in range(20, 400):
        one = pair(i, WRONG)
        spool.add(one.exchange, {"primary": one.primary, "candidate": FAILED})
    assert cli.main(["shadow", "verdict", *options]) == 1


def test_which_candidate(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    """The only one is meant; of several one must be named, and a wrong name shows the right one."""
    assert chosen(spool, "") == "x"
    one = pair(99)
    spool.add(replace(one.exchange, candidate="abcdef"), {"primary": RIGHT, "candidate": RIGHT})
    assert chosen(spool, "abc") == "abcdef"
    for name, message in (("", "several candidates"), ("abcdeg", "did you mean 'abcdef'?")):
        with pytest.raises(SuiteError, match=message):
            chosen(spool, name)


def test_disagreements_become_cases(spool: Spool, tmp_path: Path) -> None:
    """Each is a row without an answer, what differs most first, every question once, and no file is overwritten."""
    for number, reply in ((20, replace(WRONG, refused=True)), (21, replace(WRONG, tool_calls='[{"name": "f"}]'))):
        one = pair(number, reply)
        spool.add(one.exchange, {"primary": one.primary, "candidate": one.candidate})
    spool.add(pair(1).exchange, {"primary": RIGHT, "candidate": WRONG})
    command = ["shadow", "promote-cases", f"--spool={spool.path}", f"--out={tmp_path / 'cases.jsonl'}"]
    assert cli.main([*command, "--limit=4"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
    assert [row["why"] for row in rows] == ["tool calls differ", "one refuses", "texts differ", "texts differ"]
    assert rows[2]["prompt"] == "question 1"
    assert (rows[2]["completion"], rows[2]["primary"], rows[2]["candidate"]) == ("", "right", "wrong")
    assert cli.main(command) == 4


def test_canary_by_hand(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    """Only PROMOTE starts one, or a reason that is noted; it goes back at once."""
    options = ["shadow", "canary", f"--spool={spool.path}"]
    assert cli.main([*options, "--start"]) == 4
    assert "is HOLD, and only PROMOTE starts one" in capsys.readouterr().err
    assert cli.main([*options, "--start", "--force=a test"]) == 0
    assert spool.share("x") == 0.01
    assert "forced: a test" in spool.moves("x")[-1].why
    assert cli.main([*options, "--back"]) == 0
    assert spool.share("x") == 0.0


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("shadow --primary=http://x --candidate=http://x", 4),
        ("shadow replay --candidate=http://x", 4),
        ("serve embedded", 4),
        ("shadow verdict", 10),
    ],
)
def test_without_the_extra(spool: Spool, command: str, code: int) -> None:
    """What serves names the extra that it needs, in one line; verdicts are made without it."""
    missing = "import sys; sys.modules.update(dict.fromkeys(('aiohttp', 'uvicorn', 'starlette', 'prometheus_client')))"
    run = "from pytest_finetune.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [*command.split(), *([f"--spool={spool.path}"] if "shadow" in command else [])]
    done = subprocess.run(
        [sys.executable, "-c", f"{missing}; {run}", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert ("pip install 'pytest-finetune[shadow]'" in done.stderr) == (code == 4)
    assert done.stderr.count("\n") == (code == 4)
