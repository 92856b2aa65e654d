"""Replies: what came over the wire, as the record that is kept of it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_finetune import wire
from pytest_finetune.shadow.config import Privacy
from pytest_finetune.shadow.exchange import Reply
from pytest_finetune.shadow.redact import Redactor
from pytest_finetune.shadow.upstream import Headers, header, plain

LARGEST_ANSWER = 8 << 20
Facts = Callable[[str], tuple[bool | None, bool]]  # of a text: whether it is valid, and whether it refuses


@dataclass
class Taken:
    """An answer while it comes in, copied piece by piece."""

    status: int = 0
    headers: Headers = ()
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    first_seconds: float = 0.0
    seconds: float = 0.0
    error: str = ""

    def head(self, status: int, headers: Headers) -> None:
        """Note the head."""
        self.status, self.headers = status, headers

    def piece(self, piece: bytes, seconds: float) -> None:
        """Note a piece of the body, and when it came."""
        self.first_seconds = self.first_seconds or seconds
        self.pieces.append(piece)
        self.size += len(piece)


@dataclass(frozen=True)
class Replies:
    """Makes the records.

    Args:
        facts: looks at a text before it is redacted.
        redactor: what must not reach the disk.
        keep_text: whether texts are kept at all.
    """

    facts: Facts
    redactor: Redactor
    keep_text: bool

    @classmethod
    def by(cls, facts: Facts, privacy: Privacy) -> "Replies":
        """Return what makes records that keep what the settings allow."""
        return cls(facts, Redactor(privacy), privacy.keep == "text")

    def of(self, taken: Taken) -> Reply:
        """Return the record of an answer."""
        answer = self._read(taken)
        error = taken.error or answer.error
        valid, refused = (None, False) if error else self.facts(answer.text)
        return Reply(
            status=taken.status,
            error=error,
            first_seconds=taken.first_seconds,
            seconds=taken.seconds,
            text=self.redactor.text(answer.text) if self.keep_text else "",
            text_digest="" if error else _digest(answer.text, answer.tool_calls),
            characters=len(answer.text),
            tool_calls=self.redactor.text(answer.tool_calls) if self.keep_text else "",
            finish=answer.finish,
            answer_id=answer.id,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            valid=valid,
            refused=refused,
        )

    def _read(self, taken: Taken) -> wire.Answer:
        if taken.error:
            return wire.Answer(error=taken.error)
        if 300 <= taken.status < 400:
            return wire.Answer(error=f"HTTP {taken.status}, and redirects are not followed")
        try:
            body = plain(taken.headers, b"".join(taken.pieces), LARGEST_ANSWER)
        except ValueError as error:
            return wire.Answer(error=f"a body that cannot be read: {error}")
        return wire.read(taken.status, header(taken.headers, b"content-type"), body)


def _digest(text: str, tool_calls: str) -> str:
    return hashlib.sha256(f"{text}\0{tool_calls}".encode("utf-8", "surrogatepass")).hexdigest()
