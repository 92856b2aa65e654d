"""The engine process: which libraries it lets its own libraries see."""

import importlib.util
import sys
from pathlib import Path

import pytest

from pytest_finetune import digest
from pytest_finetune.engine.worker import _Bitsandbytes
from pytest_finetune.records import Model

PLAIN = Model("embedded", "", str(digest.PACKAGE / "embedded"))
NF4 = Model("embedded", "", str(digest.PACKAGE / "embedded"), quantised=True)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> _Bitsandbytes:
    """The library as a new process sees it."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # which undoes what happens to it
    monkeypatch.delitem(sys.modules, "bitsandbytes")
    return _Bitsandbytes()


def test_bitsandbytes_is_hidden_without_nf4(library: _Bitsandbytes) -> None:
    """A process that serves plain models hides it, for good, and sends a quantised one to another process."""
    assert library.serves([PLAIN, ()])
    assert importlib.util.find_spec("bitsandbytes") is None
    assert not library.serves([NF4, ()])
    assert library.serves([PLAIN, ()])


def test_bitsandbytes_is_there_for_nf4(library: _Bitsandbytes) -> None:
    """A process whose first model is quantised sees it, and serves plain models too."""
    assert library.serves(["a metric"])  # which settles nothing
    for model in (NF4, PLAIN, NF4):
        assert library.serves([model, ()])
        assert importlib.util.find_spec("bitsandbytes")


def test_models_saved_quantised_see_bitsandbytes(library: _Bitsandbytes, tmp_path: Path) -> None:
    """A model whose own config asks for quantised weights is one that needs it."""
    (tmp_path / "config.json").write_text('{"model_type": "llama", "quantization_config": {"load_in_4bit": true}}')
    assert library.serves([Model("saved", "", str(tmp_path))])
    assert importlib.util.find_spec("bitsandbytes")
