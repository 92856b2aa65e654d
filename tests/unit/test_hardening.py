"""The tables of faults and attacks: a test for each row, and the page that names it."""

import hardening


def test_every_row_is_proven() -> None:
    """Each fault and each attack has a test, and no test proves a row that is not there."""
    assert {*hardening.proofs()} == {*hardening.ALL}


def test_page_is_written_from_the_tests() -> None:
    """The page names the tests as they are; `python tests/hardening.py` writes it."""
    assert hardening.page() == hardening.PAGE.read_text(encoding="utf-8")
