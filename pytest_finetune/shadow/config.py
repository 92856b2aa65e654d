"""`shadow.toml`: which traffic is mirrored, what reaches the disk, and what must be proven."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pytest_finetune import digest, toml
from pytest_finetune.errors import SuiteError, shortened
from pytest_finetune.suite import answer_schema

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Which requests are mirrored; see the schema for each."""

    sample: float = 1.0
    seed: int = 0
    conversation: str = "x-conversation-id"
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mirror:
    """How the candidate is asked."""

    mode: Literal["spool", "live"] = "spool"
    model: str = ""
    system: str = ""
    waiting: int = 1000
    connections: int = 4
    timeout_seconds: float = 60.0
    key_env: str = ""


@dataclass(frozen=True, slots=True)
class Privacy:
    """What reaches the disk."""

    keep: Literal["text", "digests"] = "text"
    patterns: tuple[str, ...] = ()
    usual: bool = True
    redacted: Literal["skip", "compare"] = "skip"
    days: float = 7.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What must be proven. ``schema`` is JSON text; ``references`` and ``judge`` are absolute paths, or empty."""

    alpha: float = 0.05
    error_rate: float = 0.01
    schema: str = ""
    max_invalid_rise: float = 0.02
    max_refusal_rise: float = 0.02
    refusals: tuple[str, ...] = ()
    latency_ratio: float = 1.5
    latency_of: Literal["answer", "first_token", "none"] = "answer"
    metric: str = ""
    references: str = ""
    judge: str = ""
    max_drop: float = 0.02
    require_quality: bool = True


@dataclass(frozen=True, slots=True)
class Canary:
    """The steps in which conversations move to the candidate."""

    steps: tuple[float, ...] = (0.01, 0.05, 0.25, 1.0)
    exchanges: int = 100
    minutes: float = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """One `shadow.toml`, or its defaults; relative paths in it start at ``folder``."""

    traffic: Traffic = Traffic()
    mirror: Mirror = Mirror()
    privacy: Privacy = Privacy()
    verdict: Limits = Limits()
    canary: Canary = Canary()
    folder: Path = Path()


@cache
def schema() -> dict[str, Any]:
    """Return the JSON Schema of shadow.toml."""
    document: dict[str, Any] = json.loads((digest.PACKAGE / "shadow" / "shadow.schema.json").read_text())
    return document


def load(file: Path | None) -> Settings:
    """Read and validate a `shadow.toml`; without one all is as by default.

    Raises:
        SuiteError: naming the file, the key, the bad value and the remedy.
    """
    if file is None:
        return Settings(folder=Path.cwd())
    raw = toml.read(file, schema())
    folder = file.absolute().parent
    settings = Settings(
        _record(Traffic, raw.get("traffic", {})),
        _record(Mirror, raw.get("mirror", {})),
        _record(Privacy, raw.get("privacy", {})),
        _record(Limits, raw.get("verdict", {})),
        _record(Canary, raw.get("canary", {})),
        folder,
    )
    limits = replace(
        settings.verdict,
        schema=answer_schema(file, folder, raw.get("verdict", {}).get("schema"), "[verdict] schema"),
        references=_path(file, folder, "references", settings.verdict.references),
        judge=_path(file, folder, "judge", settings.verdict.judge),
    )
    _check(file, settings)
    return replace(settings, verdict=limits)


def _record(kind: type[T], given: Mapping[str, Any]) -> T:
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # they are records
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items() if key in names}
    return kind(**values)


def _path(file: Path, folder: Path, key: str, value: str) -> str:
    """Return the absolute path of a file, with what follows a colon after it; nothing for nothing."""
    if not value:
        return ""
    name, colon, function = value.partition(".py:") if key == "judge" else (value, "", "")
    if key == "judge" and not function.isidentifier():
        raise SuiteError(f"{file}: [verdict] judge = {shortened(repr(value))}: name a function, as FILE.py:FUNCTION")
    path = (folder / (name + ".py" if colon else name)).resolve()
    if not path.is_file():
        raise SuiteError(f"{file}: [verdict] {key} = {shortened(repr(value))}: no such file: {path}")
    return f"{path}:{function}" if colon else str(path)


def _check(file: Path, settings: Settings) -> None:
    for key, patterns in (
        ("[privacy] patterns", settings.privacy.patterns),
        ("[verdict] refusals", settings.verdict.refusals),
    ):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise SuiteError(
                    f"{file}: {key} = {shortened(repr(pattern))}: no regular expression: {error}"
                ) from None
    if settings.privacy.keep == "digests" and settings.mirror.mode == "spool":
        raise SuiteError(
            f'{file}: [privacy] keep = "digests" leaves nothing on disk to ask the candidate; '
            'set [mirror] mode = "live"'
        )
    steps = settings.canary.steps
    if list(steps) != sorted(set(steps)):
        raise SuiteError(f"{file}: [canary] steps = {list(steps)}: each must be larger than the one before")
    if bool(settings.verdict.references) != bool(settings.verdict.metric):
        raise SuiteError(f"{file}: [verdict] references and metric go together; give both or neither")
