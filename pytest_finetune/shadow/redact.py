"""Redaction: what must not reach the disk is replaced before anything is written."""

import re
from collections.abc import Sequence
from typing import Any

from pytest_finetune.redaction import MARK, in_texts, pattern
from pytest_finetune.shadow.config import Privacy

# What is personal or secret in most traffic. Not names and addresses, which no pattern finds. None may begin in the
# middle of a run that it repeats: that takes the square of a text's length, and holds up all threads.
USUAL = (
    r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+",  # e-mail addresses
    r"\b(?:sk|pk|rk|ghp|gho|ghs|hf|xox[abprs])[-_][\w-]{16,}",  # API keys by their makers' beginnings
    r"\bAKIA[0-9A-Z]{16}\b",
    r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",  # JSON web tokens
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",  # IBAN
    r"(?<!\d)(?<!\d\.)(?:\d[ -]?){12,18}\d(?!\.?\d)",  # card numbers
    r"(?<![\w.])(?!\d{4}-\d\d-\d\d\b)\+?\d{1,3}[ .-]?\(?\d{2,4}\)?(?:[ .-]?\d{2,4}){2,4}(?!\w|\.\d)",  # phone numbers
)


class Redactor:
    """Replaces what the patterns find in texts, and in all strings of plain data."""

    def __init__(self, privacy: Privacy) -> None:
        patterns: Sequence[str] = (*(USUAL if privacy.usual else ()), *privacy.patterns)
        own = pattern()  # the secrets of this process itself
        self._patterns = [*([own] if own else ()), *map(re.compile, patterns)]

    def text(self, text: str) -> str:
        """Return a text without what is found in it."""
        for found in self._patterns:
            text = found.sub(MARK, text)
        return text

    def plain(self, value: Any) -> Any:
        """Return plain data of which every string is redacted, keys too."""
        return in_texts(value, self.text)
