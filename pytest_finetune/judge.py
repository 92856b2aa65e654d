"""The judge: looks at growing data until every claim of a verdict is settled, and no further."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_finetune import gate
from pytest_finetune.gate import Pair, Rule
from pytest_finetune.records import Claim, Kind


@dataclass(frozen=True, slots=True)
class Question:
    """One claim to be settled.

    Args:
        kind: what it is for.
        name: how reports call it.
        data: the data sets it is about, by their numbers.
        bound: what the true value must lie above.
        slice: the group of rows it is about; empty: all.
    """

    kind: Kind
    name: str
    data: tuple[int, ...]
    bound: float
    slice: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """The claims, each as it stood when it was settled, and what was measured of each data set."""

    claims: tuple[Claim, ...]
    pairs: dict[int, Pair]


def settle(
    questions: Sequence[Question],
    measure: Callable[[int, int], Pair],
    rule: Rule,
    expect: Callable[[int, int], None] = lambda number, look: None,
) -> Settled:
    """Settle claims at the first look that can.

    A claim that is proven or refuted at one look stays so; data sets that no open claim is about are
    measured no further. One refuted claim settles the verdict, and so all.

    Args:
        questions: the claims.
        measure: returns what is known of a data set (by number) after a look (from 1 to ``rule.looks``).
        rule: how often the verdict may be wrong.
        expect: told of each data set and look before the first of them is measured, so that all are asked at once.
    """
    claims: dict[int, Claim] = {}
    pairs: dict[int, Pair] = {}
    for look in range(1, rule.looks + 1):
        unsettled = [i for i in range(len(questions)) if i not in claims or claims[i].outcome == "INCONCLUSIVE"]
        numbers = sorted({number for i in unsettled for number in questions[i].data})
        for number in numbers:
            expect(number, look)
        for number in numbers:
            pairs[number] = measure(number, look)
        for i in unsettled:
            asked = questions[i]
            own = [pairs[number] for number in asked.data]
            if asked.slice:
                if look < rule.looks and not all(asked.slice in pair.first.slices for pair in own):
                    continue  # no row of it has been measured yet
                own = [gate.sliced(pair, asked.slice) for pair in own]
            claims[i] = gate.claim(asked.kind, asked.name, own, asked.bound, rule, look)
        outcomes = {claim.outcome for claim in claims.values()}
        if "FAIL" in outcomes or (outcomes == {"PASS"} and len(claims) == len(questions)):
            break
    return Settled(tuple(claims[i] for i in sorted(claims)), pairs)
