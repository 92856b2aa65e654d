"""A draft of a suite: its plan, and the data files that are to be written beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_finetune import data
from pytest_finetune.errors import SuiteError
from pytest_finetune.starter import columns, samples, texts
from pytest_finetune.starter.columns import Answers
from pytest_finetune.starter.split import split
from pytest_finetune.suite import EMBEDDED, Fields

HUB = "hub:"
SAMPLE_TASK = "classification"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user says of a suite; an empty text is for the draft to find out. Paths are relative to ``root``."""

    root: Path
    folder: Path
    task: str
    model: str
    revision: str
    train: str
    heldout: str
    fields: Sequence[str]
    general: Sequence[str]


def draft(wish: Wish) -> tuple[texts.Plan, dict[str, str]]:
    """Return what suite.toml is to say, and the text of the data files by name.

    Raises:
        SuiteError: a file that was named is not there, leads out of the project, or cannot be understood.
    """
    if not wish.train:
        return _sample(wish)
    fields = columns.fields_of(_source(wish, "--train", wish.train), wish.fields)
    files = {} if wish.heldout else split(wish.train, fields)
    sources = [wish.train, *([_source(wish, "--heldout", wish.heldout)] if wish.heldout else [])]
    answers = columns.answers([example.reference for example in data.load(sources, fields)])
    plan = texts.Plan(
        task := wish.task or answers.task,
        _model(wish),
        wish.revision,
        _from_folder(wish, wish.train) if wish.heldout else "train.jsonl",
        _from_folder(wish, wish.heldout) if wish.heldout else "heldout.jsonl",
        fields,
        _answers_of(task, answers),
        [_general(wish, name) for name in wish.general],
        [texts.PROMPTS[task]],
        sample=False,
    )
    return plan, files | _schema_file(plan.answers)


def _sample(wish: Wish) -> tuple[texts.Plan, dict[str, str]]:
    task = wish.task or SAMPLE_TASK
    files, sample = samples.files(task), samples.SAMPLES[task]
    rows = [json.loads(line) for name in ("train.jsonl", "heldout.jsonl") for line in files[name].splitlines()]
    plan = texts.Plan(
        task,
        _model(wish),
        wish.revision,
        "train.jsonl",
        "heldout.jsonl",
        Fields(),
        _answers_of(task, columns.answers([row["completion"] for row in rows])),
        [texts.General(f"{name}.jsonl", f"{name}-replay.jsonl") for name in samples.GENERAL],
        sample.candidates,
        sample=True,
    )
    return plan, files | _schema_file(plan.answers)


def _answers_of(task: str, answers: Answers) -> Answers:
    """Labels are for classification and a schema is for extraction; to hold other tasks to them would be a guess."""
    labels = answers.labels if task == "classification" else ()
    return Answers(labels, answers.schema if task == "extraction" else {}, answers.longest_bytes)


def _schema_file(answers: Answers) -> dict[str, str]:
    return {texts.ANSWER_SCHEMA: json.dumps(answers.schema, indent=2) + "\n"} if answers.schema else {}


def _general(wish: Wish, name: str) -> texts.General:
    """A general suite of a file, and of the one beside it that is called the same and `-replay`, if it is there."""
    source = _source(wish, "--general", name)
    path = Path(name)
    beside = path.with_name(f"{path.stem}-replay{path.suffix}")
    replay = _from_folder(wish, str(beside)) if beside.exists() and not name.startswith(HUB) else ""
    return texts.General(_from_folder(wish, name), replay, columns.fields_of(source))


def _source(wish: Wish, option: str, name: str) -> str:
    """Return a data source as it was named, which is there and inside of the project."""
    if name.startswith(HUB):
        return name
    if not Path(name).exists():
        raise SuiteError(f"{option} {name}: no such file")
    if not Path(name).resolve().is_relative_to(wish.root.resolve()):
        raise SuiteError(
            f"{option} {name}: leads out of {wish.root}; copy it into the project, where a suite's data is"
        )
    return name


def _model(wish: Wish) -> str:
    """Return the model as suite.toml names it: a folder relative to the suite's, or what it is called."""
    return wish.model if wish.model == EMBEDDED or wish.revision else _from_folder(wish, wish.model)


def _from_folder(wish: Wish, name: str) -> str:
    if name.startswith(HUB) or Path(name).is_absolute():
        return name
    path = Path(os.path.relpath(Path(name).resolve(), wish.folder.resolve())).as_posix()
    return path if path.startswith(".") else f"./{path}"
