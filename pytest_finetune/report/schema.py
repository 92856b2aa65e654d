"""The JSON Schema of a run, made from the records: `python -m pytest_finetune.report.schema` writes it."""

import dataclasses
import inspect
import json
import types
import typing
from typing import Any

from pytest_finetune import digest
from pytest_finetune.records import RunRecord

FILE = digest.PACKAGE / "run.schema.json"
SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def document() -> dict[str, Any]:
    """Return the schema; every field of every record is required."""
    definitions: dict[str, Any] = {}
    top = _schema(RunRecord, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run of pytest-finetune (--finetune-report)",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        name = typing.cast(type, kind).__name__
        if name not in definitions:
            definitions[name] = {}  # a record may hold itself
            definitions[name] = _record(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if kind in SCALARS:
        return {"type": SCALARS[kind]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1], definitions)}
    if origin is tuple and args[1] is Ellipsis:
        return {"type": "array", "items": _schema(args[0], definitions)}
    if origin is tuple:
        items = [_schema(arg, definitions) for arg in args]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(arg, definitions) for arg in args]}
    raise TypeError(f"records hold no {kind}")


def _record(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {
        "description": (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "),
        "type": "object",
        "additionalProperties": False,
        "required": list(hints),
        "properties": {name: _schema(hint, definitions) for name, hint in hints.items()},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(document(), indent=1) + "\n")
