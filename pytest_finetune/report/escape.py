"""Text of models and data made safe to show: nothing in it may act on a terminal, a CI runner or a page."""

import unicodedata

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # controls, bidi and zero-width marks, surrogates, separators
# What GitHub's runner takes for a command in a log: `::name::` at a line's start, `##[name]` anywhere in it.
COMMANDS = {"::": r":\x3a", "##[": r"##\x5b"}


def printable(text: str, keep: str = "") -> str:
    """Return ``text`` with every character that does not print, but for those of ``keep``, written as an escape."""
    return "".join(
        char.encode("unicode_escape").decode() if char not in keep and unicodedata.category(char) in HIDDEN else char
        for char in text
    )


def visible(text: str, width: int = 0) -> str:
    """Return ``text`` on one line with every character that does not print written as an escape.

    Args:
        text: anything.
        width: characters at most, 0 for all; what is cut off shows as an ellipsis.
    """
    shown = printable(text)
    for command, harmless in COMMANDS.items():
        shown = shown.replace(command, harmless)
    return shown if not width or len(shown) <= width else shown[: width - 1] + "…"
