"""Which engine answers: what the command line and suite.toml say, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_finetune import suite
from pytest_finetune.engines import LOCAL, EngineSpec, api, chosen
from pytest_finetune.errors import SuiteError

OWN = EngineSpec("endpoint", "http://there:1/v1", "base", api_key_env="KEY", concurrency=2, retries=1)
SUITE = 'model = "embedded"\ndata = {{ train = "a.jsonl", heldout = "a.jsonl" }}\n{}\n'


def test_the_command_line_goes_before_the_suite() -> None:
    """Nothing keeps the suite's own; a name replaces it, and a URL asks another server for the same model."""
    assert chosen("", OWN) == chosen("endpoint", OWN) == OWN
    assert chosen("local", OWN) == LOCAL
    other = chosen("https://elsewhere/api/", OWN)
    assert other == replace(OWN, url="https://elsewhere/api/v1")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("vlm", "'vlm' is not one of endpoint, http://HOST:PORT/v1, local, vllm; did you mean 'vllm'?"),
        ("endpoint", "--finetune-engine=endpoint: which one? give its URL"),
        ("ftp://there", "--finetune-engine=ftp://there: no address of a server"),
        ("http://user:secret@there", "--finetune-engine=there: no address of a server"),
        ("http://:secret@there", "--finetune-engine=there: no address of a server"),
        ("http://there/v1?key=secret", "--finetune-engine=http://there/v1: no address of a server"),
        ("http://[::1", "no address of a server"),
    ],
)
def test_no_such_engine(given: str, told: str) -> None:
    """A wrong name or address is one line, which shows no password."""
    with pytest.raises(SuiteError) as caught:
        chosen(given, LOCAL)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_addresses_with_and_without_version(url: str) -> None:
    """All forms of a server's address are one, so that the store knows it again."""
    assert api(url, "x") == "http://h:1/v1"


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('engine = { name = "endpoint" }', "[engine] name = 'endpoint' needs its url"),
        ('engine = { url = "http://h" }', "[engine] name = 'local' has a url, which is name = \"endpoint\"'s"),
        ('engine = { name = "endpoint", url = "http://u:p@h" }', "engine.url"),
        ('engine = { name = "endpoint", url = "h" }', "engine.url"),
        ('engine = { nam = "local" }', "'nam'"),
    ],
)
def test_wrong_tables(tmp_path: Path, table: str, told: str) -> None:
    """A wrong [engine] is one line that names the file and the key."""
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    file = tmp_path / "suite.toml"
    file.write_text(SUITE.format(table))
    with pytest.raises(SuiteError) as caught:
        suite.load(file, tmp_path)
    assert str(caught.value).startswith(f"{file}: ")
    assert told in str(caught.value)


def test_where_an_answer_comes_from_is_part_of_its_name() -> None:
    """Another server, model, adapter or revision is another subject; so is another device, where answers are local."""
    ways = [replace(OWN, url="x"), replace(OWN, model="x"), replace(OWN, adapter="x"), replace(OWN, revision="x")]
    places = [str(spec.place("cpu")) for spec in (*ways, OWN, LOCAL, EngineSpec("vllm"))] + [str(LOCAL.place("cuda"))]
    assert len(set(places)) == len(places)
    assert OWN.place("cpu") == OWN.place("cuda") == replace(OWN, concurrency=1, retries=0).place("cpu")
