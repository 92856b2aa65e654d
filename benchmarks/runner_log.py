"""What GitHub's runner takes for commands in a log, read from its source (actions/runner, ActionCommand.cs)."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

# What ActionCommandManager has extensions for, and what the log's page itself understands after `##[`.
NAMES = frozenset(
    (
        *("add-mask", "add-matcher", "add-path", "command", "debug", "echo", "endgroup", "error", "group"),
        *("internal-set-repo-path", "notice", "remove-matcher", "save-state", "section", "set-env", "set-output"),
        *("stop-commands", "warning"),
    )
)
WEIGHTLESS = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")
LINE_ENDS = re.compile("\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its name in lower case, its properties and its data, unescaped."""

    name: str
    properties: dict[str, str]
    data: str


def commands(log: str) -> Iterator[Command]:
    """Yield the commands in a log, those included that stop the runner from taking others."""
    for line in LINE_ENDS.split(log):
        # .NET finds a string by the rules of a language, to which some characters are nothing; or it does not.
        for read in dict.fromkeys((line, _without_ignorable(line))):
            found = _new_style(read) or _old_style(read)
            if found:
                yield found
                break


def heard(log: str) -> Iterator[Command]:
    """Yield the commands in a log that the runner obeys: none between `stop-commands` and its token."""
    token = ""
    for line in LINE_ENDS.split(log):
        if token:
            token = "" if line.strip() == f"::{token}::" else token
            continue
        for command in commands(line):
            token = command.data if command.name == "stop-commands" else ""
            if not token:
                yield command


def _new_style(line: str) -> Command | None:
    """Read `::name key=value,key=value::data`, which must begin the line."""
    line = line.lstrip()
    if not line.startswith("::") or (end := line.find("::", 2)) < 0:
        return None
    name, _, given = line[2:end].partition(" ")
    if name.lower() not in NAMES:
        return None
    pairs = (part.split("=", 1) for part in given.strip().split(",") if part)
    properties = {pair[0]: _unescaped(pair[1], ":,") for pair in pairs if len(pair) == 2}
    return Command(name.lower(), properties, _unescaped(line[end + 2 :], ""))


def _old_style(line: str) -> Command | None:
    """Read `##[name key=value;key=value]data`, which may stand anywhere in a line."""
    start = line.find("##[")
    if start < 0 or (end := line.find("]", start)) < 0:
        return None
    name, _, given = line[start + 3 : end].partition(" ")
    if name.lower() not in NAMES:
        return None
    pairs = (part.split("=", 1) for part in given.split(";") if part)
    properties = {pair[0]: _unescaped(pair[1], ";]") for pair in pairs if len(pair) == 2}
    return Command(name.lower(), properties, _unescaped(line[end + 1 :], ";]"))


def _unescaped(text: str, special: str) -> str:
    for char in f"{special}\r\n%":
        text = text.replace(f"%{ord(char):02X}", char)
    return text


def _without_ignorable(line: str) -> str:
    if line.isascii() and line.isprintable():
        return line
    return "".join(char for char in line if not _is_ignorable(char))


def _is_ignorable(char: str) -> bool:
    """Whether Unicode's collation gives a character no weight."""
    if char.isascii():
        return not char.isprintable() and not char.isspace()
    return unicodedata.category(char) in ("Cc", "Cf") or WEIGHTLESS.match(char) is not None
