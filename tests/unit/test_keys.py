"""What a result is kept under: all that it depends on is in its key, so that a change is never a stale hit."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine

from pytest_finetune import digest, suite, tuning
from pytest_finetune.engines import CODE
from pytest_finetune.measure import LIBRARIES
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Adapter, Conversation, Message, Model, Training, TrainSpec
from pytest_finetune.store import Store

SPEC = TrainSpec(
    Model("embedded", "a" * 64, "/models/embedded", "b" * 40),
    Training(),
    (Conversation((Message("user", "say"),), "red"),),
    (Conversation((Message("user", "say it"),), "blue"),),
)
# A model is what its bytes are, wherever they lie and whatever it is called; a hub's revision is in its digest.
NO_DIFFERENCE = {"model.name", "model.path", "model.revision"}
# Whether its own code may run: where it needs to, it is refused without, and its code is in its digest.
NO_DIFFERENCE |= {"model.remote_code"}
# How a run is watched, and how much of it is computed at once.
NO_DIFFERENCE |= {"trackers", "tracker_folder", "checkpointing", "generation.batch_size"}


def others(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all records that differ from one in one field, however deep, with the field's name."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            for place, other in others(getattr(value, field.name), f"{name}.{field.name}".lstrip(".")):
                yield place, replace(value, **{field.name: other})
    elif isinstance(value, tuple) and value and is_dataclass(value[0]):
        yield name, (*value, value[0])
        yield name, ()
        yield from ((place, (other, *value[1:])) for place, other in others(value[0], name))
    elif isinstance(value, tuple):
        yield name, (*value, "q_proj")
    elif value is None or isinstance(value, bool):
        yield name, not value
    else:
        yield name, value + type(value)(1) if not isinstance(value, str) else f"{value}x"


def key(spec: TrainSpec, device: str = "cpu") -> str:
    """Return what an adapter is kept under."""
    return digest.of(tuning.inputs(spec, device))


@pytest.mark.fault(25)
def test_each_setting_of_training_is_in_its_key() -> None:
    """Whichever field of all that describes a training run is changed, the adapter is another, but for those listed."""
    same = {place for place, other in others(SPEC) if key(other) == key(SPEC)}
    assert same == NO_DIFFERENCE
    assert len({place for place, _ in others(SPEC)}) > 25
    assert key(SPEC, "cuda") != key(SPEC)


LABELS = ("even", "odd")


def answer(prompt: Turns, adapter: Adapter | None) -> str:
    """The adapter is always right."""
    return LABELS[int(prompt[-1].content.split()[-1]) % 2] if adapter else "?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A suite."""
    for name, numbers in (("train", range(60)), ("heldout", range(100, 300))):
        rows = ({"prompt": f"number {i}", "completion": LABELS[i % 2]} for i in numbers)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "suite.toml").write_text(
        'model = "embedded"\ndata = { train = "train.jsonl", heldout = "heldout.jsonl" }\n'
    )
    return tmp_path


def asked(folder: Path) -> dict[str, int]:
    """Return what a new run over the same store asks the engine to do."""
    engine = FakeEngine(answer)
    pipeline = Pipeline(
        suite.load(folder / "suite.toml", folder), Workplace(Store(folder / ".finetune"), lambda spec: engine)
    )
    assert pipeline.baseline
    assert pipeline.adapter
    return engine.calls


@pytest.fixture
def fresh() -> Iterator[None]:
    """What was read of libraries and code is read again, before and after."""
    caches = (digest.versions, digest.of_code, digest.of_package)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.fault(25)
@pytest.mark.parametrize("library", [*LIBRARIES, "accelerate"])
def test_another_version_of_a_library(library: str, folder: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once another version is installed, the adapter is trained again and, but for what only trains, all rows asked."""
    first = asked(folder)
    assert first["train"] == 1
    assert asked(folder) == {}
    newer = folder / "site"
    (newer / f"{library}-99.0.dist-info").mkdir(parents=True)
    (newer / f"{library}-99.0.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {library}\nVersion: 99.0\n"
    )
    monkeypatch.syspath_prepend(newer)
    digest.versions.cache_clear()
    again = asked(folder)
    assert again["train"] == 1
    assert ("generate" in again) == (library in LIBRARIES)


@pytest.mark.fault(25)
def test_another_revision_of_the_base_model(folder: Path) -> None:
    """A model of the hub is another by its revision; one of a folder by each byte of its files."""
    hub = suite.load(folder / "suite.toml", folder)
    names = {replace(hub, model="org/name", revision=sha * 40).base_model().digest for sha in "abc"}
    assert len(names) == 3
    shutil.copytree(digest.PACKAGE / "embedded", folder / "model")
    text = (folder / "suite.toml").read_text().replace('"embedded"', '"./model"')
    (folder / "suite.toml").write_text(text)
    before = suite.load(folder / "suite.toml", folder).base_model().digest
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        file = folder / "model" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-2] + b" " + whole[-2:])
        assert suite.load(folder / "suite.toml", folder).base_model().digest != before, name
        file.write_bytes(whole)


@pytest.mark.fault(25)
def test_another_line_of_our_own_code(tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that training runs through is in an adapter's key."""
    shutil.copytree(digest.PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("embedded", "__pycache__"))
    before = key(SPEC)
    monkeypatch.setattr(digest, "PACKAGE", tmp_path / "package")
    digest.of_code.cache_clear()
    assert key(SPEC) == before
    for name in tuning.CODE:
        file = tmp_path / "package" / name
        whole = file.read_text()
        file.write_text(whole + "# changed\n")
        digest.of_code.cache_clear()
        assert key(SPEC) != before, name
        file.write_text(whole)
    assert {f"engine/{name}.py" for name in CODE["local"]} < {*tuning.CODE}
