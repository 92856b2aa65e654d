"""The shadow proxy between real servers: users get the primary's bytes, whatever becomes of the candidate."""

import os
import re
import signal
import socket
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event, Thread

import httpx2
import pytest
import servers

from pytest_finetune import cli
from pytest_finetune.shadow.spool import Move

pytest.importorskip("uvicorn")
FAULTS = ["wrong", "error", "garbage", "hang", "cut", "redirect", "refused"]
OF_CONNECTION = {"date", "connection", "transfer-encoding", "keep-alive"}


@pytest.fixture(scope="module")
def primary() -> Iterator[str]:
    """The URL of a server that answers."""
    with servers.upstream("right") as url:
        yield url


@pytest.fixture
def candidate(request: pytest.FixtureRequest, primary: str) -> Iterator[str]:
    """The URL of a candidate that does as its name says."""
    kind: str = request.param
    if kind == "refused":
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        return
    with servers.upstream(f"redirect={primary}/v1/models" if kind == "redirect" else kind) as url:
        yield url


def direct(primary: str, body: bytes) -> httpx2.Response:
    """Ask the primary itself."""
    return httpx2.post(f"{primary}/v1/chat/completions", content=body, timeout=servers.PATIENCE_SECONDS)


@pytest.mark.parametrize("mode", ["spool", pytest.param("live", marks=pytest.mark.slow)])
@pytest.mark.parametrize("candidate", FAULTS, indirect=True)
def test_users_see_the_primary_only(
    primary: str, candidate: str, tmp_path: Path, mode: str, request: pytest.FixtureRequest
) -> None:
    """Each answer, whole or streamed, is the primary's own, byte for byte, and no request fails."""
    (tmp_path / "shadow.toml").write_text(f'[mirror]\nmode = "{mode}"\ntimeout_seconds = 1\nconnections = 8\n')
    with servers.shadow(primary, candidate, tmp_path / "s", f"--config={tmp_path / 'shadow.toml'}") as shadow:
        for number in range(6):
            body = servers.question(f"question {number} é", stream=number % 2 == 1)
            seen, own = shadow.client.post("/v1/chat/completions", content=body), direct(primary, body)
            assert (seen.status_code, seen.content) == (own.status_code, own.content)
            heads = [
                [(name, value) for name, value in one.headers.multi_items() if name not in OF_CONNECTION]
                for one in (seen, own)
            ]
            assert heads[0] == heads[1]
        pairs = shadow.until(lambda spool: len(found := list(spool.pairs())) == 6 and found)
    assert all(pair.primary.error == "" and pair.primary.text.startswith("m says") for pair in pairs)
    errors = {pair.candidate.error for pair in pairs}
    kind = request.node.callspec.params["candidate"]
    expected = {
        "wrong": {""},
        "error": {"HTTP 500"},
        "garbage": {"no HTTP"},
        "hang": {"timeout"},
        "cut": {"", "cut off"},  # only streams are cut
        "redirect": {"HTTP 307, and redirects are not followed"},
        "refused": {"refused"},
    }
    assert errors == expected[kind]
    if kind == "wrong":
        assert not any(pair.agrees for pair in pairs)


def test_primary_that_fails_fails_as_it_does(tmp_path: Path) -> None:
    """An error of the primary, and an answer that it breaks off, come to the user as they are."""
    with servers.upstream("cut") as url, servers.shadow(url, url, tmp_path / "s", "--no-replay") as shadow:
        with (
            pytest.raises(httpx2.RemoteProtocolError),
            shadow.client.stream("POST", "/v1/chat/completions", content=servers.question("x", stream=True)) as answer,
        ):
            for _ in answer.iter_raw():
                pass
        assert shadow.ask("and then").status_code == 200


def test_nothing_of_the_caller_reaches_the_candidate(primary: str, tmp_path: Path) -> None:
    """Credentials, cookies and other headers stay with the primary; the candidate has its own key and model name."""
    config = tmp_path / "shadow.toml"
    config.write_text('[mirror]\nmodel = "abc"\nsystem = "Short."\nkey_env = "KEY_OF_CANDIDATE"\n')
    os.environ["KEY_OF_CANDIDATE"] = "its-own"
    with (
        servers.upstream("right") as other,
        servers.shadow(primary, other, tmp_path / "s", f"--config={config}") as shadow,
    ):
        shadow.ask("hello", headers={"authorization": "Bearer secret", "cookie": "a=secret", "x-api-key": "secret"})
        shadow.until(lambda spool: list(spool.pairs("abc")))
        (seen,) = httpx2.get(f"{other}/seen").json()
        mine = httpx2.get(f"{primary}/seen").json()[-1]
    assert seen["headers"]["authorization"] == "Bearer its-own"
    assert "secret" not in str(seen)
    assert seen["body"]["model"] == "abc"
    assert [turn["role"] for turn in seen["body"]["messages"]] == ["system", "user"]
    assert seen["body"]["messages"][0]["content"] == "Short."
    assert [turn["role"] for turn in mine["body"]["messages"]] == ["user"]
    assert (mine["headers"]["authorization"], mine["headers"]["cookie"]) == ("Bearer secret", "a=secret")
    assert b"secret" not in (tmp_path / "s").read_bytes()


def test_everything_else_passes(primary: str, tmp_path: Path) -> None:
    """What asks no model is relayed as it is, with its query and its body, and leaves no trace."""
    with servers.shadow(primary, primary, tmp_path / "s") as shadow:
        models = shadow.client.get("/v1/models?a=b%20c")
        assert (models.json()["data"][0]["id"], models.headers["x-query"]) == ("right", "a=b%20c")
        sent = os.urandom(300_000)
        assert shadow.client.post("/v1/files", content=sent).content == sent
        assert shadow.client.get("/nowhere").status_code == 404
        assert shadow.spool().counts() == {}


@pytest.mark.attack(20)
def test_is_no_way_in(primary: str, tmp_path: Path) -> None:
    """Only the two given servers are spoken to, and the proxy answers to no name but its own."""
    with servers.shadow(primary, primary, tmp_path / "s") as shadow:
        assert shadow.url.startswith("http://127.0.0.1:")  # of no option: others cannot reach it at all
        for host in ("rebound.example", "127.0.0.1.rebound.example", "localhost.rebound.example:80", "169.254.169.254"):
            headers = {"host": host}
            assert shadow.client.get("/v1/models", headers=headers).status_code == 421, host
            assert shadow.client.post("/v1/completions", headers=headers, json={}).status_code == 421, host
        port = int(shadow.url.rpartition(":")[2])
        for target in ("http://169.254.169.254/latest", "//169.254.169.254/latest", "/v1/models@169.254.169.254/"):
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: raw.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 404 "), target  # the primary's: it knows no such path


def test_what_is_private_never_reaches_the_disk(primary: str, tmp_path: Path) -> None:
    """Redacted text, and with digests any text, is in no file of the spool, and a pair is made all the same."""
    config = tmp_path / "shadow.toml"
    config.write_text('[privacy]\nkeep = "digests"\npatterns = ["order \\\\d+"]\n[mirror]\nmode = "live"\n')
    with servers.shadow(primary, primary, tmp_path / "s", f"--config={config}") as shadow:
        shadow.ask("my secret question")
        (pair,) = shadow.until(lambda spool: list(spool.pairs()))
        found = b"".join(path.read_bytes() for path in tmp_path.glob("s*") if path != config)
    assert pair.agrees
    assert (pair.exchange.request, pair.primary.text, pair.primary.characters) == (None, "", 28)
    assert b"question" not in found
    assert b"noitseuq" not in found


def test_redacted_before_the_disk(primary: str, tmp_path: Path) -> None:
    """Addresses, keys and what the config's patterns find are replaced before anything is written."""
    config = tmp_path / "shadow.toml"
    config.write_text('[privacy]\npatterns = ["order \\\\d+"]\nredacted = "compare"\n')
    with servers.shadow(primary, primary, tmp_path / "s", f"--config={config}") as shadow:
        shadow.ask("order 12345 of jane.doe@example.org, key sk-abcdefghijklmnop1234, card 4111 1111 1111 1111")
        (pair,) = shadow.until(lambda spool: list(spool.pairs()))
        found = b"".join(path.read_bytes() for path in tmp_path.glob("s*") if path != config)
    assert pair.exchange.redacted
    assert pair.exchange.asked == "[redacted] of [redacted], key [redacted], card [redacted]"
    for secret in (b"12345", b"jane", b"sk-abc", b"4111"):
        assert secret not in found


@pytest.mark.slow
def test_killed_at_any_point_it_goes_on(primary: str, tmp_path: Path) -> None:
    """Whatever is killed, the spool stays whole: what was asked is asked again, and nothing is there by half."""
    path = tmp_path / "s"
    for round_ in range(4):
        with servers.shadow(primary, primary, path) as shadow:
            for number in range(10):
                shadow.ask(f"{round_} {number}", stream=bool(number % 2))
            shadow.process.send_signal(signal.SIGKILL)
            shadow.process.wait()
        with sqlite3.connect(path) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with servers.shadow(primary, primary, path) as shadow:
        shadow.ask("the last one")
        shadow.until(lambda spool: any(pair.exchange.asked == "the last one" for pair in spool.pairs()))
        shadow.until(lambda spool: not spool.backlog(primary))
        pairs, counts = list(shadow.spool().pairs()), shadow.spool().counts()
    assert len(pairs) == counts["sampled"] > 1
    assert all(pair.agrees for pair in pairs)


def test_a_clean_end_loses_nothing(primary: str, tmp_path: Path) -> None:
    """SIGTERM right after an answer: what was relayed is in the spool, and the exit code is 0."""
    with servers.shadow(primary, primary, tmp_path / "s", "--no-replay") as shadow:
        for number in range(30):
            shadow.ask(str(number))
        shadow.process.send_signal(signal.SIGTERM)
        assert shadow.process.wait(30) == 0
        assert shadow.spool().counts() == {"relayed": 30, "sampled": 30}


def test_a_full_queue_drops_and_counts(primary: str, tmp_path: Path) -> None:
    """Where the candidate is too slow, what has no room is dropped and counted, and users do not notice."""
    config = tmp_path / "shadow.toml"
    config.write_text("[mirror]\nwaiting = 3\ntimeout_seconds = 30\n")
    with servers.upstream("hang") as url, servers.shadow(primary, url, tmp_path / "s", f"--config={config}") as shadow:
        for number in range(20):
            assert shadow.ask(str(number)).status_code == 200
        shadow.until(lambda spool: spool.counts().get("relayed") == 20)
        counts = shadow.spool().counts()
    assert (counts["sampled"], counts["backlog full"]) == (3, 17)


def test_conversations_are_sampled_whole(primary: str, tmp_path: Path) -> None:
    """All turns of a conversation are drawn, or none; about the share that was asked for."""
    config = tmp_path / "shadow.toml"
    config.write_text("[traffic]\nsample = 0.5\n")
    with servers.shadow(primary, primary, tmp_path / "s", f"--config={config}") as shadow:
        for conversation in range(40):
            for turn in range(2):
                shadow.ask(f"turn {turn}", headers={"x-conversation-id": f"c{conversation}"})
        shadow.until(lambda spool: spool.counts().get("relayed") == 80)
        pairs = shadow.until(lambda spool: not spool.backlog(primary) and list(spool.pairs()))
    turns = [pair.exchange.conversation for pair in pairs]
    assert 20 <= len(turns) <= 60
    assert all(turns.count(name) == 2 for name in turns)


def test_spans_where_the_environment_asks_for_them(primary: str, tmp_path: Path) -> None:
    """Each relayed request is a span under its caller's trace, sent to the collector of the environment."""
    pytest.importorskip("opentelemetry.sdk")
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    trace = "0af7651916cd43dd8448eb211c80319c"
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        Thread(target=collector.serve_forever, daemon=True).start()
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
        with servers.shadow(primary, primary, tmp_path / "s", "--no-replay", environment=env) as shadow:
            shadow.ask("hello", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
            (seen,) = [one for one in httpx2.get(f"{primary}/seen").json() if "traceparent" in one["headers"]]
        collector.shutdown()
    (told,) = received
    assert told[0] == "/v1/traces"
    assert b"shadow.relay" in told[1]
    assert bytes.fromhex(trace) in told[1]
    assert trace in seen["headers"]["traceparent"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidate=http://127.0.0.1:1"], "--primary is missing"),
        (["--primary=ftp://x", "--candidate=http://127.0.0.1:1"], "--primary=ftp://x: give http://HOST:PORT"),
        (["--primary=http://u:p@x", "--candidate=http://127.0.0.1:1"], "without user"),
        (["--primary=http://x", "--candidate=http://x", "--config=none.toml"], "none.toml: cannot be read"),
        (["--primary=http://x", "--candidate=http://x", "--host=198.51.100.1"], "cannot listen there"),
        (["--primary=http://x", "--candidate=http://x", "--spool=text.txt"], "spool text.txt: file is not a database"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A mistake is one line that names what is wrong, and what was there stays as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a text of somebody's, which is no database at all\n" * 9)
    assert cli.main(["shadow", *arguments]) == 4
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert (tmp_path / "text.txt").read_text().startswith("a text")


@contextmanager
def saying(answer: Callable[[bytes], bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Run a server that answers each request, head and body, with those bytes; yield its URL and what came."""
    came: list[bytes] = []

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.connection.settimeout(servers.PATIENCE_SECONDS)
            while head := b"".join(takewhile(lambda line: line != b"\r\n", self.rfile)):
                size = re.search(rb"(?i)content-length: (\d+)", head)
                came.append(head + (self.rfile.read(int(size[1])) if size else b""))
                if not (said := answer(came[-1])):
                    # The connection is reset, as by a server that ended it just then.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    os.close(self.connection.detach())
                    return
                self.wfile.write(said)

    class Server(ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", came
        server.shutdown()


def message(body: str, head: str = "content-type: application/json") -> bytes:
    """Return an answer's bytes."""
    return f"HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: {len(body.encode())}\r\n\r\n{body}".encode()


def exchanged(url: str, request: bytes) -> bytes:
    """Send bytes to the proxy, and return what comes until it closes."""
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), servers.PATIENCE_SECONDS) as raw:
        raw.sendall(request)
        return b"".join(iter(lambda: raw.recv(65536), b""))


ANSWER = '{"choices": [{"text": "fine", "finish_reason": "stop"}]}'
ODD = [  # answers that are JSON, and yet nothing that a file can hold as it is
    '{"choices": [{"text": "half \\ud83d"}]}',
    '{"choices": [{"text": "a"}], "usage": {"prompt_tokens": Infinity, "completion_tokens": 1e300}}',
    '{"choices": [{"text": "a", "finish_reason": {"of": "no text"}}], "id": ["\\ud83d"]}',
]


@pytest.mark.parametrize("mode", ["spool", "live"])
def test_nothing_odd_ends_the_recording(tmp_path: Path, mode: str) -> None:
    """Halves of characters, endless numbers and deep nesting, asked or answered, cost no other exchange its pair."""
    config = tmp_path / "shadow.toml"
    config.write_text(f'[mirror]\nmode = "{mode}"\nconnections = 1\n')
    asked = ['{"prompt": "half \\ud83d"}', '{"prompt": "a", "metadata": ' + "[" * 700 + "]" * 700 + "}"]
    asked += [f'{{"prompt": "{number}"}}' for number in range(len(ODD))]
    with (
        saying(lambda request: message(ANSWER)) as (url, _),
        saying(lambda request: message(ODD[int(request[-3:-2])] if request[-3:-2].isdigit() else ANSWER)) as (other, _),
        servers.shadow(url, other, tmp_path / "s", f"--config={config}") as shadow,
    ):
        for body in asked:
            assert shadow.client.post("/v1/completions", content=body.encode()).text == ANSWER
        pairs = shadow.until(lambda spool: len(found := list(spool.pairs())) == 4 and found)
        assert shadow.spool().counts() == {"relayed": 5, "sampled": 4, "unreadable": 1}
    assert [pair.candidate.error for pair in pairs] == [""] * 4


def test_a_canary_serves_whoever_asks_oddly(tmp_path: Path) -> None:
    """What is too deep to be looked at is the primary's to answer, also where all conversations are the candidate's."""
    deep = '{"prompt": "a", "metadata": ' + "[" * 960 + "]" * 960 + "}"
    with saying(lambda request: message(ANSWER)) as (url, _), servers.shadow(url, url, tmp_path / "s") as shadow:
        shadow.client.post("/v1/completions", content=b'{"prompt": "a"}')
        shadow.until(lambda spool: spool.candidates())
        shadow.spool().move(Move(0.0, url, 1.0, "started"))
        shadow.wait_for("100%")
        for body in (deep, '{"prompt": "half \\ud83d"}'):
            assert shadow.client.post("/v1/completions", content=body.encode()).text == ANSWER


@pytest.mark.slow
def test_keys_in_the_query_stay_with_the_primary(tmp_path: Path) -> None:
    """A query, in which some callers send their key, reaches the primary, and neither the disk nor the candidate."""
    with (
        saying(lambda request: message(ANSWER)) as (url, mine),
        saying(lambda request: message(ANSWER)) as (other, seen),
        servers.shadow(url, other, tmp_path / "s") as shadow,
    ):
        shadow.client.post("/v1/completions?key=secret", content=b'{"prompt": "a"}')
        (pair,) = shadow.until(lambda spool: list(spool.pairs()))
        found = b"".join(path.read_bytes() for path in tmp_path.glob("s*"))
        shadow.spool().move(Move(0.0, other, 1.0, "started"))
        shadow.wait_for("100%")
        shadow.client.post("/v1/completions?key=secret", content=b'{"prompt": "b"}')
    assert mine[0].startswith(b"POST /v1/completions?key=secret ")
    assert (pair.exchange.path, len(seen)) == ("/v1/completions", 2)
    assert b"secret" not in b"".join(seen) + found


@pytest.mark.attack(20)
def test_no_redirect_leads_elsewhere(tmp_path: Path) -> None:
    """A redirect is the caller's to follow, and a proxy of the environment is a third server: neither is asked."""
    with saying(lambda request: message("secret")) as (other, seen):
        away = f"HTTP/1.1 307 Away\r\nlocation: {other}/latest/meta-data\r\ncontent-length: 0\r\n\r\n".encode()
        proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY"), other)
        with (
            saying(lambda request: away) as (url, asked),
            servers.shadow(url, url, tmp_path / "s", "--no-replay", environment=proxies) as shadow,
        ):
            asking = {"model": "m", "prompt": "a"}
            for came in (shadow.client.get("/v1/models"), shadow.client.post("/v1/completions", json=asking)):
                assert (came.status_code, came.headers["location"]) == (307, f"{other}/latest/meta-data")
            assert len(asked) == 2
        assert not seen


@pytest.mark.attack(20)
def test_no_target_names_another_server(tmp_path: Path) -> None:
    """A target that is no path is refused: joined to the primary's address it would name another host."""
    with (
        saying(lambda request: message("mine")) as (url, _),
        saying(lambda request: message("another's")) as (other, seen),
        servers.shadow(url, url, tmp_path / "s", "--no-replay") as shadow,
    ):
        for target in (f"*@{other[7:]}/x", f"*@{other[7:]}/v1/completions", "*"):
            request = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            assert b"that is no path" in exchanged(shadow.url, request.encode())
    assert not seen


def test_a_connection_that_was_reset_is_no_error(tmp_path: Path) -> None:
    """A primary that resets an idle connection just as a question is sent is asked once more on a new one."""
    answers = iter([message("first"), b"", message("second")])
    with saying(lambda request: next(answers)) as (url, came), servers.shadow(url, url, tmp_path / "s") as shadow:
        said = [shadow.client.post("/v1/completions", content=b"[]") for _ in range(2)]
    assert [(one.status_code, one.text) for one in said] == [(200, "first"), (200, "second")]
    assert len(came) == 3


@pytest.mark.slow
def test_headers_and_callers_of_any_kind(tmp_path: Path) -> None:
    """Headers that are no UTF-8 are sent on, and a caller of HTTP/1.0 need not name a host."""
    with (
        saying(lambda request: message("ok")) as (url, came),
        servers.shadow(url, url, tmp_path / "s", "--no-replay") as shadow,
    ):
        assert exchanged(shadow.url, b"GET /x HTTP/1.0\r\nx-name: caf\xe9\r\n\r\n").endswith(b"ok")
    assert "x-name: café".encode() in came[0]


@pytest.mark.slow
def test_who_hangs_up_is_answered_no_further(tmp_path: Path) -> None:
    """The primary sees that its caller is gone, also where no model is asked."""
    gone = Event()

    class Endless(StreamRequestHandler):
        def handle(self) -> None:
            self.connection.recv(65536)
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\nstart")
            while self.connection.recv(65536):
                pass
            gone.set()

    with ThreadingTCPServer(("127.0.0.1", 0), Endless) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with servers.shadow(url, url, tmp_path / "s", "--no-replay") as shadow:
            for path in ("/v1/responses", "/v1/completions"):
                gone.clear()
                with shadow.client.stream("POST", path, content=b"{}") as answer:
                    assert next(answer.iter_raw()) == b"start"
                assert gone.wait(servers.PATIENCE_SECONDS)
        server.shutdown()
