"""The canary: conversations move to the candidate in steps, and all go back as soon as a hard gate breaks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_finetune.shadow.config import Canary
from pytest_finetune.shadow.exchange import Exchange, Pair, Reply, Side
from pytest_finetune.shadow.spool import Move, Spool

Served = Sequence[tuple[Exchange, Reply]]
Broken = Callable[[Sequence[Pair]], str]  # of what was served so far: which hard gate is refuted, or nothing
NOT_ASKED = Reply(0, "not asked", 0.0, 0.0)
GROWTH = 0.02  # of the evidence, for which it is looked at again
SIDES: tuple[Side, Side] = ("candidate", "primary")
START, NEXT, BACK = "started", "step passed", "rolled back"


def matched(candidates: Served, primaries: Served) -> list[Pair]:
    """Return each exchange that the candidate served, beside the primary's next one in time that no other has.

    Who serves a conversation is drawn by a hash, so that two exchanges of one time differ by who served them alone.
    Where the primary has none left, as at a share of 1, there is nothing to compare with, and only the candidate's
    errors count.
    """
    left = sorted(primaries, key=lambda one: one[0].time, reverse=True)
    pairs = []
    for exchange, reply in sorted(candidates, key=lambda one: one[0].time):
        while left and left[-1][0].time < exchange.time:
            left.pop()
        pairs.append(Pair(exchange, left.pop()[1] if left else NOT_ASKED, reply))
    return pairs


@dataclass
class Watch:
    """Looks at a candidate's canary, and moves it on or back.

    Args:
        candidate: whose.
        settings: the steps, and how much is seen of each.
        broken: says which hard gate is refuted.
    """

    candidate: str
    settings: Canary
    broken: Broken
    _looked_at: int = -1

    def share(self, spool: Spool, now: float) -> float:
        """Return the share of conversations that is the candidate's now, after a move if one is due.

        The evidence since the canary was started is judged as one, however often it is looked at.
        """
        moves = spool.moves(self.candidate)
        if not moves or not moves[-1].share:
            self._looked_at = -1
            return 0.0
        started = next(move.time for move in reversed(moves) if move.why.startswith(START))
        answers = spool.answers("candidate", self.candidate, started)
        if answers > self._looked_at * (1 + GROWTH):
            self._looked_at = answers
            seen, others = (spool.served(side, self.candidate, started) for side in SIDES)
            if why := self.broken(matched(seen, others)):
                return self._move(spool, Move(now, self.candidate, 0.0, f"{BACK}: {why}"))
        last, later = moves[-1], [step for step in self.settings.steps if step > moves[-1].share]
        rested = now - last.time >= self.settings.minutes * 60
        if later and rested:
            answers = spool.answers("candidate", self.candidate, last.time)
            if answers >= self.settings.exchanges:
                return self._move(spool, Move(now, self.candidate, later[0], f"{NEXT}: {answers} answers"))
        return last.share

    def _move(self, spool: Spool, move: Move) -> float:
        spool.move(move)
        return move.share
