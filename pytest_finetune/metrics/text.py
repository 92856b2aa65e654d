"""Metrics on text: each scores one prediction against one reference, from 0 to 1."""

import re
from collections import Counter
from collections.abc import Sequence

from pytest_finetune.errors import SuiteError, shortened


def normalise(text: str) -> str:
    """Return ``text`` with runs of white space folded and the ends stripped."""
    return " ".join(text.split())


def exact_match(prediction: str, reference: str) -> float:
    """1 if the two are the same text, white space folded."""
    return float(normalise(prediction) == normalise(reference))


def label_accuracy(prediction: str, reference: str) -> float:
    """1 if the two are the same label; case and a closing full stop do not count."""
    return float(_label(prediction) == _label(reference))


def contains(prediction: str, reference: str) -> float:
    """1 if the reference occurs in the prediction; case does not count."""
    return float(normalise(reference).casefold() in normalise(prediction).casefold())


def regex(prediction: str, reference: str) -> float:
    """1 if the reference, a regular expression, is found in the prediction."""
    try:
        return float(re.search(reference, prediction) is not None)
    except (re.error, OverflowError, RecursionError) as error:
        said = shortened(repr(reference))
        raise SuiteError(f"metric regex: reference {said}: no regular expression: {error}") from None


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the words the two share, as SQuAD scores answers (Rajpurkar 2016, arXiv 1606.05250)."""
    ours, theirs = _words(prediction), _words(reference)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * shared / (len(ours) + len(theirs))


def macro_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """The mean over the references' labels of each one's F1; other predictions count as misses.

    Source: Opitz and Burst 2019 (arXiv 1911.03347), the mean of F1 scores.
    """
    ours, theirs = [_label(p) for p in predictions], [_label(r) for r in references]
    right = Counter(t for o, t in zip(ours, theirs, strict=True) if o == t)
    told, known = Counter(ours), Counter(theirs)
    return sum(2 * right[label] / (told[label] + known[label]) for label in known) / len(known)


def numeric(prediction: str, reference: str, tolerance: float = 0.0) -> float:
    """1 if the last number in the prediction is within ``tolerance`` of the reference's."""
    ours, theirs = _number(prediction), _number(reference)
    return float(ours is not None and theirs is not None and abs(ours - theirs) <= tolerance)


def _label(text: str) -> str:
    return normalise(text).casefold().removesuffix(".")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _number(text: str) -> float | None:
    found = re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?", text)
    return float(found[-1].replace(",", "")) if found else None
