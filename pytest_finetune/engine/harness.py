"""Tasks of lm-evaluation-harness, asked of a model that is loaded here.

What is measured is lm-eval's own: documents, prompts, examples, filters and metrics, with its command line's seeds.
"""

import difflib
import functools
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval import __version__ as lm_eval_version
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from pytest_finetune import choices, digest, taskfile
from pytest_finetune.engine.batches import Tick
from pytest_finetune.engine.lm import LoadedLM
from pytest_finetune.engine.models import Loaded
from pytest_finetune.errors import EngineError, FinetuneError, SuiteError, one_line
from pytest_finetune.records import Document, HarnessTask

Sample = dict[str, Any]  # one document under one filter, as lm-eval logs it
SEEDS = {"random": 0, "other": 1234}  # of lm-eval's command line


def documents(loaded: Loaded, task: HarnessTask, tick: Tick) -> tuple[Document, ...]:
    """Return what the model makes of a task's documents, in lm-eval's order.

    Raises:
        SuiteError: there is no such task, it cannot be set up, or is of a kind that is not run here.
        EngineError: the task's own code failed on a document.
    """
    built, found = evaluated(loaded, task, tick)
    better = found["higher_is_better"][task.name]
    by_document: dict[int, list[Sample]] = {}
    for sample in found["samples"][task.name]:
        by_document.setdefault(sample["doc_id"], []).append(sample)
    seen: Counter[str] = Counter()
    return tuple(_document(built, by_document[number], better, seen) for number in sorted(by_document))


def evaluated(loaded: Loaded, task: HarnessTask, tick: Tick) -> tuple[Any, dict[str, Any]]:
    """Return lm-eval's task and its results, with ``samples`` (``--log_samples``); errors as :func:`documents`."""
    random.seed(SEEDS["random"])
    np.random.seed(SEEDS["other"])  # tasks draw from it
    torch.manual_seed(SEEDS["other"])
    built = _built(task)
    _set_up(built, task)
    model, tasks = LoadedLM(loaded, tick), {"tasks": {task.name: built}}
    try:
        return built, dict(evaluate(model, tasks, limit=task.limit, bootstrap_iters=0))
    except FinetuneError:
        raise
    except Exception as error:
        raise EngineError(f"lm_eval = {task.name!r}: {type(error).__name__}: {one_line(error)}") from error


def _built(task: HarnessTask) -> Any:
    """Return lm-eval's task, its data loaded.

    Raises:
        SuiteError: there is none, or it cannot be set up.
    """
    place = f"lm_eval = {task.name!r}"
    file = taskfile.find(Path(task.file)) if task.file else _own(task.name, place)
    with _told(f"{place}: {file.name} cannot be read"):
        config = load_yaml(file)
    config = taskfile.localised(config, file.parent)
    _refuse(config, place)
    data = config.get("dataset_path")
    with _told(f"{place}: it cannot be set up"), _told(f"{place}: its data set {data!r} cannot be loaded", OSError):
        (built,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
    return built


def _refuse(config: dict[str, Any], place: str) -> None:
    """Refuse tasks of a kind that is not run here."""
    if config.get("unsafe_code"):
        raise SuiteError(f"{place}: it runs what the model writes as code, which is not done here; take another task")
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        raise SuiteError(f"{place}: it shows images or plays sounds, and the model reads text; take another task")
    if "class" not in config and not (config.get("test_split") or config.get("validation_split")):
        raise SuiteError(f"{place}: it has no test_split and no validation_split, so there is nothing to ask")


def _set_up(built: Any, task: HarnessTask) -> None:
    """Give a task its examples as lm-eval's command line does (``lm_eval/evaluator.py``, simple_evaluate)."""
    own = built.get_config("num_fewshot")
    if own is None or (task.num_fewshot is not None and own != 0):  # a task that says 0 has its reasons
        built.set_config(key="num_fewshot", value=task.num_fewshot or 0)
    built.set_fewshot_seed(seed=SEEDS["other"])


@functools.cache
def _index() -> dict[str, Any]:
    """Return lm-eval's own tasks by name; reading their files takes 10 s."""
    index: dict[str, Any] = TaskManager().task_index
    return index


def _own(name: str, place: str) -> Path:
    """Return the YAML file of one of lm-eval's own tasks."""
    entry = _index().get(name)
    if entry is None:
        raise SuiteError(f"{place}: lm-eval {lm_eval_version} has no such task{_close(name)}; a path holds a /")
    if entry.kind.name in ("GROUP", "TAG"):
        raise SuiteError(f"{place}: {taskfile.named(sorted(entry.tags) or taskfile.members(entry.cfg))}")
    return Path(entry.yaml_path)


def _close(name: str) -> str:
    close = difflib.get_close_matches(name, _index(), n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


@contextmanager
def _told(what: str, kind: type[Exception] = Exception) -> Iterator[None]:
    """Say in one line what a library, or the task's own code, could not do."""
    try:
        yield
    except FinetuneError:
        raise
    except kind as error:
        raise SuiteError(f"{what}: {type(error).__name__}: {one_line(error)}") from error


def _document(built: Any, samples: Sequence[Sample], better: Mapping[str, bool], seen: Counter[str]) -> Document:
    first = samples[0]
    name = first["doc_hash"]
    seen[name] += 1
    requests = [tuple(map(_text, request)) for request in first["arguments"]]
    answers: dict[str, str] = {}
    options: list[str] = []
    for sample in samples:
        answers[sample["filter"]], options = _answered(requests, sample["filtered_resps"])
    return Document(
        id=name if seen[name] == 1 else digest.of([name, seen[name]]),
        asked=_own_text(built, first["doc"], requests[0][0]),
        reference=choices.reference(_text(first["target"]), options),
        answers=answers,
        # Of an error rate, more is no gain.
        scores={
            f"{m},{s['filter']}": _number(s[m]) if better.get(m, True) is not False else None
            for s in samples
            for m in s["metrics"]
        },
    )


def _own_text(built: Any, document: Any, asked: str) -> str:
    """Return what is asked of a document alone, without the examples before it."""
    own = built.doc_to_text(document)
    return own if isinstance(own, str) and own and own in asked else asked


def _answered(requests: Sequence[tuple[str, ...]], answers: Sequence[Any]) -> tuple[str, list[str]]:
    """Return what a model said to one document, and the options of a choice."""
    likely = [one for one in answers if isinstance(one, tuple)]
    if len(likely) == len(requests) > 1:
        return choices.ranked([(r[0], r[1]) for r in requests], [nats for nats, _ in likely])
    if likely:
        return f"log-likelihood {likely[0][0]:.4g}{', greedy' if likely[0][1] else ''}", []
    return _text(answers[0]), []


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (bool, int, float, np.number, np.bool_)) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
