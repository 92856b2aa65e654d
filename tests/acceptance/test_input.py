"""What stands in files of data, and where a suite's paths lead, as a run of pytest says it."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from colours import SUITE, rows

from benchmarks.runner_log import commands
from pytest_finetune import data, suite
from pytest_finetune.errors import SuiteError
from pytest_finetune.suite import Fields

LINE = b'{"prompt": "item 1: apple", "completion": "box red"}\n'
BROKEN = {
    "empty": (b"", "train.jsonl: the file has no rows"),
    "blank lines": (b"\n \n", "train.jsonl: the file has no rows"),
    "only a BOM": (b"\xef\xbb\xbf", "train.jsonl: the file has no rows"),
    "not UTF-8": (LINE * 2 + b'{"prompt": "\xe9", "completion": "x"}\n', "train.jsonl:3: not UTF-8 (byte 0xe9)"),
    "UTF-16": (LINE.decode().encode("utf-16"), "train.jsonl:1: not UTF-8 (byte 0xff)"),
    "half a row": (LINE * 3 + LINE[:20], "train.jsonl:4: not JSON"),
    "not JSON": (LINE + b"prompt,completion\n", "train.jsonl:2: not JSON"),
    "depth": (b"[" * 100_000 + b"\n", "train.jsonl:1: not JSON: maximum recursion depth"),
    "no object": (b"[1, 2]\n", "train.jsonl:1: a row must be a JSON object, not list"),
    "no text": (
        b'{"prompt": ["' + b"x" * 100_000 + b'"], "completion": "x"}\n',
        "train.jsonl:1: field 'prompt' is ['xxx",
    ),
    "many digits": (
        b'{"prompt": "a", "completion": ' + b"9" * 5000 + b"}\n",
        "train.jsonl:1: not JSON: Exceeds the limit",
    ),
    "many fields": (
        json.dumps(dict.fromkeys(map(str, range(9000)))).encode(),
        "train.jsonl:1: the row has no field 'prompt'",
    ),
}


@pytest.mark.fault(22)
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_rows_are_one_line(fault: str, tmp_path: Path) -> None:
    """A file that holds no rows, or one that cannot be read, is refused with file and line, in a line to be read."""
    content, said = BROKEN[fault]
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(SuiteError) as caught:
        data.load([str(tmp_path / "train.jsonl")], Fields())
    assert str(caught.value).startswith(f"{tmp_path}/{said}")
    assert len(str(caught.value)) < 1000


@pytest.mark.fault(22)
@pytest.mark.parametrize("fault", ["empty", "not UTF-8", "not JSON", "no text"])
def test_broken_rows_end_a_run_at_its_collection(fault: str, pytester: pytest.Pytester, project: Path) -> None:
    """`pytest --finetune` ends with a usage error of one line, before any compute."""
    content, said = BROKEN[fault]
    (project / "train.jsonl").write_bytes(content)
    result = pytester.runpytest_subprocess("--finetune", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in result.stderr.lines if line)
    assert line.startswith(f"ERROR: {project}/{said}")
    assert "Traceback" not in result.stdout.str()
    assert not (pytester.path / ".finetune").exists()


@pytest.mark.fault(22)
def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    """A BOM, as Windows writes it, belongs to no row."""
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + LINE)
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbfprompt,completion\r\na,b\r\n")
    assert [len(data.load([str(tmp_path / name)], Fields())) for name in ("rows.jsonl", "rows.csv")] == [1, 1]


@pytest.mark.fault(22)
def test_one_huge_row_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A row of 128 MiB is refused with its line, and is not in memory for that."""
    file = tmp_path / "train.jsonl"
    file.write_bytes(LINE)
    os.truncate(file, 1 << 27)  # the row has no end, and takes no disk
    tracemalloc.start()
    try:
        with pytest.raises(SuiteError) as caught:
            data.load([str(file)], Fields())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(caught.value) == f"{file}:2: a row of more than 16 MiB; shorten or split it"
    assert peak_bytes < 1 << 26


CANARY = "from pathlib import Path\nPath(__file__).with_name('canary').touch()\n"


@pytest.mark.attack(14)
@pytest.mark.parametrize("name", ["data.py", "rows.arrow", "rows.pkl", "rows.json", "rows.zip"])
def test_only_three_kinds_of_files_hold_rows(name: str, tmp_path: Path) -> None:
    """Code, pickles and archives are read by no suite, named as files or in a folder; no code beside rows is run."""
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / name).write_text(CANARY)
    for source in (folder / name, folder):
        with pytest.raises(SuiteError, match=r"\.jsonl, \.csv, \.parquet"):
            data.load([str(source)], Fields())
    (folder / "rows.py").write_text(CANARY)  # as a loading script of a data set is called
    (folder / "dataset_infos.json").write_text('{"default": {"builder_name": "rows"}}')
    (folder / "train.jsonl").write_bytes(LINE)
    assert len(data.load([str(folder)], Fields())) == 1
    assert not (folder / "canary").exists()


@pytest.mark.attack(14)
@pytest.mark.parametrize(
    "name", ["../rows", "/etc", ".", "~/rows", "json", "pandas", "rows", "own/rows", "a/b/c", "a b/c"]
)
def test_hub_sources_name_a_data_set_of_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hub:` takes no folder, no builder of the library's and no address: what it loads has no script to run."""
    for folder in (tmp_path / "rows", tmp_path / "own" / "rows"):
        folder.mkdir(parents=True)
        (folder / "rows.py").write_text(CANARY)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SuiteError, match="write hub:OWNER/NAME@REVISION:SPLIT"):
        data.load([f"hub:{name}@{'a' * 40}:train"], Fields())
    assert not list(tmp_path.rglob("canary"))


OUTSIDE: dict[str, str] = {
    "rows above": SUITE.replace('"train.jsonl"', '"../../outside/rows.jsonl"'),
    "rows by their whole path": SUITE.replace('"train.jsonl"', '"{outside}/rows.jsonl"'),
    "rows behind a link": SUITE.replace('"train.jsonl"', '"link.jsonl"'),
    "rows behind a link to a folder": SUITE.replace('"train.jsonl"', '"links/rows.jsonl"'),
    "a link in a folder": SUITE.replace('"train.jsonl"', '"folder"'),
    "held-out rows": SUITE.replace('"heldout.jsonl"', '["heldout.jsonl", "../../outside/rows.jsonl"]'),
    "replay": SUITE + '[[general]]\ndata = "heldout.jsonl"\nreplay = "../../outside/rows.jsonl"\n',
    "outputs": SUITE
    + '[[general]]\nname = "x"\noutputs = { base = "../../outside/*.jsonl", adapter = "train.jsonl" }\n',
    "a task": SUITE + '[[general]]\nlm_eval = "../../outside/task.yaml"\n',
    "a schema": SUITE + 'answer = { schema = "../../outside/schema.json" }\n',
    "a model": SUITE.replace('"embedded"', '"../../outside/model"'),
    "a model by its whole path": SUITE.replace('"embedded"', '"{outside}/model"'),
    "a model behind a link": SUITE.replace('"embedded"', '"./model"'),
    "the code of a metric": SUITE + 'gate = { metric = "python:../../outside/code.py:score" }\n',
    "a metric's folder": SUITE + 'gate = { metric = "evaluate:{outside}" }\n',
    "a metric of a general suite": SUITE
    + '[[general]]\ndata = "heldout.jsonl"\nmetric = "python:../../outside/code.py:f"\n',
}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside a project, with what a suite in that may want, and links to it in the suite's folder."""
    outside, folder = tmp_path / "outside", tmp_path / "project" / "colours"
    (outside / "model").mkdir(parents=True)
    folder.mkdir(parents=True)
    (folder / "folder").mkdir()
    for name, first in (("train.jsonl", 0), ("heldout.jsonl", 1000)):
        (folder / name).write_text(rows(first, 60))
    (outside / "rows.jsonl").write_text(rows(2000, 60))
    (outside / "model" / "config.json").write_text("{}")
    (outside / "model" / "model.safetensors").touch()
    (outside / "code.py").write_text(CANARY)
    (outside / "task.yaml").write_text("task: x\n")
    (outside / "schema.json").write_text("{}")
    for link, target in {
        "link.jsonl": "rows.jsonl",
        "links": "",
        "model": "model",
        "folder/more.jsonl": "rows.jsonl",
    }.items():
        (folder / link).symlink_to(outside / target)
    return outside


def _write(outside: Path, text: str) -> tuple[Path, Path]:
    root = outside.parent / "project"
    file = root / "colours" / suite.FILE
    file.write_text(text.replace("{outside}", str(outside)))
    return file, root


@pytest.mark.attack(15)
@pytest.mark.parametrize("what", OUTSIDE)
def test_no_path_leads_out_of_the_project(what: str, outside: Path) -> None:
    """Whatever a suite names lies inside the project, links resolved, or is refused; nothing of it is run."""
    with pytest.raises(SuiteError, match=r"leads out of .*PYTEST_FINETUNE_PATHS=") as caught:
        suite.load(*_write(outside, OUTSIDE[what]))
    assert str(caught.value).startswith(f"{outside.parent}/project/colours/suite.toml: ")
    assert not (outside / "canary").exists()


@pytest.mark.attack(15)
@pytest.mark.parametrize("what", OUTSIDE)
def test_a_path_is_allowed_by_whoever_runs_it(what: str, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder outside may be named where the environment says so, and that one only."""
    monkeypatch.setenv(suite.PATHS, f"/nowhere{os.pathsep}{outside}")
    suite.load(*_write(outside, OUTSIDE[what]))
    monkeypatch.setenv(suite.PATHS, f"{outside}-not")
    with pytest.raises(SuiteError, match="leads out of"):
        suite.load(*_write(outside, OUTSIDE[what]))


@pytest.mark.attack(15)
def test_links_in_a_circle_are_refused(outside: Path) -> None:
    """A link that leads to itself is one line."""
    (outside.parent / "project" / "colours" / "loop.jsonl").symlink_to("loop.jsonl")
    with pytest.raises(SuiteError, match=r"'loop\.jsonl'"):
        suite.load(*_write(outside, SUITE.replace('"train.jsonl"', '"loop.jsonl"')))


@pytest.mark.attack(15)
@pytest.mark.parametrize("reference", ["file:///etc/hostname", "http://127.0.0.1:9/x", "#/gone", "other.json"])
def test_a_schema_fetches_nothing(reference: str, outside: Path) -> None:
    """What a JSON Schema refers to stands in it; nothing is read from elsewhere for it."""
    text = SUITE + f'answer = {{ schema = {{ "$ref" = "{reference}" }} }}\n'
    with pytest.raises(SuiteError, match="leads out of it, and nothing is fetched"):
        suite.load(*_write(outside, text))


@pytest.mark.attack(15)
@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"x": {"$dynamicRef": "http://127.0.0.1:9/x"}}},
        {"$ref": "#/rest/x", "rest": {"x": {"not": {"$ref": "http://127.0.0.1:9/x"}}}},
        {"$ref": "#/items/x", "items": True},
    ],
)
def test_no_schema_is_fetched_from_anywhere_in_one(schema: dict[str, object], tmp_path: Path) -> None:
    """Nor where no keyword has a schema, nor by a reference of another kind."""
    with pytest.raises(SuiteError, match="leads out of it, and nothing is fetched"):
        suite.answer_schema(tmp_path / suite.FILE, tmp_path, schema)


TEXT = {"type": "string"}


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"$anchor": "a", **TEXT}}, "properties": {"x": {"$ref": "#a"}, "y": {"$ref": "#/$defs/a"}}},
        {
            "$id": "https://example.com/s",
            "$defs": {"a": {"$id": "a", "$defs": {"b": TEXT}, "items": {"$ref": "#/$defs/b"}}},
            "items": {"$ref": "a"},
        },
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"a": {"$id": "#a", **TEXT}},
            "items": {"$ref": "#a"},
        },
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "id": "https://example.com/s",
            "definitions": {"a": TEXT},
            "items": {"$ref": "https://example.com/s#/definitions/a"},
        },
        {"properties": {"x": {"enum": [{"$ref": "no reference"}]}, "y": {"$ref": "#"}}},
    ],
)
def test_what_a_schema_refers_to_in_itself_is_found(schema: dict[str, object], tmp_path: Path) -> None:
    """References go by the names that the schema's own draft gives its parts."""
    assert json.loads(suite.answer_schema(tmp_path / suite.FILE, tmp_path, schema)) == schema


@pytest.mark.attack(15)
def test_paths_inside_the_project_are_fine(outside: Path) -> None:
    """`..` and links that stay inside are no fault."""
    root = outside.parent / "project"
    (root / "shared").mkdir()
    (root / "shared" / "rows.jsonl").write_text(rows(3000, 60))
    (root / "colours" / "inner.jsonl").symlink_to(root / "shared" / "rows.jsonl")
    text = SUITE.replace('"train.jsonl"', '["../shared/rows.jsonl", "inner.jsonl", "../shared"]')
    assert len(suite.load(*_write(outside, text)).train) == 3


@pytest.mark.attack(15)
def test_a_project_may_lie_behind_a_link(outside: Path, tmp_path: Path) -> None:
    """Links within a folder of data are followed from where that folder is, whatever the project is reached by."""
    root = outside.parent / "project"
    (root / "shared.jsonl").write_text(rows(3000, 60))
    (root / "colours" / "folder" / "more.jsonl").unlink()
    (root / "colours" / "folder" / "shared.jsonl").symlink_to(root / "shared.jsonl")
    file, _ = _write(outside, SUITE.replace('"train.jsonl"', '"folder"'))
    link = tmp_path / "deep" / "er" / "link"
    link.parent.mkdir(parents=True)
    link.symlink_to(root)
    assert suite.load(link / "colours" / file.name, link).train == (str(root / "colours" / "folder"),)


HOSTILE = "a\r::error::x\n##[add-mask]y\x1b[31m\u202e"


@pytest.mark.attack(16, 17)
@pytest.mark.parametrize("github", ["true", ""])
def test_error_lines_of_a_run_do_not_act(
    github: str, pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's name and a row's text in a usage error, which pytest prints after all else, tell the runner nothing."""
    monkeypatch.setenv("GITHUB_ACTIONS", github)
    hostile = project / f"{HOSTILE}.jsonl"
    hostile.write_text(json.dumps({HOSTILE: HOSTILE}) + "\n")
    (project / "suite.toml").write_text(SUITE.replace('"train.jsonl"', json.dumps(hostile.name)))
    result = pytester.runpytest_subprocess("--finetune", "-p", "no:cacheprovider", "--color=no")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in result.stderr.str().split("\n") if line)
    assert "the row has no field 'prompt'" in line
    assert line.isprintable()
    assert not list(commands(result.stderr.str()))
