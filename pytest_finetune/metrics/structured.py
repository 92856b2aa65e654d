"""Metrics on JSON answers: validity against a schema, and the share of right fields."""

import json
from functools import cache
from typing import Any


def json_valid(prediction: str, reference: str, schema: str = "{}") -> float:
    """1 if the prediction is JSON and valid by the JSON Schema (given as text)."""
    try:
        return float(_validator(schema).is_valid(json.loads(prediction)))
    except (ValueError, RecursionError):
        return 0.0


def json_fields(prediction: str, reference: str) -> float:
    """The share of the reference's top-level fields that the prediction has right; 0 if not JSON."""
    try:
        ours, theirs = json.loads(prediction), json.loads(reference)
    except (ValueError, RecursionError):
        return 0.0
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return float(ours == theirs)
    names = ours.keys() | theirs.keys()
    right = sum(name in ours and name in theirs and ours[name] == theirs[name] for name in names)
    return right / len(names) if names else 1.0


@cache
def _validator(schema: str) -> Any:
    import jsonschema  # 0.2 s to import, and only this metric and suite.toml need it
    from referencing.jsonschema import EMPTY_REGISTRY

    document = json.loads(schema)
    # Without a registry of its own it would fetch, from any address or file, what the schema refers to.
    return jsonschema.validators.validator_for(document)(document, registry=EMPTY_REGISTRY)
