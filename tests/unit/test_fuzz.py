"""Whatever stands in a file that somebody wrote, a user is told one line that names it, and never a traceback."""

import json
import tomllib
from pathlib import Path
from typing import Any

import fuzzing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_finetune import cli

DEEP = 3000
EXAMPLES = {"run": 4}  # each is drawn as a page of HTML, and more
# What may stand in the place of any value, as text of either language.
BOTH = (
    *("-1", "0", "1.5", "1e400", "-0.0", "9" * 30, "9" * 5000, "true", '""', "[]", "[[]]", '["a", "a"]', "{}"),
    *(
        "[" * DEEP + "]" * DEEP,
        '"\\u0000"',
        '"a\\u0000b"',
        '"\\n::error::x##[x]"',
        '"\\u202e\\u001b[31m"',
        f'"{"x" * 100_000}"',
    ),
    *('".."', '"../x"', '"/"', '"/etc/passwd"', '"~"', f'"{"a" * 300}"', f'"{"a/" * 3000}"', '"*"', '"**x*"', '"--x"'),
)
TOML = (
    *(
        "nan",
        "-inf",
        "0x" + "f" * 5000,
        "1979-05-27",
        "07:32:00",
        "{a=" * 500 + "1" + "}" * 500,
        '["(", "x{99999999999}"]',
    ),
    *(
        '{ "$ref" = "#/gone" }',
        '{ "$ref" = "file:///etc/passwd" }',
        '{ type = "none" }',
        '"python:../x.py:f"',
        '"python:"',
    ),
    *('"regex:("', '"regex:x{99999999999}"', '"numeric:nan"', '"evaluate:/etc"', '"hub:x"', '"\\U0001F600"'),
)
JSON = ("NaN", "-Infinity", "null", '"\\ud800"', '{"a":' * DEEP + "1" + "}" * DEEP, "9" * 400, '{"a": {}}')


def text(value: Any, is_toml: bool) -> str:
    """Return plain data as TOML (one value) or JSON; a Raw one as it stands."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        sign = " = " if is_toml else ": "
        return "{" + ", ".join(f"{json.dumps(key)}{sign}{text(one, is_toml)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(text(one, is_toml) for one in value) + "]"
    return json.dumps(value)


class Raw(str):
    """Text of a value."""

    __slots__ = ()


@st.composite
def spoiled(draw: st.DrawFn, target: str) -> bytes:
    """Return a target's right file with one or two values changed, gone or added, or with some of its bytes changed."""
    name, _, good = fuzzing.TARGETS[target]
    is_toml = name.endswith(".toml")
    if name.endswith((".toml", ".json", ".jsonl")) and draw(st.integers(0, 3)):
        document = tomllib.loads(good.decode()) if is_toml else json.loads(good.splitlines()[0])
        for _ in range(draw(st.integers(1, 2))):
            _spoil(draw, document, (*BOTH, *(TOML if is_toml else JSON)))
        if is_toml:
            return "".join(f"{json.dumps(key)} = {text(one, True)}\n" for key, one in document.items()).encode()
        return text(document, False).encode() + b"\n"
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at, end = (draw(st.integers(0, len(content))) for _ in range(2))
        content[at : max(at, min(end, at + 20))] = draw(st.sampled_from(fuzzing.WORDS) | st.binary(max_size=8))
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    return bytes(content) if encoding == "utf-8" else content.decode("utf-8", "replace").encode(encoding)


def _spoil(draw: st.DrawFn, document: Any, values: tuple[str, ...]) -> None:
    """Change one place of a document."""
    places: list[tuple[Any, Any]] = []
    stack = [document]
    while stack:
        held = stack.pop()
        inner = list(held.items() if isinstance(held, dict) else enumerate(held))
        places += [(held, key) for key, _ in inner]
        stack += [value for _, value in inner if isinstance(value, (dict, list))]
    if not places:
        return
    held, key = draw(st.sampled_from(places))
    match draw(st.sampled_from(["change", "change", "change", "remove", "add"])):
        case "remove":
            del held[key]
        case "add" if isinstance(held, dict):
            held[draw(st.text(max_size=5).filter(str.isprintable))] = Raw(draw(st.sampled_from(values)))
        case _:
            held[key] = Raw(draw(st.sampled_from(values)))


@pytest.mark.fault(22)
@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_mistakes_are_one_line(target: str, tmp_path: Path) -> None:
    """A file with mistakes in it is read, or refused in one line of no great length that names it."""

    @settings(max_examples=EXAMPLES.get(target, 60), suppress_health_check=list(HealthCheck))
    @given(spoiled(target))
    def reads(content: bytes) -> None:
        fuzzing.check(target, content, tmp_path)

    fuzzing.check(target, fuzzing.TARGETS[target][2], tmp_path)
    reads()


ONE_LINE = {  # what was found once, each of which was a traceback, a page of text, or read as if it were right
    "a date": (
        "suite",
        fuzzing.SUITE.replace(b'"embedded"', b"1979-05-27"),
        'suite.toml: model = "1979-05-27": must be of type string',
    ),
    "no number": ("suite", fuzzing.SUITE.replace(b"margin = 0.1", b"margin = nan"), "gate.margin: nan, infinite"),
    "no limit": ("suite", fuzzing.SUITE.replace(b"epochs = 4", b"epochs = inf"), "training.epochs: nan, infinite"),
    "many digits": ("suite", b"model = " + b"9" * 5000, "suite.toml: not valid TOML: Exceeds the limit"),
    "depth": ("suite", b"model = " + b"[" * DEEP + b"]" * DEEP, "suite.toml: not valid TOML: maximum recursion"),
    "depth of keys": ("suite", b"a" + b".a" * DEEP + b" = 1", "suite.toml: not valid TOML: maximum recursion"),
    "a page": ("suite", fuzzing.SUITE.replace(b'"classification"', b'"' + b"x" * 100_000 + b'"'), "x…: must be one of"),
    "NUL": ("suite", fuzzing.SUITE.replace(b'train = "', b'train = "\\u0000'), "no path is so called: embedded null"),
    "a long name": ("suite", fuzzing.SUITE.replace(b'train = "', b'train = "' + b"a" * 300), "File name too long"),
    "a folder": (
        "suite",
        fuzzing.SUITE.replace(b'{ type = "string" }', b'"."'),
        "[answer] schema: no valid JSON Schema",
    ),
    "a metric": (
        "suite",
        fuzzing.SUITE.replace(b'"exact_match"', b'"exat"'),
        "suite.toml: metric 'exat' is not one of",
    ),
    "a tolerance": ("suite", fuzzing.SUITE.replace(b'"exact_match"', b'"numeric:nan"'), "numeric:nan': no tolerance"),
    "a pattern": ("suite", fuzzing.SUITE.replace(b'"exact_match"', b'"regex:x{99999999999}"'), "no regular expression"),
    "general": (
        "policy",
        b'model = "x"\ndata = { train = "a", heldout = "b" }\ngeneral = [{}]',
        "general.0 needs one of",
    ),
    "refusals": (
        "shadow",
        b'privacy.patterns = ["x{99999999999}"]',
        "[privacy] patterns = 'x{99999999999}': no regular",
    ),
    "a matrix": ("matrix", b"[" * DEEP + b"]" * DEEP, "no matrix; write one with"),
    "a way out": ("matrix", b'{"include": [{"suite": "a", "path": "../../b"}]}', "no cell that a plan would write"),
    "evidence": ("evidence", b"[" * DEEP + b"]" * DEEP, "holds no evidence.json that can be read"),
    "a move": ("moves", b"[" * DEEP + b"]" * DEEP + b"\n", "a line is no move"),
    "a task": ("task", b"task: mine\ndataset_kwargs: x\n", "task.yaml: dataset_kwargs is str, not a table"),
    "a deep task": ("task", b"task: " + b"[" * DEEP + b"]" * DEEP, "task.yaml: no valid YAML: maximum recursion"),
    "a run": ("run", b"[" * DEEP + b"]" * DEEP, "run.json: not JSON"),
}


@pytest.mark.parametrize("mistake", ONE_LINE)
def test_mistakes_that_were_found(mistake: str, tmp_path: Path) -> None:
    """Each says what is wrong, and where."""
    target, content, said = ONE_LINE[mistake]
    assert said in fuzzing.check(target, content, tmp_path)


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("suite", ["lint", "suite.toml"]),
        ("suite", ["curate", "."]),
        ("run", ["report", "run.json"]),
        ("run", ["compare", "run.json", "run.json"]),
        ("matrix", ["verdict", "--matrix", "matrix.json", "--evidence", "."]),
        ("cell", ["merge", "."]),
        ("cell", ["run-cell", "cell.json"]),
        ("run", ["promote", "run.json", "--out", "releases"]),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[" * DEEP + b"]" * DEEP, b'{"a": NaN}\r::error::x'])
def test_commands_say_it_in_one_line(
    target: str,
    command: list[str],
    content: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A command that is given such a file prints one line of which nothing acts, and ends with a usage error."""
    name = fuzzing.TARGETS[target][0]
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    code = cli.main(command)
    captured = capsys.readouterr()
    (line,) = (captured.out + captured.err).splitlines()
    assert code == (1 if command[0] == "lint" else 4)
    assert name in line or command[0] == "merge"
    assert line.isprintable()
