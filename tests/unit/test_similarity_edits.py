"""Near by one small edit, and indices made of indices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.similarity import Index

TEXT = "where can i see my new card"
EDITED = [
    "where can i see my card",
    "where can i please see my new card",
    "where can i see my new crad",
    "Where can I see my new cards?",
]
OTHER = [
    "where can i use my new card",
    "where can i see my new card and pin",
    "where can you see my old card",
    "see card",
    "where can i see my 2 card",
]


def test_one_small_edit_is_near_whatever_the_length() -> None:
    """A word more or less, a letter swapped or more, is near; another word, two words more, another number is not."""
    assert Index([TEXT], 0.95, edits=True).of(EDITED).keys() == set(range(len(EDITED)))
    assert not Index([TEXT], 0.95, edits=True).of(OTHER)
    assert not Index([TEXT], 0.95).of(EDITED[:3])


texts = st.lists(st.sampled_from(["see", "my", "new", "card", "pin", "7", "8"]), max_size=7).map(" ".join)


@pytest.mark.slow
@given(st.lists(texts, max_size=12), st.lists(texts, max_size=12), st.data())
def test_part_of_an_index_is_the_index_of_the_part(ours: list[str], theirs: list[str], data: st.DataObject) -> None:
    """``only`` and queries that are an index answer as an index of those texts, and plain queries, do."""
    rows = data.draw(st.permutations(range(len(ours))).map(lambda order: order[: len(order) // 2 + 1]))
    part = Index(ours, edits=True).only(rows)
    fresh = Index([ours[row] for row in rows], edits=True)
    assert part.earlier() == fresh.earlier()
    assert part.of(Index(theirs, edits=True)) == fresh.of(theirs)
