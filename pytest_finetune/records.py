"""Frozen records that one stage hands to the next: plain data, no tensor, no open file."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
SCHEMA = 2  # of a saved run


# --- what a model is asked -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One row of data: what is asked, the reference answer, and where the row stands."""

    id: str
    messages: tuple[Message, ...]
    reference: str
    file: str
    line: int
    cluster: str = ""
    slice: str = ""

    @property
    def text(self) -> str:
        """The turns as one text, for comparing and showing rows."""
        return "\n".join(message.content for message in self.messages)


PLAIN = "text"  # role of a message that is the whole prompt, which no chat template touches


@dataclass(frozen=True, slots=True)
class Prompt:
    """A system prompt and few-shot examples that are put before every row.

    ``selection`` says how the examples were chosen; ``retrieved`` ones are picked for each row by its
    likeness to them. ``chat`` says whether the model's chat template writes the prompt.
    """

    name: str
    system: str = ""
    shots: tuple[Example, ...] = ()
    selection: str = ""
    retrieved: int = 0
    chat: bool = True

    @property
    def count(self) -> int:
        """The number of few-shot examples."""
        return len(self.shots) + self.retrieved

    def before(self, example: Example, retrieved: tuple[Example, ...] = ()) -> tuple[Message, ...]:
        """Return the whole conversation that asks for ``example``'s answer."""
        shots = (*self.shots, *retrieved)
        if not self.chat:
            parts = [self.system, *(f"{shot.text}\n{shot.reference}" for shot in shots), f"{example.text}\n"]
            return (Message(PLAIN, "\n\n".join(filter(None, parts))),)
        opening = (Message("system", self.system),) if self.system else ()
        turns = [turn for shot in shots for turn in (*shot.messages, Message("assistant", shot.reference))]
        return (*opening, *turns, *example.messages)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt and the completion that training teaches after it, and how much the row counts."""

    messages: tuple[Message, ...]
    completion: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to prompts, a row each: texts, tokens read and written, and the mean seconds of one."""

    texts: tuple[str, ...]
    prompt_tokens: tuple[int, ...]
    new_tokens: tuple[int, ...]
    seconds_each: float


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of prompts in tokens, and the longest text that the model takes."""

    tokens: tuple[int, ...]
    context: int


@dataclass(frozen=True, slots=True)
class HarnessTask:
    """A task of lm-evaluation-harness: one of its own by name, or the project's by its YAML file (or its folder).

    ``limit`` takes the first documents only; ``num_fewshot`` None leaves the examples to the task.
    """

    name: str
    file: str = ""
    limit: int | None = None
    num_fewshot: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One document of such a task and what a model made of it; ``id`` names its content.

    ``answers`` are by filter, and ``scores`` by metric and filter as lm-eval names them (``acc,none``), None where
    one document's value is no number, or less is better.
    """

    id: str
    asked: str
    reference: str
    answers: dict[str, str]
    scores: dict[str, float | None]


# --- what is run -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Model:
    """A base model: a folder, or a hub id pinned to a revision; ``digest`` names its bytes.

    ``quantised`` ones are held in 4 bits (NF4) wherever they are run. ``remote_code`` lets the model's own code run;
    what was answered before stays true without, since nothing is answered by a model whose code may not run.
    """

    name: str
    digest: str
    path: str = ""
    revision: str = ""
    quantised: bool = False
    remote_code: bool = False

    @property
    def has_files(self) -> bool:
        """Whether its files are to be had, here or at the hub; else there is only a server that answers for it."""
        return bool(self.path or self.revision)


@dataclass(frozen=True, slots=True)
class Generation:
    """How answers are generated (greedily): tokens at most, and rows a batch."""

    max_new_tokens: int = 64
    batch_size: int = 64


@dataclass(frozen=True, slots=True)
class Training:
    """Hyper-parameters of one fine-tune; ``learning_rate`` 0 means the method's own default."""

    method: str = "lora"
    variant: str = "lora"
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("all-linear",)
    virtual_tokens: int = 20
    epochs: float = 2.0
    learning_rate: float = 0.0
    batch_size: int = 8
    warmup_share: float = 0.05
    weight_decay: float = 0.0
    scheduler: str = "cosine"
    evaluations_per_epoch: int = 2
    patience: int = 3
    checkpoint: Literal["best", "last"] = "best"
    class_weights: bool = False
    max_tokens: int = 2048
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """Everything one training run depends on.

    ``answered`` rows of ``dev`` are answered at every evaluation; ``trackers`` (TensorBoard, MLflow,
    W&B) are told of the losses. ``checkpointing`` computes activations anew for the backward pass, which
    takes time for memory and changes no number.
    """

    model: Model
    training: Training
    train: tuple[Conversation, ...]
    dev: tuple[Conversation, ...]
    generation: Generation = field(default_factory=Generation)
    answered: int = 0
    trackers: tuple[str, ...] = ()
    tracker_folder: str = ""
    checkpointing: bool = False


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """What training went through: losses in nats a completion token, by optimiser step.

    ``dev_answers`` are the engine's, from which ``dev_scores`` are made; reports hold the scores only.
    """

    steps: int
    seconds: float
    trainable_parameters: int
    peak_bytes: int
    train_loss_nats: tuple[tuple[int, float], ...]
    dev_loss_nats: tuple[tuple[int, float], ...]
    best_step: int
    shipped_step: int
    steps_per_epoch: int
    dev_answers: tuple[tuple[int, tuple[str, ...]], ...] = ()
    dev_scores: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder: a LoRA of that rank, and its mean score on the dev split."""

    rank: int
    trainable_parameters: int
    score: float


@dataclass(frozen=True, slots=True)
class Adapter:
    """A fine-tune: a folder and the digest of the bytes in it that ship.

    The method ``prompt`` ships a ``prompt`` and no weights; ``rungs`` are what the ladder climbed.
    """

    path: str
    digest: str
    method: str
    curve: TrainingCurve | None = None
    prompt: Prompt | None = None
    rungs: tuple[Rung, ...] = ()


# --- what the stages find --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with the data; ``rows`` are the first of ``count`` places such as ``train.jsonl:12``.

    ``refuses`` forbids using the data; ``dropped`` is the number of rows that were left out for it.
    """

    check: str
    message: str
    rows: tuple[str, ...]
    refuses: bool
    dropped: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Flag:
    """One row that a check found: why, and the place of the row it collides with (or nothing)."""

    check: str
    split: str
    place: str
    reason: str
    other: str
    dropped: bool


@dataclass(frozen=True, slots=True)
class CuratedData:
    """The rows of a suite, split and checked; ``general`` and ``replay`` are by suite name.

    ``flags`` hold every row that was found; ``findings`` sum them up.
    """

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    heldout: tuple[Example, ...]
    general: dict[str, tuple[Example, ...]]
    replay: dict[str, tuple[Example, ...]]
    findings: tuple[Finding, ...]
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One prompt tried, and its mean score on the ``n`` dev rows it was asked; 0 rows: it does not fit."""

    name: str
    shots: int
    selection: str
    chat: bool
    score: float
    n: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """The best prompt found on the dev split, and all that were tried.

    ``score`` is its mean on the whole dev split, ``plain_score`` that of the first instruction
    alone; ``answers`` is what the search cost, in answers of the model.
    """

    prompt: Prompt
    score: float
    plain_score: float
    rows: int
    answers: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one request takes in the mean: tokens read and written, and seconds, batched as it was run."""

    prompt_tokens: float
    new_tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One subject's outputs and scores on one data set, row by row.

    A metric of the whole data set has its value as ``whole``, and as ``redrawn`` that of each of its
    resamples, the same ones for every subject; ``scores`` are then what single rows are worth.
    """

    subject: str
    on: str
    metric: str
    ids: tuple[str, ...]
    outputs: tuple[str, ...]
    scores: tuple[float, ...]
    clusters: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    usage: Usage | None = None
    whole: float | None = None
    redrawn: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """The mean score, or the metric of the whole data set."""
        return sum(self.scores) / len(self.scores) if self.whole is None else self.whole


Kind = Literal["superiority", "retention", "guard", "level", "slice"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement the gate must prove, and what the data say of it.

    ``estimate``, ``low``, ``high`` and ``bound`` are differences of mean scores (after - before), or
    for the kind ``level``, which compares nothing, the mean score itself. The claim is that the true
    value lies above ``bound``; ``low`` and ``high`` are the one-sided limits at ``alpha`` and at
    ``alpha_refute``, the levels of the look that settled it. ``detectable`` is the smallest true value
    that so many rows prove, and ``n_needed`` the rows that would settle this one (80 % power; None
    where it lies at the bound).
    """

    name: str
    kind: Kind
    on: str
    metric: str
    before: str
    after: str
    before_mean: float
    after_mean: float
    estimate: float
    low: float
    high: float
    bound: float
    n: int
    wins: int
    losses: int
    ties: int
    alpha: float
    alpha_refute: float
    outcome: Outcome
    n_needed: int | None
    detectable: float
    statistic: str
    look: int
    looks: int


@dataclass(frozen=True, slots=True)
class Slice:
    """How one group of rows fared; ``p_worse`` is corrected by Holm for all slices of the data set.

    ``low`` and ``high`` are one-sided limits of the difference at the gate's alpha, uncorrected.
    """

    on: str
    name: str
    n: int
    before_mean: float
    after_mean: float
    estimate: float
    low: float
    high: float
    p_worse: float
    worse: bool


@dataclass(frozen=True, slots=True)
class LostExample:
    """A row that the subject before the change answered better than the one after it."""

    place: str
    asked: str
    reference: str
    before: str
    after: str
    drop: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one gate call decided: the claims, how each slice fared, and the worst rows that were lost.

    ``attempt`` counts the adapters that were judged on these rows so far, this one included, and
    ``alpha_spent`` is the chance of a false pass that they have used up together. ``digests`` name
    everything judged.
    """

    test: str
    outcome: Outcome
    claims: tuple[Claim, ...]
    slices: tuple[Slice, ...] = ()
    lost: tuple[LostExample, ...] = ()
    attempt: int = 1
    alpha_spent: float = 0.05
    digests: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with all that was measured for it."""

    verdict: Verdict
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class RowText:
    """What was asked of one row, for reports; ``id`` is the one that measurements call it by."""

    id: str
    place: str
    asked: str
    reference: str


@dataclass(frozen=True, slots=True)
class SuiteRecord:
    """Everything one run learned about one suite; ``texts`` are what was asked, by data set."""

    name: str
    file: str
    model: str
    model_digest: str
    rows: dict[str, int]
    findings: tuple[Finding, ...] = ()
    baseline: Baseline | None = None
    target: float | None = None
    adapter: Adapter | None = None
    measurements: tuple[Measurement, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    stages: dict[str, str] = field(default_factory=dict)
    texts: dict[str, tuple[RowText, ...]] = field(default_factory=dict)


RunOutcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "ERROR", "SKIPPED"]


@dataclass(frozen=True, slots=True)
class TestRecord:
    """What one test came to, and where it stands (``line`` from 1); ``message`` says why it did not pass.

    ERROR is a fault of the machinery, and no verdict; per-case tests are not among them.
    """

    __test__ = False  # no test class, whatever pytest takes its name for

    name: str
    file: str
    line: int
    outcome: RunOutcome
    message: str = ""


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One difference to the policy of the base branch; ``lowers`` means that less must be proven than there."""

    suite: str
    what: str
    before: str
    after: str
    lowers: bool


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of ``pytest --finetune``, from which any report can be drawn again.

    ``outcome`` is the worst of all tests. ``policy`` is what differs from the base branch, where that was
    looked at, and ``policy_accepted`` whether somebody accepted it.
    """

    version: str
    started: str
    seconds: float
    libraries: dict[str, str]
    suites: tuple[SuiteRecord, ...]
    outcome: RunOutcome = "SKIPPED"
    tests: tuple[TestRecord, ...] = ()
    policy: tuple[PolicyChange, ...] = ()
    policy_accepted: bool = False
    schema: int = SCHEMA


# --- to plain data and back ------------------------------------------------------------------

# What JSON and our own records may hold of a kind. A flag is no number, and a text no list of letters.
SCALARS: Mapping[Any, tuple[type, ...]] = {str: (str,), int: (int,), float: (float, int), bool: (bool,)}
CONTAINERS: Mapping[Any, tuple[type, ...]] = {tuple: (list, tuple), list: (list, tuple), dict: (dict,)}


def to_plain(value: Any) -> Any:
    """Return ``value`` (a record, or containers of records) as dicts, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def from_json(kind: type[T], text: str | bytes) -> T:
    """Build ``kind`` from JSON, which anybody may have written.

    Raises:
        ValueError: it is no JSON, or does not have the form of ``kind``.
    """
    try:
        return from_plain(kind, json.loads(text))
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


@cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def from_plain(kind: type[T], value: Any) -> T:
    """Build ``kind`` (a record, or a container type of records) from plain data.

    Raises:
        TypeError, KeyError: ``value`` does not have the form of ``kind``.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    expected = SCALARS.get(kind) or CONTAINERS.get(origin)
    if expected and type(value) not in expected:
        raise TypeError(f"not of type {getattr(kind, '__name__', kind)}: {str(value)[:60]}")
    result: Any = value
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        result = kind(**{name: from_plain(hints[name], item) for name, item in value.items()})
    elif origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        result = tuple(from_plain(args[0], item) for item in value)
    elif origin is tuple:
        result = tuple(from_plain(arg, item) for arg, item in zip(args, value, strict=True))
    elif origin is list:
        result = [from_plain(args[0], item) for item in value]
    elif origin is dict:
        result = {key: from_plain(args[1], item) for key, item in value.items()}
    elif origin in (typing.Union, types.UnionType) and value is not None:
        result = from_plain(next(arg for arg in args if arg is not type(None)), value)
    return typing.cast(T, result)
