"""Near-duplicates: what is found is as near as is said; copies always, other numbers or orders never."""

import random
import re
import subprocess
import sys
import unicodedata
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.similarity import END, Index

WORDS = (
    "where",
    "parcel",
    "card",
    "please",
    "refund",
    "my",
    "is",
    "transfer",
    "the",
    "late",
    "account",
    "退款",
    "größe",
)
QUESTION = "Could you tell me where my new card is?"
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).map(" ".join)
texts = st.one_of(sentences, st.text(max_size=40), st.text("ab 1-?", max_size=12))


def tokens(text: str) -> set[tuple[str, ...]]:
    """Return the token set in plain Python: runs of three characters, each with all the numbers."""
    kinds = [(c, unicodedata.category(c)) for c in text.casefold() if c not in "'’"]
    words = "".join(" " if re.match("P|Z|Cc", kind) else c for c, kind in kinds if kind != "Cf").split(" ")
    marked = [END, " ", *" ".join(filter(None, [*words, END]))]
    numbers = re.findall(r"\d+|[-+*/^=<>−×÷](?=\W*\d)", text)
    return {(*marked[i : i + 3], *numbers) for i in range(len(marked) - 2)}


def jaccard(a: str, b: str) -> float:
    """Return the Jaccard of two token sets."""
    ours, theirs = tokens(a), tokens(b)
    return len(ours & theirs) / len(ours | theirs)


@given(st.lists(texts, max_size=30), st.floats(0.3, 1))
def test_earlier_is_earlier_and_as_near_as_it_says(rows: list[str], threshold: float) -> None:
    """The index is of an earlier text, whose true Jaccard is the one stated and reaches the threshold."""
    for later, (earlier, similarity) in Index(rows, threshold).earlier().items():
        assert earlier < later
        assert similarity == pytest.approx(jaccard(rows[earlier], rows[later]))
        assert similarity >= threshold


@given(st.lists(texts, max_size=20), st.lists(texts, max_size=20))
def test_of_is_as_near_as_it_says(rows: list[str], queries: list[str]) -> None:
    """A query's text is as near as stated."""
    for query, (row, similarity) in Index(rows).of(queries).items():
        assert similarity == pytest.approx(jaccard(queries[query], rows[row]))
        assert similarity >= 0.8


@given(st.lists(texts, min_size=1, max_size=30))
def test_a_copy_is_always_found(rows: list[str]) -> None:
    """Each text of a list is found in it, and of a list twice over the second half."""
    assert [similarity for _, similarity in Index(rows).of(rows).values()] == [1.0] * len(rows)
    found = Index(rows * 2).earlier()
    assert all(found[i][1] == 1.0 for i in range(len(rows), 2 * len(rows)))


@pytest.mark.parametrize(
    "changed",
    [
        "could you tell me where my new card is",
        "COULD YOU TELL ME, WHERE MY  NEW CARD IS!",
        "Could you tell me whre my new card is?",
        "Could you tell me where my new cxard is?",
        "Could you please tell me where my new card is?",
        "Could you tell me where new card is?",
    ],
)
def test_small_changes_are_near(changed: str) -> None:
    """Case, punctuation, a typo, and a filler word added or dropped leave a text near."""
    assert Index([QUESTION]).of([changed]).keys() == {0}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Sort: 3 1 2", "Sort: 2 1 3"),
        ("Is the number 17 in the list an even number?", "Is the number 18 in the list an even number?"),
        ("What do I get when I add up 3 - 1 in this case?", "What do I get when I add up 3 + 1 in this case?"),
        ("Which of these numbers is larger: 67 or 73?", "Which of these numbers is larger: 73 or 67?"),
        (QUESTION, "Could you tell me where my new loan is?"),
        ("yes", "no"),
        ("", "no"),
        ("我想退款", "我要退款"),
    ],
)
def test_what_decides_the_answer_is_not_near(a: str, b: str) -> None:
    """Another number, sign or order of numbers, or another word in a short text, makes another question."""
    assert Index([a, b]).earlier() == {}


@given(st.lists(st.sampled_from(WORDS), min_size=2, max_size=60), st.randoms(use_true_random=False))
def test_another_order_is_not_near(words: list[str], chance: random.Random) -> None:
    """The same words in another order are never near, however long the text is."""
    shuffled = chance.sample(words, len(words))
    assert bool(Index([" ".join(words)]).of([" ".join(shuffled)])) == (shuffled == words)


@given(sentences, st.integers(0, 10**6), st.integers(0, 10**6))
def test_another_number_is_not_near(text: str, a: int, b: int) -> None:
    """Texts that differ in a number only are never near, however long they are."""
    assert bool(Index([f"{text} {a} {text}"]).of([f"{text} {b} {text}"])) == (a == b)


def test_crowds_cost_no_more_than_others() -> None:
    """10,000 equal texts, and 10,000 that differ in a number, are no 50 million comparisons."""
    found = Index(["Where is my parcel? It is late."] * 10_000).earlier()
    assert found == dict.fromkeys(range(1, 10_000), (0, 1.0))
    assert Index([f"Order {i}. My parcel is late." for i in range(10_000)]).earlier() == {}


def test_copies_are_found_in_a_crowd() -> None:
    """A copy is found among thousands of texts that differ from it in a letter or two."""
    crowd = [f"My name is {''.join(name)}. Could you tell me where my new card is?" for name in permutations("abcdefg")]
    assert Index(crowd).of(crowd[::7]) == {i: (7 * i, 1.0) for i in range(len(crowd[::7]))}


def test_every_process_finds_the_same() -> None:
    """Nothing hangs on the hash seed of a process."""
    code = (
        "from pytest_finetune.similarity import Index\n"
        "print(Index([f'{a} {b} order {i % 9} from the {c}' for i, (a, b, c) in enumerate(__import__('itertools')"
        ".product(['where is my', 'wheres my'], ['parcel', 'parcels', 'card'], ['shop', 'shops'] * 9))]).earlier())"
    )
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(outputs) == 1
    assert outputs != {b"{}\n"}
