"""The engine of the server by itself, where what a request and an unloading do at once can be put in order."""

import gc
import queue
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import adapters
import pytest

from pytest_finetune import digest
from pytest_finetune.engine.asking import Ask, Piece
from pytest_finetune.engine.serving import Serving, Unloaded
from pytest_finetune.records import Adapter, Message, Model

pytestmark = pytest.mark.slow  # it loads torch into this process, which test_serve.py does not
TURNS = (Message("user", "Copy: dog"),)


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    """Yield the embedded model, served."""
    made = Serving(Model("embedded", "", str(digest.PACKAGE / "embedded")), "cpu", 8, 64)
    yield made
    made.close()


def asked(serving: Serving, adapter: str) -> "queue.Queue[Piece]":
    """Ask for 200 tokens; return their pieces as they come."""
    pieces: queue.Queue[Piece] = queue.Queue()
    serving.submit([Ask(adapter, serving.prompt(TURNS), 200, frozenset())], [pieces.put])
    return pieces


def finish(pieces: "queue.Queue[Piece]") -> str:
    """Return how an answer ends."""
    while not (piece := pieces.get(timeout=60)).finish:
        pass
    return piece.finish


def test_unloaded_after_it_was_named(serving: Serving, tmp_path: Path) -> None:
    """Rows from before an adapter is unloaded are answered, one from after is refused, and the others go on."""
    kept, gone = adapters.lora(tmp_path / "kept", 1), adapters.lora(tmp_path / "gone", 2)
    for name, known in (("kept", kept), ("gone", gone)):
        serving.load(Adapter(str(tmp_path / name), known, "")).result()
    before, base, other = asked(serving, gone), asked(serving, ""), asked(serving, kept)
    unloaded = serving.unload(gone)
    with pytest.raises(Unloaded, match="was unloaded"):
        asked(serving, gone)
    assert [finish(pieces) for pieces in (before, base, other)] == ["length"] * 3
    unloaded.result()
    for refused in (lambda: serving.ends(gone, TURNS), lambda: serving.context_tokens(gone)):
        with pytest.raises(Unloaded):
            refused()


def test_unloading_frees_the_weights(serving: Serving, tmp_path: Path) -> None:
    """An adapter with a network of its own leaves nothing in memory."""
    folder = shutil.copytree(digest.PACKAGE / "embedded", tmp_path / "full")
    known = digest.of_files(folder, digest.SHIPPED)
    serving.load(Adapter(str(folder), known, "")).result()
    network = weakref.ref(serving._loaded[known].network)
    serving.unload(known).result()
    gc.collect()
    assert network() is None
