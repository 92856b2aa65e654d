"""The router: which conversations the canary's share makes the candidate's."""

import json
from typing import Any

from pytest_finetune import wire
from pytest_finetune.shadow import conversation
from pytest_finetune.shadow.candidate import Candidate


class Router:
    """Sends a share of conversations to the candidate; whoever is in a share is in every larger one.

    Args:
        candidate: who answers them.
        seed: another one draws other conversations.
    """

    def __init__(self, candidate: Candidate, seed: int) -> None:
        self.candidate = candidate
        self.share = 0.0
        self._seed = seed

    def candidates(self, body: bytes, header: str) -> dict[str, Any] | None:
        """Return a request whose conversation is the candidate's; None of any other, and of what is no request."""
        request = wire.request(body)
        if request is None:
            return None
        try:
            if conversation.drawn("canary", self._seed, conversation.name_of(request, header)) >= self.share:
                return None
            json.dumps(request)  # it is written once more to be sent, and may be too deep for that
        except (ValueError, RecursionError):
            return None
        return request
