"""Sealed text: plain data as JSON with its digest, so that one changed bit of a file shows."""

import json
from typing import Any

from pytest_finetune import digest


def seal(value: Any) -> str:
    """Return plain data as sealed text."""
    return json.dumps({"sha256": digest.of(value), "value": value})


def unseal(text: str) -> Any:
    """Return the plain data in a sealed text.

    Raises:
        ValueError: it is not, byte for byte, what was sealed.
    """
    try:
        value = json.loads(text)["value"]
    except (KeyError, TypeError, RecursionError):
        raise ValueError("not sealed") from None
    if seal(value) != text:
        raise ValueError("its digest is not that of its text")
    return value
