"""A suite: `suite.toml`, validated at the file's edge, as a frozen record."""

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pytest_finetune import digest, toml
from pytest_finetune.engines import LOCAL, EngineSpec, api
from pytest_finetune.errors import SuiteError, one_line, shortened
from pytest_finetune.records import Generation, HarnessTask, Model, Training

FILE = "suite.toml"
EMBEDDED = "embedded"
PATHS = "PYTEST_FINETUNE_PATHS"  # no option: pytest takes options from files of the project, which these paths are of
NOT_OURS = ("build", "dist", "node_modules", "venv")  # as pytest's norecursedirs
SHOTS = (0, 1, 3, 5, 8)
RANKED = ("lora", "qlora")
SELECTIONS = ("fixed", "balanced", "retrieved")
DEFAULT_METRIC = {"classification": "label_accuracy", "extraction": "exact_match"}
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py")


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the columns; with an empty ``cluster`` rows are independent, with an empty ``slice`` of one kind."""

    prompt: str = "prompt"
    completion: str = "completion"
    cluster: str = ""
    slice: str = ""


@dataclass(frozen=True, slots=True)
class OutputsSpec:
    """Files of scores that were made elsewhere, and the start of the digest of the adapter that they are of."""

    base: str
    adapter: str
    metric: str = ""
    of: str = ""


@dataclass(frozen=True, slots=True)
class GeneralSpec:
    """A general suite: a skill that the adapter must keep. It has rows to ask, or outputs, or is a task of lm-eval."""

    name: str
    data: tuple[str, ...]
    replay: tuple[str, ...]
    metric: str
    fields: Fields
    outputs: OutputsSpec | None = None
    task: HarnessTask | None = None


@dataclass(frozen=True, slots=True)
class GateSpec:
    """What must be proven, unless a test says otherwise. Differences of mean scores, from 0 to 1."""

    metric: str
    target: float | None = None
    margin: float = 0.05
    max_drop: float = 0.02
    guard: float = 0.05
    alpha: float = 0.05
    on_inconclusive: Literal["fail", "warn"] = "fail"
    slices: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """What one check of the data does about an issue, and the numbers it goes by."""

    on_issue: Literal["fail", "drop", "warn", "off"]
    settings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SuiteSpec:
    """One `suite.toml`. Paths in it are absolute here; ``answer_schema`` is JSON text."""

    name: str
    file: Path
    model: str
    revision: str
    requires: tuple[Literal["gpu", "hub"], ...]
    task: str
    train: tuple[str, ...]
    heldout: tuple[str, ...]
    fields: Fields
    dev_share: float | None
    labels: tuple[str, ...]
    answer_schema: str
    serve: str
    candidates: tuple[str, ...]
    shots: tuple[int, ...]
    shots_given: bool
    selection: tuple[str, ...]
    chat_template: Literal["both", "on", "off"]
    answer_format: bool
    training: Training
    ladder: tuple[int, ...]
    replay_share: float
    general: tuple[GeneralSpec, ...]
    gate: GateSpec
    generation: Generation = field(default_factory=Generation)
    engine: EngineSpec = LOCAL
    dev: tuple[str, ...] = ()
    checks: Mapping[str, Check] = field(default_factory=lambda: read_checks({}))

    @property
    def sources(self) -> tuple[str, ...]:
        """All files, folders and hub data sets that rows come from."""
        general = (source for g in self.general for source in (*g.data, *g.replay, *_files(g.outputs)))
        return (*self.train, *self.dev, *self.heldout, *general)

    @property
    def folder(self) -> Path:
        """The folder of the suite's file."""
        return self.file.parent

    def with_training(self, method: str | None, seed: int | None) -> "SuiteSpec":
        """Return the suite with the method or seed of the command line, where given."""
        training, ladder = self.training, self.ladder
        if method and method != training.method:
            # A learning rate is chosen for one method, and only LoRA has variants and ranks to climb.
            training = replace(training, method=method, learning_rate=0.0, variant="lora")
            ladder = ladder if method in RANKED else ()
        if seed is not None:
            training = replace(training, seed=seed)
        return replace(self, training=training, ladder=ladder)

    def base_model(self) -> Model:
        """Return the base model with the digest of its bytes (or its pinned revision)."""
        path = model_folder(self.model, self.folder)
        name = digest.of_files(path, MODEL_FILES) if path else f"{self.model}@{self.revision}"
        return Model(self.model, name, str(path) if path else "", self.revision)


def _files(outputs: OutputsSpec | None) -> tuple[str, ...]:
    return (outputs.base, outputs.adapter) if outputs else ()


def find(start: Path, root: Path) -> Path | None:
    """Return the nearest `suite.toml` in ``start`` or a folder above it, up to ``root``."""
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder / FILE
        if folder == root:
            return None
    return None


def below(top: Path) -> Iterator[Path]:
    """Yield the `suite.toml` files in a folder and all below, but for those that pytest would not look into."""
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NOT_OURS)
        if "pyvenv.cfg" in files:
            folders.clear()
        elif FILE in files:
            yield Path(folder, FILE)


def load(file: Path, root: Path) -> SuiteSpec:
    """Read and validate a suite.

    Args:
        file: the `suite.toml`.
        root: the folder that no path in it may lead out of.

    Raises:
        SuiteError: naming the file, the key, the bad value and the remedy.
    """
    raw = read(file)
    task = raw.get("task", "instruction")
    labels = tuple(raw.get("answer", {}).get("labels", ()))
    prompts = raw.get("prompts", {})
    candidates = tuple(prompts.get("candidates", (prompts.get("serve", ""),)))
    training = dict(raw.get("training", {}))
    replay, ladder = training.pop("replay", 0.25), tuple(training.pop("ladder", ()))
    if "target_modules" in training:
        training["target_modules"] = tuple(training["target_modules"])
    gate = {"metric": default_metric(task, labels), **raw.get("gate", {})}
    data = raw["data"]
    spec = SuiteSpec(
        name=raw.get("name", file.parent.name),
        file=file,
        model=raw["model"],
        revision=raw.get("revision", ""),
        requires=tuple(raw.get("requires", ())),
        task=task,
        train=_sources(file, root, "[data] train", data["train"]),
        heldout=_sources(file, root, "[data] heldout", data["heldout"]),
        fields=Fields(**data.get("fields", {})),
        dev_share=data.get("dev_share"),
        labels=labels,
        answer_schema=answer_schema(file, root, raw.get("answer", {}).get("schema")),
        serve=prompts.get("serve", candidates[0]),
        candidates=candidates,
        shots=tuple(sorted(prompts.get("shots", SHOTS))),
        shots_given="shots" in prompts,
        selection=tuple(prompts.get("selection", SELECTIONS)),
        chat_template=prompts.get("chat_template", "both"),
        answer_format=prompts.get("answer_format", True),
        training=Training(**training),
        ladder=ladder,
        replay_share=replay,
        general=tuple(_general(file, root, i, entry) for i, entry in enumerate(raw.get("general", ()))),
        gate=GateSpec(**gate),
        generation=Generation(**raw.get("generation", {})),
        engine=_engine(file, raw.get("engine", {})),
        dev=_sources(file, root, "[data] dev", data.get("dev", ())),
        checks=read_checks(raw.get("checks", {})),
    )
    for place, metric in (
        ("[gate] metric", spec.gate.metric),
        *((f"general {g.name}", g.metric) for g in spec.general),
    ):
        if code := code_of(metric):
            _allowed(file, root, place, code)
    _check_model(spec, root)
    _check_training(spec)
    names = [general.name for general in spec.general]
    if len(set(names)) < len(names):
        raise SuiteError(f"{file}: [[general]] names {names} are not unique; give each a name of its own")
    return spec


def _engine(file: Path, given: dict[str, Any]) -> EngineSpec:
    spec = EngineSpec(**given)
    if (spec.name == "endpoint") != bool(spec.url):
        problem = "needs its url" if spec.name == "endpoint" else 'has a url, which is name = "endpoint"\'s'
        raise SuiteError(f"{file}: [engine] name = {spec.name!r} {problem}")
    return replace(spec, url=api(spec.url, f"{file}: [engine] url")) if spec.url else spec


def read(file: Path) -> dict[str, Any]:
    """Return what a `suite.toml` says, validated, without the defaults.

    Raises:
        SuiteError: naming the file, the key, the bad value and the remedy.
    """
    return _checked(file, toml.read(file, schema()))


def parse(file: Path, content: bytes) -> dict[str, Any]:
    """Return what the bytes of a `suite.toml` say, as :func:`read` does; ``file`` is for messages only."""
    return _checked(file, toml.parse(file, content, schema()))


def _checked(file: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """Return what a suite says; of what a general suite is made no schema says in a line."""
    for index, entry in enumerate(raw.get("general", ())):
        if len({"data", "outputs", "lm_eval"} & entry.keys()) != 1:
            raise SuiteError(
                f"{file}: general.{index} needs one of 'data' (rows to ask), 'outputs' (scores made elsewhere) and "
                "'lm_eval' (a task)"
            )
    return raw


def read_checks(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Check]:
    """Return every check as a suite has it; what it does not say is the schema's default."""
    checks = {}
    for name, about in schema()["properties"]["checks"]["properties"].items():
        defaults = {key: value["default"] for key, value in about["properties"].items() if "default" in value}
        values = {**defaults, **given.get(name, {})}
        checks[name] = Check(values.pop("on_issue"), values)
    return checks


def model_folder(name: str, folder: Path) -> Path | None:
    """Return the folder of a model: the embedded one, or one on this disk; None for a hub id."""
    if name == EMBEDDED:
        return digest.PACKAGE / "embedded"
    path = _located(folder, name)
    return path if path.is_dir() or name.startswith((".", "/")) else None


def _located(folder: Path, name: str) -> Path:
    """Return the path that a name means; most names may be one, also where they mean something else."""
    try:
        path = (folder / name).resolve()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # a name that is too long, a NUL, links in a circle
        reason = getattr(error, "strerror", None) or error
        raise SuiteError(f"{shortened(repr(name))}: no path is so called: {reason}") from None
    return path


@cache
def schema() -> dict[str, Any]:
    """Return the JSON Schema of suite.toml."""
    document: dict[str, Any] = json.loads((digest.PACKAGE / "suite.schema.json").read_text())
    return document


def default_metric(task: str, labels: tuple[str, ...]) -> str:
    """Return the metric of a suite that names none."""
    return DEFAULT_METRIC.get(task, "label_accuracy" if labels else "exact_match")


def _general(file: Path, root: Path, index: int, entry: dict[str, Any]) -> GeneralSpec:
    key = f"general.{index}"
    if "lm_eval" in entry:
        return _harnessed(file, root, key, entry)
    if extra := sorted({"limit", "num_fewshot"} & entry.keys()):
        raise SuiteError(f"{file}: {key}.{extra[0]} is for tasks of lm_eval; leave it out")
    data = _sources(file, root, f"{key}.data", entry["data"]) if "data" in entry else ()
    outputs = _outputs(file, root, f"{key}.outputs", entry["outputs"]) if "outputs" in entry else None
    replay = _sources(file, root, f"general.{index}.replay", entry["replay"]) if "replay" in entry else ()
    if outputs and "metric" in entry:
        raise SuiteError(f"{file}: {key}: outputs are scored already; name their metric in outputs.metric")
    if outputs and "name" not in entry:
        raise SuiteError(f"{file}: {key} has outputs and needs a name (their files are called anew by every run)")
    name = entry.get("name") or Path(data[0]).stem
    return GeneralSpec(
        name, data, replay, entry.get("metric", "exact_match"), Fields(**entry.get("fields", {})), outputs
    )


def _harnessed(file: Path, root: Path, key: str, entry: dict[str, Any]) -> GeneralSpec:
    """Return a general suite that is a task of lm-eval."""
    if extra := sorted({"fields", "replay"} & entry.keys()):
        raise SuiteError(f"{file}: {key}.{extra[0]} is for rows in 'data'; a task of lm_eval has its own; leave it out")
    name = entry["lm_eval"]
    place = str(_inside(file, root, f"{key}.lm_eval", name)) if is_path(name) else ""
    task = HarnessTask(name, place, entry.get("limit"), entry.get("num_fewshot"))
    return GeneralSpec(entry.get("name") or task_name(name), (), (), entry.get("metric", ""), Fields(), task=task)


def is_path(lm_eval: str) -> bool:
    """Whether a task of lm-eval is named by a path, and not by its name, which holds neither."""
    return "/" in lm_eval or lm_eval.endswith((".yaml", ".yml"))


def task_name(lm_eval: str) -> str:
    """Return what a general suite is called that is a task of lm-eval and has no name of its own."""
    return Path(lm_eval).stem if is_path(lm_eval) else lm_eval


def _outputs(file: Path, root: Path, key: str, entry: dict[str, str]) -> OutputsSpec:
    """Return where outputs are; a pattern must match one file, since each run of lm-eval writes another."""
    paths = {}
    for side in ("base", "adapter"):
        name, place = entry[side], f"{key}.{side}"
        fixed, star, rest = name.partition("*")
        folder, _, start = fixed.rpartition("/")  # the part before any pattern, which must stay inside
        inside = _inside(file, root, place, folder or ".") if star else file.parent
        try:
            found = sorted(inside.glob(start + star + rest)) if star else [file.parent / name]
        except ValueError as error:  # such as **x
            raise SuiteError(f"{file}: {place} = {name!r}: {error}") from None
        if len(found) != 1:
            names = ", ".join(os.path.relpath(path, file.parent) for path in found[:3]) or "none"
            raise SuiteError(f"{file}: {place} = {name!r} must match one file; it matches {names}")
        paths[side] = str(_inside(file, root, place, os.path.relpath(found[0], file.parent)))
    return OutputsSpec(**paths, metric=entry.get("metric", ""), of=entry.get("of", ""))


def _sources(file: Path, root: Path, key: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """Return absolute paths (or hub ids as they are); a path must exist and stay inside ``root``."""
    names = [value] if isinstance(value, str) else value
    paths = [name if name.startswith("hub:") else str(_inside(file, root, key, name)) for name in names]
    for folder in (path for path in map(Path, paths) if path.is_dir()):
        for link in filter(Path.is_symlink, folder.rglob("*")):
            _allowed(file, root, key, str(link))  # whole: from a folder behind a link, `..` leads elsewhere
    return tuple(paths)


def _inside(file: Path, root: Path, key: str, name: str) -> Path:
    """Return what a name in a suite leads to, which must be there and be the suite's to name."""
    path = _allowed(file, root, key, name)
    if not path.exists():
        raise SuiteError(f"{file}: {key} = {shortened(repr(name))}: no such file: {path}")
    return path


def _allowed(file: Path, root: Path, key: str, name: str) -> Path:
    """Return the path that a name means: inside the project, or where whoever runs this allows."""
    try:
        path = _located(file.parent, name)
    except SuiteError as error:
        raise SuiteError(f"{file}: {key} = {error}") from None
    others = map(Path, filter(None, os.environ.get(PATHS, "").split(os.pathsep)))
    if not any(path.is_relative_to(place.resolve()) for place in (root, *others)):
        raise SuiteError(
            f"{file}: {key} = {shortened(repr(name))} leads out of {root}; keep it inside the project, or allow "
            f"folders outside with {PATHS}=FOLDER{os.pathsep}FOLDER"
        )
    return path


def code_of(metric: str) -> str:
    """Return the file or folder whose code a metric is; empty for one that is no file."""
    head, _, argument = metric.partition(":")
    if head == "python":
        return argument.rpartition(":")[0]
    module = argument.partition(":")[0]
    return module if head in ("evaluate", "corpus") and (module.startswith(".") or "/" in module) else ""


def answer_schema(file: Path, root: Path, value: str | dict[str, Any] | None, key: str = "[answer] schema") -> str:
    """Return the JSON Schema that a file names or holds, as JSON text; nothing where there is none.

    Raises:
        SuiteError: it cannot be read, or is none.
    """
    if value is None:
        return ""
    import jsonschema

    try:
        document: dict[str, Any] = (
            json.loads(_inside(file, root, key, value).read_text(encoding="utf-8")) if isinstance(value, str) else value
        )
        jsonschema.validators.validator_for(document).check_schema(document)
        if elsewhere := next(_references_elsewhere(document), ""):
            raise ValueError(f"$ref {shortened(repr(elsewhere))} leads out of it, and nothing is fetched; write it in")
    except (OSError, ValueError, RecursionError, jsonschema.SchemaError) as error:
        reason = one_line(error, 200)
        raise SuiteError(f"{file}: {key}: no valid JSON Schema: {reason}") from error
    return json.dumps(document, sort_keys=True)


def _references_elsewhere(document: Any) -> Iterator[str]:
    """Yield the references of a schema to what is not in it."""
    from referencing import Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

    draft = DRAFT202012.detect(document)  # each has its own names for what can be referred to
    whole: Resource[Any] = draft.create_resource(document)
    stack = [(whole, EMPTY_REGISTRY.resolver_with_root(whole))]
    seen: set[int] = set()
    while stack:
        part, resolver = stack.pop()
        if not isinstance(part.contents, dict) or id(part.contents) in seen:
            continue
        seen.add(id(part.contents))
        stack += [(inner, resolver.in_subresource(inner)) for inner in part.subresources()]
        for reference in (part.contents.get("$ref"), part.contents.get("$dynamicRef")):
            if isinstance(reference, str):
                try:
                    found = resolver.lookup(reference)
                except (Unresolvable, ValueError, TypeError):  # a pointer into a number, say
                    yield reference
                else:  # it may be where no keyword has a schema
                    stack.append((draft.create_resource(found.contents), found.resolver))


def _check_training(spec: SuiteSpec) -> None:
    training, place = spec.training, f"{spec.file}: [training]"
    needs = {"pissa": "lora", "loftq": "qlora"}.get(training.variant)
    if training.variant != "lora" and training.method not in ({needs} if needs else RANKED):
        raise SuiteError(
            f"{place} variant = {training.variant!r} is a kind of {needs or 'lora or qlora'}, not of "
            f"method = {training.method!r}; change one of them"
        )
    if spec.ladder and training.method not in RANKED:
        raise SuiteError(
            f"{place} ladder = {list(spec.ladder)} lists LoRA ranks; method = {training.method!r} has none"
        )
    if spec.ladder and spec.gate.target is None:
        raise SuiteError(f"{place} ladder needs [gate] target, the dev score at which a rung is good enough")
    if training.class_weights and not spec.labels:
        raise SuiteError(f"{place} class_weights = true needs [answer] labels")


def _check_model(spec: SuiteSpec, root: Path) -> None:
    if spec.model != EMBEDDED:
        _allowed(spec.file, root, "model", spec.model)
    path = model_folder(spec.model, spec.folder)
    if path is None:
        if not spec.revision and spec.engine.name != "endpoint":  # which may be all that there is of a model
            close = f"; did you mean {EMBEDDED!r}?" if difflib.get_close_matches(spec.model, [EMBEDDED]) else ""
            raise SuiteError(
                f"{spec.file}: model = {spec.model!r} is a hub id and needs a revision of 40 hexadecimal digits "
                f"(or is a folder that does not exist: {spec.folder / spec.model}){close}"
            )
        return
    if not (path / "config.json").is_file():
        raise SuiteError(f"{spec.file}: model = {spec.model!r}: {path} has no config.json; name a model's folder")
    if not any(path.glob("*.safetensors")):
        raise SuiteError(
            f"{spec.file}: model = {spec.model!r}: {path} has no weights in *.safetensors (pickled ones are not loaded)"
        )
