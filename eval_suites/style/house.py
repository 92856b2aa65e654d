"""What a note is worth: the share of its words and marks that stand where the house has them."""

import re
from difflib import SequenceMatcher


def in_order(prediction: str, reference: str) -> float:
    """Return the share of words and marks that both have in the same order, from 0 to 1."""
    ours, theirs = (re.findall(r"\w+|[^\w\s]", text) for text in (prediction, reference))
    return SequenceMatcher(None, ours, theirs, autojunk=False).ratio()
