"""The router: which conversations the canary's share makes the candidate's."""

from typing import Any

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

    def is_candidates(self, request: dict[str, Any], header: str) -> bool:
        """Whether a request's conversation is the candidate's."""
        return conversation.drawn("canary", self._seed, conversation.name_of(request, header)) < self.share
