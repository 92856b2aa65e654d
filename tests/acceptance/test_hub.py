"""Models and data of a hub that cannot be reached, or says to wait: what is cached is used, or one line says it."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from colours import SUITE

from pytest_finetune import digest

REVISION = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/name"


class Busy(http.server.BaseHTTPRequestHandler):
    """A hub that has had too many requests."""

    def do_GET(self) -> None:
        """Say so."""
        self.send_response(429)
        self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  # its name there

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(params=["unreachable", "429"])
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A hub that gives nothing, and an empty cache."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port if request.param == "429" else 9  # where nobody listens
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path / "hf" / "hub"
    server.shutdown()


def use(project: Path, **changes: str) -> None:
    """Replace texts in the suite."""
    text = SUITE
    for before, after in changes.items():
        text = text.replace(before, after)
    (project / "suite.toml").write_text(text)


@pytest.mark.fault(24)
@pytest.mark.slow
def test_model_of_a_hub(pytester: pytest.Pytester, project: Path, hub: Path) -> None:
    """Without a cached copy it is an error in one line that names the model; with one the run passes as ever."""
    use(project, **{'model = "embedded"': f'model = "{NAME}"\nrevision = "{REVISION}"'})
    without = pytester.runpytest_subprocess("--finetune", timeout=240)
    assert without.ret == 11
    without.stdout.fnmatch_lines(
        [f"*model '{NAME}' is not in the local cache, and the hub gives nothing: *; run it again*"]
    )
    without.stdout.no_fnmatch_line("*Traceback*")
    cached = hub / "models--org--name"
    shutil.copytree(digest.PACKAGE / "embedded", cached / "snapshots" / REVISION)
    with_it = pytester.runpytest_subprocess("--finetune", timeout=240)
    assert with_it.ret == 0
    with_it.stdout.fnmatch_lines(["*PASS*adapter beats baseline*"])


@pytest.mark.fault(24)
@pytest.mark.slow
@pytest.mark.parametrize("hub", ["429"], indirect=True)  # whose retries are the shorter ones
def test_data_of_a_hub(pytester: pytest.Pytester, project: Path, hub: Path) -> None:
    """A data set that cannot be had is one line that names it, and never half a data set."""
    use(project, **{'train = "train.jsonl"': f'train = "hub:{NAME}@{REVISION}:train"'})
    result = pytester.runpytest_subprocess("--finetune", timeout=240)
    assert result.ret == 11
    result.stdout.fnmatch_lines([f"*hub:{NAME}@{REVISION}:train: not in the local cache, and the hub gives nothing*"])
    result.stdout.no_fnmatch_line("*Traceback*")
