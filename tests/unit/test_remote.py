"""The remote: what one machine made serves another, and nothing that is not whole is ever served."""

import functools
import importlib
import json
import threading
import uuid
import warnings
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.errors import StoreWarning, SuiteError
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Message
from pytest_finetune.remote import Remote
from pytest_finetune.rowstore import Asked, RowStore
from pytest_finetune.store import Store

NEVER = "was made, and the remote has it"


def never() -> object:
    """Make what must not be made again."""
    raise AssertionError(NEVER)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A server of S3's, with one bucket; its address."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (given | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
            patched.setenv(name, value)
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address that holds nothing yet."""
    name = f"{uuid.uuid4()}/of a team"
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{name}"
    return f"memory://{name}" if request.param == "memory" else f"file://{tmp_path}/remote/{name}"


def stored(url: str) -> Any:
    """Return the file system at an address, and its root in it."""
    from fsspec.core import url_to_fs

    return url_to_fs(url, use_listings_cache=False)


def test_what_one_made_serves_another(url: str, tmp_path: Path) -> None:
    """An entry with a folder in it, a value and rows are made on one machine only; what is decided stays with each."""

    def make(folder: Path) -> None:
        (folder / "weights").mkdir()
        (folder / "weights" / "a.bin").write_bytes(b"\x00\x01")

    def rows(store: Store, ask: Any) -> object:
        asked = Asked("outputs", "subject", ask)
        request: Turns = (Message("user", "a"),)
        return RowStore(store).values(asked, [request]).values

    one, other = (Store(tmp_path / name, Remote(url)) for name in ("one", "other"))
    one.folder("adapter", "k", make)
    one.json("probe", "k", lambda: [1])
    one.json("verdict", "k", lambda: "PASS")
    assert rows(one, lambda requests: ["said"]) == ["said"]
    assert other.has("adapter", "k")
    assert (other.folder("adapter", "k", lambda folder: None) / "weights" / "a.bin").read_bytes() == b"\x00\x01"
    assert other.json("probe", "k", never) == [1]
    assert rows(other, lambda requests: never()) == ["said"]
    assert not other.has("verdict", "k")
    assert other.used == {("adapter", "k"), ("probe", "k"), *((s, k) for s, k in other.used if s == "outputs")}
    Remote(url)._files.rm(Remote(url)._root, recursive=True)
    assert other.json("probe", "k", never) == [1]  # it was kept here


def test_what_is_made_anew_takes_the_old_ones_place(url: str, tmp_path: Path) -> None:
    """A rebuilt entry is uploaded, and one that is there already is not."""
    one, other = (Store(tmp_path / name, Remote(url)) for name in ("one", "other"))
    one.json("probe", "k", lambda: "old")
    offline = Store(tmp_path / "offline")
    offline.json("probe", "k", lambda: "of its own")
    offline.remotes = (Remote(url),)
    offline._push(tmp_path / "offline" / "probe" / "k")
    assert Store(tmp_path / "third", Remote(url)).json("probe", "k", never) == "old"
    one.json("probe", "k", lambda: "new", rebuild=True)
    assert other.json("probe", "k", never) == "new"


@pytest.mark.parametrize("damage", [b"", b'"bad"', None], ids=["truncated", "changed", "gone"])
def test_what_is_damaged_is_never_served(url: str, tmp_path: Path, damage: bytes | None) -> None:
    """What does not match its digest is told by its name, made anew, and mended there for others."""
    Store(tmp_path / "one", Remote(url)).json("probe", "k", lambda: "good")
    files, root = stored(url)
    if damage is None:
        files.rm_file(f"{root}/probe/k/value.json")
    else:
        files.pipe_file(f"{root}/probe/k/value.json", damage)
    with pytest.warns(StoreWarning, match=r"probe/k/value\.json: is not what its manifest says"):
        assert Store(tmp_path / "other", Remote(url)).json("probe", "k", lambda: "again") == "again"
    assert not list((tmp_path / "other").glob("work-*"))
    assert Store(tmp_path / "third", Remote(url)).json("probe", "k", never) == "again"


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "{}",
        "7",
        '{"../../../out": "x"}',
        '{"/tmp/out": "x"}',
        '{"a/../../out": "x"}',
        '{"manifest.json": "x"}',
    ],
)
def test_a_manifest_leads_nowhere(tmp_path: Path, manifest: str) -> None:
    """A manifest that is none, or that names a file elsewhere, is damage, and nothing is written there."""
    remote = tmp_path / "remote"
    (remote / "probe" / "k").mkdir(parents=True)
    (remote / "probe" / "k" / "manifest.json").write_text(manifest)
    (remote / "out").write_text("evil")
    store = Store(tmp_path / "a" / "b", Remote(f"file://{remote}"))
    with pytest.warns(StoreWarning, match=r"probe/k/manifest\.json: is not what"):
        assert store.json("probe", "k", lambda: "made") == "made"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "remote"]


def test_half_an_upload_is_nothing(tmp_path: Path) -> None:
    """Where the manifest, which comes last, is missing, there is no entry, and no word of it."""
    remote = tmp_path / "remote"
    Store(tmp_path / "one", Remote(f"file://{remote}")).json("probe", "k", lambda: "old")
    (remote / "probe" / "k" / "manifest.json").unlink()
    with warnings.catch_warnings(action="error"):
        assert Store(tmp_path / "other", Remote(f"file://{remote}")).json("probe", "k", lambda: "made") == "made"
    assert json.loads((remote / "probe" / "k" / "value.json").read_text()) == "made"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_who_may_only_read(tmp_path: Path) -> None:
    """A server that takes nothing is told of once, and read on; when it goes away, that is told of once."""
    pytest.importorskip("aiohttp")
    Store(tmp_path / "one", Remote(f"file://{tmp_path}/remote")).json("probe", "k", lambda: "shared")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        store = Store(tmp_path / "two", Remote(f"http://127.0.0.1:{server.server_port}/remote/"))
        with pytest.warns(StoreWarning, match="takes nothing") as told:
            assert [store.json("probe", str(i), lambda i=i: i) for i in range(3)] == [0, 1, 2]  # type: ignore[misc]
        assert len(told) == 1
        assert store.json("probe", "k", never) == "shared"
    finally:
        server.shutdown()
        server.server_close()
    with pytest.warns(StoreWarning, match="failed .*; this run goes on without it") as told:
        assert [store.json("stage", str(i), lambda i=i: i) for i in range(3)] == [0, 1, 2]  # type: ignore[misc]
    assert len(told) == 1
    with pytest.raises(SuiteError, match=r"^--finetune-remote=http:.*: cannot be read: .*; mend the address"):
        Remote(f"http://127.0.0.1:{server.server_port}/remote")


def test_warnings_as_errors_harm_nobody(tmp_path: Path) -> None:
    """A project whose warnings are errors goes on all the same."""
    (tmp_path / "remote" / "probe" / "k").mkdir(parents=True)
    (tmp_path / "remote" / "probe" / "k" / "manifest.json").write_text("{}")
    with warnings.catch_warnings(action="error"):
        assert Store(tmp_path / "one", Remote(f"file://{tmp_path}/remote")).json("probe", "k", lambda: 1) == 1


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    """It is one line, and no bucket is made."""
    for _ in range(2):
        with pytest.raises(SuiteError, match=r"--finetune-remote=s3://other/x: there is no other/x; make it"):
            Remote(f"{bucket.removesuffix('bucket')}other/x")


def test_what_no_library_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A protocol without its library names the command to install it, and a password is not shown."""
    known = importlib.import_module("fsspec.registry").known_implementations
    monkeypatch.setitem(known, "bucket", {"class": "absent.Files", "err": "Install absent"})
    with pytest.raises(SuiteError, match=r"^--finetune-remote=bucket://...@b: Install absent; pip install 'pytest-f"):
        Remote("bucket://user:secret@b")
    with pytest.raises(SuiteError, match="Protocol not known: nowhere; write s3://bucket/prefix"):
        Remote("nowhere://x")
