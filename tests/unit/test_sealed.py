"""Sealed text: one changed bit shows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.sealed import seal, unseal

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_what_was_sealed_comes_back(value: object) -> None:
    """Any plain data is the same after its way through sealed text."""
    assert unseal(seal(value)) == value


@given(plain, st.data())
def test_every_flipped_bit_shows(value: object, data: st.DataObject) -> None:
    """Whichever bit of the text is flipped, it is sealed text no more."""
    raw = bytearray(seal(value), "utf-8")
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError):  # noqa: PT011  # of several kinds
        unseal(bytes(raw).decode("utf-8"))


@pytest.mark.parametrize("text", ["", "7", "{}", "[]", "[" * 100_000, json.dumps({"sha256": "", "value": 1})])
def test_other_text_is_not_sealed(text: str) -> None:
    """Whatever else a file holds is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011  # of several kinds
        unseal(text)
