"""What the shadow keeps of live traffic: an exchange, and the answers of both sides to it."""

from dataclasses import dataclass
from typing import Any, Literal

Side = Literal["primary", "candidate"]


@dataclass(frozen=True, slots=True)
class Reply:
    """One side's answer to an exchange.

    ``error`` is empty, or says in one line why there is no answer (``HTTP 500``, ``timeout``, ...). Times are from
    sending the request: to the first byte of the body, and to its end. ``text_digest`` is the sha256 of the text with
    the tool calls, also where only digests are kept and both are empty. ``valid`` is whether the text fits the
    answer's JSON Schema (None: there is none), ``refused`` whether it declines; both are noted before redaction.
    Tokens are 0 where the server did not count them.
    """

    status: int
    error: str
    first_seconds: float
    seconds: float
    text: str = ""
    text_digest: str = ""
    characters: int = 0
    tool_calls: str = ""
    finish: str = ""
    answer_id: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    valid: bool | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """One sampled request; ``served`` is the side whose answer the user saw.

    ``request`` is its body as kept: redacted, or None where only digests are. ``redacted`` says that redaction
    changed it. ``conversation`` is a digest, the same for all turns of one conversation. ``candidate`` names who
    was shadowed: the model name that the candidate is asked for.
    """

    number: int
    time: float
    conversation: str
    candidate: str
    path: str
    asked: str
    asked_digest: str
    request: dict[str, Any] | None
    redacted: bool = False
    served: Side = "primary"


@dataclass(frozen=True, slots=True)
class Pair:
    """An exchange that both sides were asked."""

    exchange: Exchange
    primary: Reply
    candidate: Reply

    @property
    def agrees(self) -> bool:
        """Whether both gave the same text and called the same tools."""
        return self.primary.text_digest == self.candidate.text_digest != ""
