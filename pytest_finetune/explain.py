"""Why a stage was made or reused: what it depends on, by name, beside what it depended on in the last run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_finetune.records import to_plain
from pytest_finetune.store import Store

Inputs = Mapping[str, object]
ROWS = " rows"  # ends the name of an input that lists rows by their digests
SHORT = 12  # digits of a row's digest that are kept
ORDER = ("data", "baseline", "adapter", "outputs", "verdict")  # what names of stages begin with
MADE = "made"
SHOWN = 40  # characters of a value that is worth showing; a digest has more


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage as this run went through it.

    Args:
        inputs: what it depends on, as plain data; nothing where that was not looked at.
        made: whether it was made, at least in part, in place of being reused.
        detail: how much of it.
        why: the reason where no input differs, such as an option.
    """

    inputs: dict[str, Any]
    made: bool
    detail: str = ""
    why: str = ""


@dataclass
class Stages:
    """The stages of one suite; ``name`` is what the store notes them under."""

    store: Store
    name: str
    found: dict[str, Stage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Now, and not when it is asked for: other workers of this run may have kept theirs by then.
        self.last: dict[str, dict[str, Any]] = self.store.noted(self.name) or {}

    def add(self, stage: str, inputs: Inputs, made: bool, detail: str = "", why: str = "") -> None:
        """Note what a stage went by; one that was made once in a run counts as made."""
        known = self.found.get(stage)
        if not (known and known.made and not made):
            self.found[stage] = Stage(_kept(inputs), made, detail, why)

    def told(self) -> dict[str, str]:
        """Return by stage whether it was reused or made, and why."""
        order = sorted(self.found, key=lambda name: [not name.startswith(kind) for kind in ORDER])
        return {name: _told(self.found[name], self.last.get(name)) for name in order}

    def keep(self) -> None:
        """Keep the inputs for the next run; not of one that only read the data."""
        own = {name: stage.inputs for name, stage in self.found.items() if stage.inputs}
        if self.found.keys() - {"data"} and own != {name: self.last.get(name) for name in own}:
            self.store.note(self.name, lambda noted: {**(noted or {}), **own})


def counted(fresh: Sequence[bool], what: str) -> tuple[bool, str]:
    """Return whether this run asked for any of these answers, and how many were reused."""
    asked, count = sum(fresh), len(fresh)
    return bool(asked), f"{count - asked} of {count} {what} reused, {asked} asked" if asked else f"{count} {what}"


def changes(before: Inputs, after: Inputs) -> list[str]:
    """Return in words which inputs differ."""
    found = []
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if name.endswith(ROWS) and isinstance(old, list) and isinstance(new, list):
            had, has = Counter(old), Counter(new)
            added, removed = (has - had).total(), (had - has).total()
            found.append(f"{name}: {added} added, {removed} removed" if added or removed else f"{name}: another order")
        elif _shows(old) and _shows(new):
            found.append(f"{name} {_said(old)} -> {_said(new)}")
        else:
            found.append(name)
    return found


def _told(stage: Stage, last: Inputs | None) -> str:
    if not stage.made:
        return f"reused{f': {stage.detail}' if stage.detail else ''}"
    differ = "; ".join(changes(last, stage.inputs)) if last is not None else "first time"
    reasons = [stage.detail, differ or stage.why or "the store had it no more"]
    return f"{MADE}: {': '.join(filter(None, reasons))}"


def _kept(inputs: Inputs) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(dict(inputs))
    lists = {name for name, value in plain.items() if name.endswith(ROWS) and isinstance(value, list)}
    return {name: [row[:SHORT] for row in value] if name in lists else value for name, value in plain.items()}


def _shows(value: object) -> bool:
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and 0 < len(value) <= SHOWN)


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
