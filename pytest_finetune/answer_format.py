"""The answer format in words, from what a suite says of its answers."""

import json
from typing import Any


def instruction(labels: tuple[str, ...], schema: str) -> str:
    """Return the sentence that tells a model how to answer; empty where the suite says nothing.

    Args:
        labels: the answers there are, or none.
        schema: JSON Schema of the answer as text, or empty.
    """
    if labels:
        return f"Answer with one of these and nothing else: {', '.join(labels)}."
    if not schema:
        return ""
    document = json.loads(schema)
    if "properties" not in document:
        return f"Answer with JSON only, valid by this JSON Schema: {json.dumps(document)}"
    required = set(document.get("required", document["properties"]))
    fields = ", ".join(
        f'"{name}" ({_values(value)}{"" if name in required else ", optional"})'
        for name, value in document["properties"].items()
    )
    return f"Answer with a JSON object and nothing else, with the keys {fields}."


def _values(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "any value"
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    kind = schema.get("type", "any value")
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    return f"{text} like {schema['pattern']}" if "pattern" in schema else text
