"""Conversations: which requests belong together, and which of them are drawn."""

import hashlib
from typing import Any

from pytest_finetune import digest


def name_of(request: dict[str, Any], header: str) -> str:
    """Return the digest of a request's conversation.

    Args:
        request: its body.
        header: the caller's own name of the conversation; without one its first user message, which every later
            turn repeats, and its ``user`` tell it.
    """
    if header:
        return digest.of(["header", header])
    messages = request.get("messages")
    turns = messages if isinstance(messages, list) else []
    first = next((m for m in turns if isinstance(m, dict) and m.get("role") == "user"), request.get("prompt"))
    return digest.of([request.get("user"), first])


def drawn(purpose: str, seed: int, conversation: str) -> float:
    """Return a number from 0 to 1 that a conversation keeps: below a share it is drawn, below a larger one still."""
    read = hashlib.sha256(f"{purpose} {seed} {conversation}".encode()).digest()[:8]
    return int.from_bytes(read) / 2**64
