"""Servers that are told to load a release, and the hub that it is pushed to: real ones, which answer as theirs do."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from pytest_finetune import digest
from pytest_finetune.digest import SHIPPED
from pytest_finetune.errors import SuiteError
from pytest_finetune.records import Adapter
from pytest_finetune.release import folder, servers

Answer = Callable[[Request, dict[str, Any]], Response]
NAME = "d" * 64


@contextmanager
def served(*routes: Route) -> Iterator[str]:
    """Run a server in a thread; yield its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # so that who asks before the thread runs waits, and is not refused
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=list(routes)), log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def error(status: int, message: str) -> Response:
    """Answer as vLLM refuses."""
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status)


class Server:
    """A server that holds adapters; ``answer`` may be another than vLLM's own."""

    def __init__(self, answer: Answer | None = None, key: str = "") -> None:
        self.names, self.asked, self._answer, self._key = ["base"], [dict[str, Any]() for _ in ()], answer, key
        self.posts = 0

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run it; yield its URL."""
        load = Route("/v1/load_lora_adapter", self._load, methods=["POST"])
        with served(Route("/v1/models", self._models), load) as url:
            yield url

    async def _models(self, request: Request) -> Response:
        if self._key and request.headers.get("authorization") != f"Bearer {self._key}":
            return error(401, "Unauthorized")
        return JSONResponse({"data": [{"id": name} for name in self.names]})

    async def _load(self, request: Request) -> Response:
        self.posts += 1
        asked = await request.json()
        self.asked.append(asked)
        if self._answer:
            return self._answer(request, asked)
        self.names.append(asked["lora_name"])
        return PlainTextResponse(f"Success: LoRA adapter '{asked['lora_name']}' added successfully.")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release of an adapter for a base model."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "adapter_config.json").write_text("{}")
    (tmp_path / "source" / "adapter_model.safetensors").write_text("weights")
    adapter = adapter_of(tmp_path / "source")
    folder.write(tmp_path / adapter.digest, adapter, tmp_path / "source", {"README.md": "---\nlicense: other\n---\n"})
    return tmp_path / adapter.digest


def adapter_of(place: Path) -> Adapter:
    """Return the adapter in a folder."""
    return Adapter(str(place), digest.of_files(place, SHIPPED), "lora")


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_loads_by_digest(release: Path, suffix: str) -> None:
    """A server is told the digest and the absolute folder, once: who serves it already is not told again."""
    server = Server()
    with server.running() as url:
        for _ in range(2):
            servers.load([url + suffix], NAME, release)
    assert server.asked == [{"lora_name": NAME, "lora_path": str(release.resolve())}]


def test_loaded_meanwhile(release: Path) -> None:
    """Whoever else loaded it in the same moment did what was asked."""

    def answer(request: Request, asked: dict[str, Any]) -> Response:
        server.names.append(asked["lora_name"])
        return error(400, f"The lora adapter '{NAME}' has already been loaded.")

    server = Server(answer)
    with server.running() as url:
        servers.load([url], NAME, release)
    assert server.posts == 1


def redirect(request: Request, asked: dict[str, Any]) -> Response:
    return RedirectResponse("/v1/models", 307)


def silent(request: Request, asked: dict[str, Any]) -> Response:
    return PlainTextResponse("Success")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda request, asked: JSONResponse({"detail": "Not Found"}, 404), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        (lambda request, asked: error(403, "it lets nobody"), "--adapters-from DIR"),
        (lambda request, asked: error(404, "No adapter found in /there"), "status 404: No adapter found in /there"),
        (lambda request, asked: error(400, "rank 64 is greater than max_lora_rank 16"), "max_lora_rank"),
        (lambda request, asked: error(500, "broken\nlines"), "status 500: broken"),
        (redirect, "status 307"),
        (silent, "does not list it"),
    ],
)
def test_refusals_say_what_to_do(release: Path, answer: Answer, said: str) -> None:
    """A server that does not serve it afterwards is an error, which names what to set."""
    server = Server(answer)
    with server.running() as url, pytest.raises(SuiteError, match=said):
        servers.load([url], NAME, release)
    assert server.posts == 1


def test_key_comes_from_the_environment(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is read from the variable that is named, and stands in no line."""
    monkeypatch.setenv("KEY_OF_SERVER", "s3cret")
    with Server(key="s3cret").running() as url:
        with pytest.raises(SuiteError, match="--load-key-env") as refused:
            servers.load([url], NAME, release)
        servers.load([url], NAME, release, "KEY_OF_SERVER")
        with pytest.raises(SuiteError, match="no such variable"):
            servers.load([url], NAME, release, "NO_KEY")
    assert "s3cret" not in str(refused.value)


def test_no_name_and_no_key(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host's name that is none, and a key that HTTP cannot send, are one line, which never shows the key."""
    with pytest.raises(SuiteError, match=r"--load=http://a\.\.b/v1/models: no answer"):
        servers.load(["http://a..b"], NAME, release)
    for key in ("schlüssel", "two\nlines"):
        monkeypatch.setenv("KEY_OF_SERVER", key)
        with pytest.raises(SuiteError, match="--load-key-env=KEY_OF_SERVER: no key for HTTP") as refused:
            servers.load(["http://127.0.0.1:1"], NAME, release, "KEY_OF_SERVER")
        assert key not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://a", "http://", "http://[::1", "http://me:s3cret@host", "http://a?b=c"]
)
def test_no_address(release: Path, url: str) -> None:
    """What is no address of a server is refused before anything is sent."""
    with pytest.raises(SuiteError, match="no address of a server") as refused:
        servers.load([url], NAME, release)
    assert "s3cret" not in str(refused.value)


def test_nobody_there(release: Path) -> None:
    """A server that is down is one line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(SuiteError, match="no answer"):
            servers.load([url], NAME, release)


def test_only_adapters_are_loaded(tmp_path: Path) -> None:
    """A prompt or a whole model is nothing that a running server loads."""
    with pytest.raises(SuiteError, match="restart them"):
        servers.load(["http://127.0.0.1:1"], NAME, tmp_path)


class Hub:
    """As much of the hub as a push asks; ``status`` other than 200 refuses everything."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.seen, self.lines = status, [""][:0], [dict[str, Any]() for _ in ()]

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run it; yield its URL."""
        with served(Route("/{path:path}", self._any, methods=["GET", "POST"])) as url:
            self.url = url
            yield url

    async def _any(self, request: Request) -> Response:
        path, body = request.path_params["path"], await request.body()
        self.seen.append(f"{request.method} /{path}")
        if self.status != 200:
            return JSONResponse({"error": "no"}, self.status)
        if path.endswith("repos/create"):
            return JSONResponse({"url": f"{self.url}/house/colours", "name": "house/colours"})
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return JSONResponse({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        if "/commit/" in path:
            self.lines = [json.loads(line) for line in body.splitlines()]
            return JSONResponse({"commitUrl": f"{self.url}/house/colours/commit/{'a' * 40}", "commitOid": "a" * 40})
        if "/tree/" in path:
            return JSONResponse([{"type": "file", "path": "model-old.safetensors", "size": 1, "oid": "b" * 40}])
        return JSONResponse({"id": "house/colours", "sha": "b" * 40, "siblings": [], "errors": [], "warnings": []})


def pushed(release: Path, target: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Push in a process of its own, whose hub the environment names."""
    lines = "import sys; from pathlib import Path; from pytest_finetune.release import push\n"
    lines += "from pytest_finetune.records import Adapter\nplace = Path(sys.argv[1])\n"
    lines += "push.push(place, sys.argv[2], Adapter('', place.name, 'lora'))"
    clean = {"PATH": "/usr/bin", "HOME": str(release.parent), "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", lines, str(release), target]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False)


def test_push_to_the_hub(release: Path) -> None:
    """The hub gets every file in one commit and a tag, both called by the digest; older weights go."""
    hub = Hub()
    with hub.running() as url:
        done = pushed(release, "hub:house/colours", HF_ENDPOINT=url, HF_TOKEN="hf_s3cret")
    assert done.returncode == 0, done.stderr
    header = next(line["value"] for line in hub.lines if line["key"] == "header")
    assert header["summary"] == f"Release {release.name}"
    files = {line["value"]["path"] for line in hub.lines if line["key"] == "file"}
    assert files == {path.name for path in release.iterdir()}
    assert {line["value"]["path"] for line in hub.lines if line["key"] == "deletedFile"} == {"model-old.safetensors"}
    assert any("/tag/" in path for path in hub.seen), hub.seen


@pytest.mark.parametrize(
    ("status", "said"), [(401, "does not know this token"), (403, "may not write"), (404, "no such")]
)
def test_hub_refuses(release: Path, status: int, said: str) -> None:
    """A refusal is one line that never holds the token."""
    hub = Hub(status)
    with hub.running() as url:
        done = pushed(release, "hub:house/colours", HF_ENDPOINT=url, HF_TOKEN="hf_s3cret")
    [line] = [line for line in done.stderr.splitlines() if line.startswith("pytest_finetune.errors.SuiteError")]
    assert said in line
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("target", "environment", "said"),
    [
        ("hub:house/colours", {"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_x"}, "HF_HUB_OFFLINE"),
        ("hub:house/colours", {}, "HF_TOKEN is not set"),
        ("hub:a/b/c", {"HF_TOKEN": "hf_x"}, "no name of a repository"),
        ("hub:house/colours", {"HF_TOKEN": "hf_x", "HF_ENDPOINT": "http://127.0.0.1:1"}, "no answer from the hub"),
    ],
)
def test_no_push(release: Path, target: str, environment: dict[str, str], said: str) -> None:
    """What cannot be pushed is one line that names what to set."""
    done = pushed(release, target, **environment)
    assert f"SuiteError: --push={target}" in done.stderr
    assert said in done.stderr.splitlines()[-1]
