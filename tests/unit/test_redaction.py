"""Secrets of the environment: which values are, in which forms they are found, and where they must not show."""

import base64
import json
import math
import os
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_finetune import errors
from pytest_finetune.redaction import LEAST, MARK, holder, is_secret, pattern, redacted
from pytest_finetune.shadow.config import Privacy
from pytest_finetune.shadow.redact import Redactor

CANARY = 'c4nary/+ "quoted"?&=é-0123456789'


@pytest.fixture(autouse=True)
def canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with a secret."""
    monkeypatch.setenv("SOME_API_KEY", CANARY)


@pytest.mark.attack(19)
@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("encoded", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_is_found_wherever_it_begins(encoded: Callable[[bytes], bytes], before: int) -> None:
    """A secret amid other bytes that are encoded as a whole leaves no more of itself than some bits at either end."""
    text = encoded(b"x" * before + CANARY.encode() + b" and more").decode()
    start, end = redacted(text).split(MARK)
    assert len(start) <= math.ceil(before * 8 / 6)
    assert len(end.rstrip("=")) <= math.ceil(len(" and more") * 8 / 6) + 1


@pytest.mark.attack(19)
@pytest.mark.parametrize(
    "text",
    [
        CANARY,
        json.dumps(CANARY),
        repr(CANARY),
        quote(CANARY),
        quote(CANARY, safe=""),
        f"https://host/?key={CANARY}&x=1",
    ],
)
def test_other_forms_are_found(text: str) -> None:
    """A secret is found as it is, in JSON, in Python's own notation and in URLs."""
    assert MARK in redacted(f"before {text} after")
    assert "0123456789" not in redacted(f"before {text} after")


@given(st.text(min_size=LEAST), st.binary(max_size=7), st.binary(max_size=7))
def test_whatever_a_secret_holds(secret: str, before: bytes, after: bytes) -> None:
    """Any value is found, alone and in base64."""
    assume(not os.path.exists(secret))  # noqa: PTH110  # as "////////" does
    found = pattern({"X_TOKEN": secret})
    held = secret.encode(errors="surrogateescape") if secret.isprintable() else None
    assert found
    assert secret not in found.sub("", f"a{secret}")
    if held is not None:
        assert found.search(base64.b64encode(before + held + after).decode())


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *(
            (name, True)
            for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "APIKEY", "db_password", "MYSQL_PWD", "GH_PAT")
        ),
        *((name, False) for name in ("PWD", "PATH", "TOKENIZERS_PARALLELISM", "KEYBOARD", "COMPAT", "OLDPWD")),
    ],
)
def test_names(name: str, secret: bool) -> None:
    """A variable is a secret by a whole word of its name."""
    assert is_secret(name) == secret


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory) -> None:
    """Short values and files are in texts for reasons of their own; a password in any URL is a secret."""
    for name, value in (("A_TOKEN", "red"), ("KEY_FILE", str(tmp_path)), ("URL", "postgres://me:pass-word@host/db")):
        monkeypatch.setenv(name, value)
    text = f"red {tmp_path} host me pass-word"
    assert redacted(text) == text.replace("pass-word", MARK)
    assert holder([{"said": text}]) == "URL"
    assert not holder([{"said": text.replace("pass-word", "")}])


@pytest.mark.attack(19)
def test_errors_hold_no_secret() -> None:
    """Every error of ours, also one that quotes a library, is without; and nothing is cut before it was looked at."""
    assert str(errors.EngineError(f"cannot reach https://x/?k={CANARY}")) == f"cannot reach https://x/?k={MARK}"
    assert CANARY[:8] not in errors.one_line("x" * (300 - 12) + CANARY)
    assert CANARY[:8] not in errors.shortened("x" * (errors.QUOTED - 12) + CANARY)


@pytest.mark.attack(19)
def test_shadow_keeps_no_secret_of_its_own() -> None:
    """What the proxy's environment holds is not written with traffic either, whatever patterns are set."""
    assert Redactor(Privacy(usual=False)).plain({"a": [f"say {CANARY}"]}) == {"a": [f"say {MARK}"]}
