"""Redaction: the secrets of this process's environment are taken out of what is raised, shown or saved."""

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

MARK = "[redacted]"
LEAST = 8  # characters of a secret: what is shorter stands in texts by chance
NAMES = re.compile(
    r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|JWT|_PWD|(?:^|_)(?:PAT|AUTH))S?(?:_|$)", re.IGNORECASE
)
IN_URL = re.compile(r"://[^\s/@]*?:([^\s/@]+)@")


def is_secret(name: str) -> bool:
    """Whether a variable's name says that it holds a secret."""
    return NAMES.search(name) is not None


def redacted(value: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """Return a text, or data with texts in it, without an environment's secrets; this process's own unless told."""
    found = pattern(environment)
    return in_texts(value, lambda text: found.sub(MARK, text)) if found else value


def holder(value: Any) -> str:
    """Return the name of the variable whose secret is in a text, or in data with texts in it; nothing where none is."""
    if redacted(value) == value:
        return ""
    return next(name for name, held in os.environ.items() if redacted(value, {name: held}) != value)


def pattern(environment: Mapping[str, str] = os.environ) -> re.Pattern[str] | None:
    """Return what finds the secrets of an environment: as they are, in base64, in URLs, in JSON; None without any."""
    return _pattern(frozenset(_secrets(environment)))


def in_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return plain data of which every text is changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(in_texts(item, change) for item in value)
    if isinstance(value, dict):
        return {change(key): in_texts(item, change) for key, item in value.items()}
    return value


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        yield from IN_URL.findall(value)
        if is_secret(name) and not os.path.exists(value):  # noqa: PTH110  # no Path takes whatever a value holds
            yield value
            yield from value.splitlines()  # of a private key each, since reports show texts on one line


@lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    forms = {form for secret in secrets if len(secret) >= LEAST for form in _forms(secret)}
    return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None


def _forms(secret: str) -> Iterator[str]:
    yield from (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])
    yield from (quote(secret), quote(secret, safe=""), quote_plus(secret))
    held = secret.encode(errors="surrogateescape")
    for before in range(3):  # bytes that stand before it in a group of three
        text = base64.b64encode(bytes(before) + held).decode()
        # Characters of which some bits are its neighbours' stay.
        own = text[(0, 2, 3)[before] : (before + len(held)) * 8 // 6]
        yield from (own, own.translate({ord("+"): "-", ord("/"): "_"}))
