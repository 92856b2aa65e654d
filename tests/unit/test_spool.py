"""The spool, redaction and the settings: what is kept of traffic, and what is not."""

import contextlib
import math
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune import cli
from pytest_finetune.errors import SuiteError
from pytest_finetune.redaction import MARK
from pytest_finetune.shadow import cases, config, conversation, export
from pytest_finetune.shadow.canary import BACK, NEXT, NOT_ASKED, START, Watch, matched
from pytest_finetune.shadow.candidate import Candidate
from pytest_finetune.shadow.config import Canary, Mirror, Privacy, Settings
from pytest_finetune.shadow.exchange import Exchange, Pair, Reply
from pytest_finetune.shadow.live import LiveMirror
from pytest_finetune.shadow.recorder import Recorder, Relayed, Sampled
from pytest_finetune.shadow.redact import Redactor
from pytest_finetune.shadow.replies import Replies, Taken
from pytest_finetune.shadow.spool import Move, Spool

EXCHANGE = Exchange(0, 1000.0, "c", "x", "/v1/chat/completions", "hello", "d", {"messages": []})
REPLY = Reply(200, "", 0.1, 0.2, "text", "digest", 4, valid=True)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty one."""
    return Spool(tmp_path / "s", create=True)


def test_what_is_written_is_read(spool: Spool) -> None:
    """Exchanges and replies come back as they were, in the order in which pairs were completed."""
    numbers = [spool.add(replace(EXCHANGE, asked=str(i)), {"primary": REPLY}, waiting=True) for i in range(3)]
    assert [one.asked for one in spool.waiting("x", 0, 9)] == ["0", "1", "2"]
    for number in (2, 0):
        spool.reply(numbers[number], "candidate", replace(REPLY, valid=None, refused=True))
    pairs = list(Spool(spool.path).pairs("x"))
    assert [pair.exchange.asked for pair in pairs] == ["2", "0"]
    assert pairs[0].primary == REPLY
    assert pairs[0].candidate == replace(REPLY, valid=None, refused=True)
    assert pairs[0].exchange == replace(EXCHANGE, number=numbers[2], asked="2")
    assert (spool.backlog("x"), spool.backlog("y"), spool.candidates()) == (1, 0, ["x"])


def test_a_reply_is_kept_once(spool: Spool) -> None:
    """An exchange that was asked again after a kill keeps its first reply."""
    number = spool.add(EXCHANGE, {"primary": REPLY}, waiting=True)
    for text in ("first", "second"):
        spool.reply(number, "candidate", replace(REPLY, text=text))
    assert [pair.candidate.text for pair in spool.pairs()] == ["first"]


def test_a_failed_transaction_leaves_nothing(spool: Spool) -> None:
    """What is written inside is there as a whole or not at all."""

    def half() -> None:
        with spool.transaction():
            spool.add(EXCHANGE, {"primary": REPLY})
            spool.count(["sampled"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert (spool.candidates(), spool.counts()) == ([], {})


def test_purge_deletes_texts_and_keeps_numbers(spool: Spool, tmp_path: Path) -> None:
    """After the purge no file holds a text, and a pair counts as before; scores stay."""
    for at, text in ((1.0, "old secret"), (9.0, "new secret")):
        spool.add(
            replace(EXCHANGE, time=at, asked=text),
            {side: replace(REPLY, text=text) for side in ("primary", "candidate")},
        )
    spool.score("m", {1: (0.0, 1.0)})
    assert spool.purge(before=5.0) == 1
    old, new = spool.pairs()
    assert (old.exchange.asked, old.exchange.request, old.primary.text, old.agrees) == ("", None, "", True)
    assert new.exchange.asked == "new secret"
    assert spool.scored("m") == {1: (0.0, 1.0)}
    spool.close()
    assert not any(b"old secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_purge_of_a_conversation_can_delete_all(spool: Spool) -> None:
    """Somebody's right to be forgotten: one conversation's exchanges go whole."""
    for name in ("a", "b"):
        spool.add(replace(EXCHANGE, conversation=name), {"primary": REPLY, "candidate": REPLY})
    assert spool.purge(math.inf, "a", numbers_too=True) == 1
    assert [pair.exchange.conversation for pair in spool.pairs()] == ["b"]


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    """Another program's database, another version's spool and a missing file are refused, and stay as they are."""
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE mine (a)")
    before = (tmp_path / "other").read_bytes()
    for name, message in (("other", "no spool of this version"), ("none", "no spool there")):
        with pytest.raises(SuiteError, match=message):
            Spool(tmp_path / name)
    assert (tmp_path / "other").read_bytes() == before
    assert not (tmp_path / "none").exists()


def test_parquet_holds_every_pair(spool: Spool, tmp_path: Path) -> None:
    """A row a pair, with all fields of both sides; an empty spool is said to be empty."""
    import pyarrow.parquet

    with pytest.raises(SuiteError, match="no pair in it"):
        export.write(spool, tmp_path / "out.parquet")
    for i in range(3):
        spool.add(replace(EXCHANGE, asked=str(i)), {"primary": REPLY, "candidate": replace(REPLY, valid=None)})
    assert cli.main(["shadow", "export", f"--spool={spool.path}", f"--out={tmp_path / 'out.parquet'}"]) == 0
    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["asked"] for row in rows] == ["0", "1", "2"]
    assert (rows[0]["primary.valid"], rows[0]["candidate.valid"], rows[0]["candidate.seconds"]) == (True, None, 0.2)
    assert cli.main(["shadow", "export", f"--spool={spool.path}", f"--out={tmp_path / 'out.parquet'}"]) == 4


def test_what_was_purged_meanwhile_is_not_kept(spool: Spool) -> None:
    """A reply that comes after its exchange was purged leaves no text, whether the exchange is gone or only emptied."""
    for numbers_too in (False, True):
        number = spool.add(EXCHANGE, {"primary": REPLY}, waiting=True)
        spool.purge(math.inf, numbers_too=numbers_too)
        spool.reply(number, "candidate", REPLY)
        assert spool._all("SELECT count(*) FROM replies WHERE text != ''") == [(0,)]


def test_a_purged_candidate_stays_an_attempt(spool: Spool) -> None:
    """Whoever deletes what an earlier candidate did has still tried it: the next one has no more alpha for that."""
    for name in ("first", "second"):
        spool.add(replace(EXCHANGE, candidate=name, conversation=name), {"primary": REPLY})
    spool.purge(math.inf, "first", numbers_too=True)
    assert spool.candidates() == ["first", "second"]


def test_killed_while_it_is_made(tmp_path: Path) -> None:
    """A file whose maker was killed before its last statement is no stranger's."""
    killed = """
import os, sqlite3, sys
from pathlib import Path
from pytest_finetune.shadow import spool
opened = sqlite3.connect
def connect(*given, **more):
    database = opened(*given, **more)
    database.set_trace_callback(lambda said: "user_version =" in said and os.kill(os.getpid(), 9))
    return database
sqlite3.connect = connect
spool.Spool(Path(sys.argv[1]), create=True)
"""
    path = tmp_path / "s"
    assert subprocess.run([sys.executable, "-c", killed, str(path)], check=False).returncode == -signal.SIGKILL
    assert Spool(path).candidates() == []


def test_a_mirror_that_ended_takes_no_more() -> None:
    """What comes after its end has no room, and is no fault of whoever offers it."""
    candidate = Candidate("http://127.0.0.1:1", Mirror())
    replies = Replies(lambda text: (None, False), Redactor(Privacy()), True)
    mirror = LiveMirror(candidate, replies, 9, 1, lambda exchange, both: None)
    mirror.start()
    mirror.stop()
    assert not mirror.take(Sampled(EXCHANGE, {}, REPLY))


def test_a_spool_that_cannot_be_written_costs_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What could not be written is counted, and does not fill the queue for what comes when it can be again."""
    monkeypatch.setattr("pytest_finetune.shadow.spool.BUSY_SECONDS", 1.0)
    monkeypatch.setattr("pytest_finetune.shadow.recorder.LARGEST_QUEUE", 1000)
    one = Relayed(0.0, "/v1/completions", "", b"[" + b" " * 400, "primary", Taken())
    recorder = Recorder(tmp_path / "s", Settings(), "x", lambda text: (None, False))
    recorder.start()

    def until(done: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not done():
            assert time.monotonic() < end
            time.sleep(0.01)

    recorder.offer(one)
    until(lambda: (tmp_path / "s").exists() and Spool(tmp_path / "s").counts() == {"relayed": 1, "unreadable": 1})
    with contextlib.closing(sqlite3.connect(tmp_path / "s", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        recorder.offer(one)
        recorder.offer(one)
        until(lambda: "database is locked" in capsys.readouterr().err)
        other.execute("ROLLBACK")

    def written() -> bool:
        recorder.offer(one)
        return Spool(tmp_path / "s").counts()["unreadable"] > 1

    until(written)
    recorder.stop()
    counts = Spool(tmp_path / "s").counts()
    assert counts["relayed"] == counts["unreadable"] + counts["spool not written"] + counts.get("queue full", 0)


# --- redaction and conversations ---------------------------------------------------------------


@pytest.mark.parametrize(
    "secret",
    [
        "jane.doe+x@mail.example.org",
        "sk-proj-abcdefghijklmnop",
        "ghp_abcdefghijklmnop1234",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.sig",
        "4111 1111 1111 1111",
        "GB82 WEST 1234 5698 7654 32",
        "+44 20 7946 0958",
        "(555) 010-9999 555 0109",
    ],
)
def test_usual_secrets_are_replaced(secret: str) -> None:
    """Addresses, keys and numbers of cards, accounts and phones go; what stands around them stays."""
    for after in (", after", ". After", "."):
        found = Redactor(Privacy()).text(f"before {secret}{after}")
        assert secret not in found
        assert found.startswith("before ")
        assert found.endswith(MARK + after)


def test_half_a_private_key_is_replaced() -> None:
    """A key whose end is cut off is one, too."""
    assert Redactor(Privacy()).text("my -----BEGIN RSA PRIVATE KEY-----\nMIIE") == f"my {MARK}"


@pytest.mark.parametrize("piece", ["a", "a.", "eyJ-", "-----BEGIN PRIVATE KEY-----", "1 ", "AA00 ", "sk-"])
def test_no_text_holds_up_the_proxy(piece: str) -> None:
    """Time grows with a text's length alone: its square would be hours here, in which no other thread runs."""
    load = "from pytest_finetune.shadow import config, redact as r"
    code = f"{load}; r.Redactor(config.Privacy()).text({piece!r} * 200_000)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "text", ["It costs 12.50 since 2026-11-25.", "version 3.11.7", "order 12345", "sk-8 bus", "a@b"]
)
def test_usual_text_stays(text: str) -> None:
    """Prices, dates, versions and short numbers are no secrets."""
    assert Redactor(Privacy()).text(text) == text


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(PLAIN)
def test_every_string_is_redacted(value: Any) -> None:
    """Wherever a string stands in plain data, its secret goes; all else stays as it was."""
    redactor = Redactor(Privacy(usual=False, patterns=("SECRET",)))
    assert redactor.plain(value) == (value if "SECRET" not in repr(value) else redactor.plain(value))
    assert "SECRET" not in repr(redactor.plain({"SECRET": [value, "a SECRET b"]}))
    assert redactor.plain({"a": [value, "a SECRET b"]})["a"][1] == f"a {MARK} b"


def test_turns_of_a_conversation_have_one_name() -> None:
    """Later turns repeat the first, and a header decides where there is one."""
    first = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]}
    later = {"messages": [*first["messages"], {"role": "assistant", "content": "hi"}, {"role": "user", "content": "b"}]}
    other = {"messages": [{"role": "user", "content": "bye"}]}
    names = [conversation.name_of(one, "") for one in (first, later, other, {**first, "user": "u"})]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert conversation.name_of(first, "h") == conversation.name_of(other, "h")


@given(st.integers(), st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_keeps_who_was_in(seed: int, name: str, one: float, other: float) -> None:
    """Growing a share moves no conversation out of it; purposes and seeds draw apart."""
    low, high = sorted((one, other))
    drawn = conversation.drawn("canary", seed, name)
    assert 0 <= drawn < 1
    assert drawn >= low or drawn < high or low == high


def test_shares_are_what_was_asked_for() -> None:
    """Of many conversations about the share is drawn, whatever the purpose."""
    for purpose in ("sample", "canary"):
        drawn = [conversation.drawn(purpose, 0, str(i)) < 0.3 for i in range(4000)]
        assert 0.27 < sum(drawn) / 4000 < 0.33


# --- shadow.toml -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trafic]\nsample = 1", "unknown key 'trafic'; did you mean 'traffic'?"),
        ("[traffic]\nsample = 2", "traffic.sample = 2: must be at most 1"),
        ('[mirror]\nmode = "both"', "must be one of spool, live"),
        ('[privacy]\npatterns = ["("]', "no regular expression"),
        ('[privacy]\nkeep = "digests"', 'set [mirror] mode = "live"'),
        ("[canary]\nsteps = [0.5, 0.1]", "each must be larger"),
        ('[verdict]\nreferences = "none.jsonl"\nmetric = "exact_match"', "no such file"),
        ('[verdict]\nmetric = "exact_match"', "references and metric go together"),
        ('[verdict]\njudge = "judge.py"', "FILE.py:FUNCTION"),
        ('[verdict.schema]\ntype = "nothing"', "no valid JSON Schema"),
        ("[verdict\n", "not valid TOML"),
    ],
)
def test_mistakes_in_the_settings(text: str, message: str, tmp_path: Path) -> None:
    """Each is a line with the file, the key and what would do."""
    (tmp_path / "shadow.toml").write_text(text)
    with pytest.raises(SuiteError) as caught:
        config.load(tmp_path / "shadow.toml")
    assert message in str(caught.value)
    assert "shadow.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_defaults_are_the_schema_s(tmp_path: Path) -> None:
    """An empty file is as none, and what the schema calls a default is the record's."""
    (tmp_path / "shadow.toml").write_text("")
    found = config.load(tmp_path / "shadow.toml")
    assert replace(found, folder=Path()) == config.Settings()
    for name, part in config.schema()["properties"].items():
        for key, about in part["properties"].items():
            if "default" in about:
                value = getattr(getattr(found, name), key)
                assert about["default"] == (list(value) if isinstance(value, tuple) else value), (name, key)


# --- the canary --------------------------------------------------------------------------------


def served(spool: Spool, times: list[float], side: str, error: str = "") -> None:
    """Write exchanges that a side served."""
    for at in times:
        exchange = replace(EXCHANGE, time=at, served=side)  # type: ignore[arg-type]
        spool.add(exchange, {side: replace(REPLY, error=error)})  # type: ignore[dict-item]


def test_the_canary_reads_no_texts(spool: Spool) -> None:
    """What it looks at often holds numbers only; the file is its owner's alone."""
    served(spool, [1.0], "candidate")
    ((exchange, reply),) = spool.served("candidate", "x", 0)
    assert (exchange.asked, exchange.request, reply.text, reply.seconds) == ("", None, "", REPLY.seconds)
    assert spool.path.stat().st_mode & 0o777 == 0o600


def test_each_answer_meets_the_next_one_of_the_primary(spool: Spool) -> None:
    """Nobody is compared twice, and who has no partner is compared with nobody."""
    served(spool, [2.0, 3.0, 9.0], "candidate")
    served(spool, [1.0, 2.5, 2.6, 4.0], "primary")
    pairs = matched(spool.served("candidate", "x", 0), spool.served("primary", "x", 0))
    assert [pair.primary is NOT_ASKED for pair in pairs] == [False, False, True]


def test_steps_up_and_back(spool: Spool) -> None:
    """It goes on after enough answers and time, and back for good when a gate breaks."""
    broken: list[str] = [""]
    seen: list[int] = []

    def look(pairs: list[Pair]) -> str:
        seen.append(len(pairs))
        return broken[0]

    watch = Watch("x", Canary(steps=(0.1, 1.0), exchanges=3, minutes=1), look)  # type: ignore[arg-type]
    assert watch.share(spool, 0) == 0
    spool.move(Move(100, "x", 0.1, START))
    served(spool, [101.0, 102.0], "candidate")
    assert watch.share(spool, 1000) == 0.1
    served(spool, [103.0], "candidate")
    assert watch.share(spool, 110) == 0.1  # too early
    assert watch.share(spool, 1000) == 1.0
    assert watch.share(spool, 9000) == 1.0
    broken[0] = "errors"
    assert watch.share(spool, 9001) == 1.0  # nothing new was served, and nothing is looked at
    served(spool, [9002.0], "candidate", "HTTP 500")
    assert watch.share(spool, 9003) == 0.0
    served(spool, [9004.0], "candidate")
    assert watch.share(spool, 9999) == 0.0
    assert seen == [2, 3, 4]
    assert [(move.share, move.why.partition(":")[0]) for move in spool.moves("x")] == [
        (0.1, START),
        (1.0, NEXT),
        (0.0, BACK),
    ]


def test_no_purge_of_what_is_yet_to_come(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    """A negative age, which would mean everything, is a mistake and deletes nothing."""
    spool.add(EXCHANGE, {"primary": REPLY})
    for days in ("-7", "nan"):
        assert cli.main(["shadow", "purge", f"--spool={spool.path}", f"--days={days}"]) == 4
        assert f"--days={float(days)}: " in capsys.readouterr().err
    assert spool._all("SELECT asked FROM exchanges") == [("hello",)]


def test_calls_that_redaction_made_no_json_are_cases(spool: Spool) -> None:
    """A number that was replaced in a call's arguments leaves no JSON: the case holds the text."""
    calls = '[{"arguments": {"card": [redacted]}, "name": "pay"}]'
    exchange = replace(EXCHANGE, request={"messages": None, "prompt": "hello"})
    (row,) = cases.rows([Pair(exchange, REPLY, replace(REPLY, tool_calls=calls, text_digest="other"))])
    assert (row["candidate_calls"], row["prompt"]) == (calls, "hello")


def test_a_replay_without_a_parent_goes_on() -> None:
    """Only where stdin is a pipe somebody holds its other end: a service's stdin is at its end from the start."""
    code = (
        "from pytest_finetune.shadow import replay; replay.end_with_parent(); import time; time.sleep(1); print('on')"
    )
    command = [sys.executable, "-c", code]
    assert (
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout == "on\n"
    )


@pytest.mark.parametrize(
    ("command", "option"), [("verdict", "--report"), ("export", "--out"), ("promote-cases", "--out")]
)
def test_files_that_cannot_be_written(
    command: str, option: str, spool: Spool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is not there is said in one line, before anything is made."""
    spool.add(EXCHANGE, {"primary": REPLY, "candidate": replace(REPLY, text_digest="other")})
    assert cli.main(["shadow", command, f"--spool={spool.path}", f"{option}={tmp_path / 'no' / 'file'}"]) == 4
    said = capsys.readouterr()
    assert f"{option}={tmp_path / 'no' / 'file'}: no such folder" in said.err
    assert said.out == ""
