"""The few exceptions of the plugin; each message is one line that a user can act on."""

import difflib
from collections.abc import Iterable

from pytest_finetune.redaction import redacted

QUOTED = 200  # characters of a value in a message


class FinetuneError(Exception):
    """Any error that is reported in one line, without a traceback, and without a secret of the environment."""

    def __init__(self, *args: object) -> None:
        super().__init__(*map(redacted, args))


class SuiteError(FinetuneError):
    """A mistake in what the user wrote or gave: a suite, its data, an option, a call in a test."""


class DataRefused(SuiteError):
    """Data that loads but must not be used: leakage, duplicates, too few rows."""


class PromptTooLong(SuiteError):
    """A prompt that does not fit the model's context."""


class Rejected(FinetuneError):
    """A verdict outside the gate: nothing is broken, and the fine-tune must not ship."""


class PromptIsEnough(Rejected):
    """The best prompt reaches the target: there is nothing to train for."""


class Overfitted(Rejected):
    """The checkpoint that ships is past its best."""


class PolicyLowered(Rejected):
    """Less must be proven than on the base branch, and nobody accepted that."""


class EngineError(FinetuneError):
    """A fault of the machinery (killed, out of memory, a broken adapter): neither a pass nor a fail."""


class StoreWarning(UserWarning):
    """What the store, or its remote, cannot do, and the run goes on without."""


def shortened(text: str) -> str:
    """Return a value's text as a message quotes it: whoever wrote a file decides how long what it holds is."""
    shown: str = redacted(text)  # before it is cut: half a secret is not found any more
    return shown if len(shown) <= QUOTED else f"{shown[: QUOTED - 1]}…"


def named_choice(value: object, choices: Iterable[str]) -> str:
    """Return ``'value' is not one of a, b, c``, with the closest choice named first."""
    names = sorted(choices)
    close = difflib.get_close_matches(shortened(str(value)), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{shortened(repr(value))} is not one of {', '.join(names)}{hint}"


def one_line(error: object, width: int = 300) -> str:
    """Return what a library says in one line, not too long; a secret that is cut would not be found any more."""
    said: str = redacted(" ".join(str(error).split()))
    return said[:width]
