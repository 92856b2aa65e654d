"""TOML files that people write, validated by a JSON Schema: what is wrong is one line with file, key and remedy."""

import difflib
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytest_finetune.errors import SuiteError, shortened

MOST = (1 << 63) - 1  # of an integer, by TOML
LIMITS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
}


def read(file: Path, schema: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says, validated, without the defaults.

    Raises:
        SuiteError: naming the file, the key, the bad value and the remedy.
    """
    try:
        return parse(file, file.read_bytes(), schema)
    except OSError as error:
        raise SuiteError(f"{file}: cannot be read: {error.strerror}") from error


def parse(file: Path, content: bytes, schema: dict[str, Any]) -> dict[str, Any]:
    """Return what the bytes of a file say, as :func:`read` does; ``file`` is for messages only."""
    try:
        raw = tomllib.loads(content.decode("utf-8-sig"))
        _check_numbers(file, raw)
        _validate(file, raw, schema)
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"{file}: not valid TOML: {error}") from error
    return raw


def _check_numbers(file: Path, value: Any, place: tuple[str, ...] = ()) -> None:
    """Refuse numbers that are none: nan is within the limits of any schema, and nothing can be judged by it."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _check_numbers(file, inner, (*place, str(key)))
    elif isinstance(value, (int, float)) and not -MOST <= value <= MOST:
        raise SuiteError(f"{file}: {_named(place)}: nan, infinite or beyond 64 bits; write a finite number")


def _named(place: Iterable[object]) -> str:
    return shortened(".".join(map(str, place)))


def _validate(file: Path, raw: dict[str, Any], schema: dict[str, Any]) -> None:
    import jsonschema  # 0.2 s to import, and plain pytest runs never need it

    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(raw))
    if error is None:
        return
    place = _named(error.absolute_path)
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = shortened(sorted(set(error.instance) - set(known))[0])
        close = difflib.get_close_matches(unknown, known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        raise SuiteError(f"{file}: {f'[{place}] ' if place else ''}unknown key {unknown!r}; {remedy}")
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        hint = error.schema["properties"][missing].get("description", "")
        raise SuiteError(f"{file}: {f'[{place}] ' if place else ''}key {missing!r} is missing. {hint}".rstrip())
    value = json.dumps(error.instance, default=str)  # TOML has dates
    raise SuiteError(f"{file}: {place} = {shortened(value)}: {_reason(error)}")


def _reason(error: Any) -> str:
    """Say what a value should have been, without jsonschema's echo of the value."""
    wanted = error.validator_value
    if error.validator == "enum":
        return f"must be one of {', '.join(map(str, wanted))}"
    if error.validator == "type" and wanted == "object":
        return "must be a table, such as { key = value }"
    if error.validator == "type":
        return f"must be of type {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
    if error.validator == "anyOf":
        return "must be a file name or a list of file names"
    if error.validator == "pattern" and error.absolute_path[-1] == "revision":
        return "must be a commit of 40 hexadecimal digits, so that the base model cannot change unseen"
    if error.validator in LIMITS:
        return f"must be {LIMITS[error.validator]} {wanted}"
    return str(error.message)[-200:]
