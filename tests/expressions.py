"""GitHub's expressions, as far as our workflows use them."""

import json
import re
from typing import Any

TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|(\d+)|(&&|\|\||==|!=|[!(),])|([A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*))")
LITERALS: dict[str, Any] = {"true": True, "false": False, "null": None}


def evaluate(text: str, context: dict[str, Any]) -> Any:
    """Return the value of an expression, with or without its braces; its status functions are context's ""."""
    text = text.strip().removeprefix("${{").removesuffix("}}").strip()
    tokens, at = [], 0
    while at < len(text):
        found = TOKEN.match(text, at)
        assert found, f"not understood: {text[at:]}"
        tokens.append(found.group().strip())
        at = found.end()
    parser = Parser(tokens, context)
    value = parser.either()
    assert not parser.tokens, f"left over: {parser.tokens}"
    return value


def interpolated(value: Any, context: dict[str, Any]) -> str:
    """Return a string with its expressions filled in, as the runner writes values of any type."""
    text = value if isinstance(value, str) else written(value)
    return re.sub(r"\$\{\{.*?\}\}", lambda found: written(evaluate(found.group(), context)), text)


def written(value: Any) -> str:
    """Return a value as text."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


class Parser:
    """Recursive descent over tokens, which evaluates as it goes."""

    def __init__(self, tokens: list[str], context: dict[str, Any]) -> None:
        self.tokens, self.context = tokens, context

    def _take(self, *of: str) -> str:
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in of else ""

    def either(self) -> Any:
        value = self.both()
        while self._take("||"):
            other = self.both()
            value = value or other
        return value

    def both(self) -> Any:
        value = self.compared()
        while self._take("&&"):
            other = self.compared()
            value = value and other
        return value

    def compared(self) -> Any:
        value = self.one()
        if sign := self._take("==", "!="):
            same = self._plain(value) == self._plain(self.one())
            return same if sign == "==" else not same
        return value

    def _plain(self, value: Any) -> str:
        return written(value).lower()  # text is compared without case, and nothing equals empty text

    def one(self) -> Any:
        if self._take("!"):
            return not self.one()
        if self._take("("):
            value = self.either()
            assert self._take(")")
            return value
        token = self.tokens.pop(0)
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if token.isdigit():
            return int(token)
        return self.call(token) if self._take("(") else self.looked_up(token)

    def call(self, name: str) -> Any:
        given = []
        while not self._take(")"):
            given.append(self.either())
            self._take(",")
        if name == "fromJSON":
            return json.loads(given[0])
        return self.context[""][name]

    def looked_up(self, name: str) -> Any:
        if name in LITERALS:
            return LITERALS[name]
        first, *rest = name.split(".")
        value: Any = self.context[first]
        for part in rest:
            value = value.get(part) if isinstance(value, dict) else None
        return value
