"""Text of models and data made safe to show: nothing in it may act on a terminal, a CI runner or a page."""

import re
import unicodedata

HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # controls, bidi and zero-width marks, surrogates, separators
# Letters and marks that show nothing either. They hide text, and GitHub's runner, which compares strings by
# the rules of a language, sees `::` in two colons with one of them between.
IGNORED = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
# What GitHub's runner takes for a command in a log: `::name::` at a line's start, `##[name]` anywhere in it.
COMMANDS = {"::": r":\x3a", "##[": r"##\x5b"}


def printable(text: str, keep: str = "", width: int = 0) -> str:
    """Return ``text`` with every character that does not print, but for those of ``keep``, written as an escape.

    Args:
        text: anything.
        keep: characters that stay as they are.
        width: characters at most, 0 for all; what is cut off shows as an ellipsis.
    """
    given = text[: width + 1] if width else text  # an escape makes no text shorter
    return _cut("".join(_escaped(char) if char not in keep and _hides(char) else char for char in given), width)


def visible(text: str, width: int = 0) -> str:
    """Return ``text`` on one line, printable, and without what GitHub's runner takes for a command.

    Args:
        text: anything.
        width: characters at most, 0 for all; what is cut off shows as an ellipsis.
    """
    shown = printable(text, width=width)
    for command, harmless in COMMANDS.items():
        shown = shown.replace(command, harmless)
    return _cut(shown, width)


def _cut(text: str, width: int) -> str:
    return text if not width or len(text) <= width else text[: width - 1] + "…"


def _hides(char: str) -> bool:
    return not " " <= char <= "~" and (unicodedata.category(char) in HIDDEN or IGNORED.match(char) is not None)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
