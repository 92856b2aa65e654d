"""Tasks of lm-evaluation-harness on our engine: the numbers of its own command line, and a gate on them."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapters
import pytest
import tasks
import tokenizers
from colours import SUITE

from pytest_finetune.digest import PACKAGE
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.engine.harness import documents, evaluated
from pytest_finetune.engine.local import LocalEngine
from pytest_finetune.engine.models import Loaded
from pytest_finetune.errors import FinetuneError, SuiteError
from pytest_finetune.records import Adapter, HarnessTask, Model

EMBEDDED = PACKAGE / "embedded"
DOCUMENTS = 30
Sample = dict[str, Any]


def by_command_line(folder: Path, out: Path, names: list[str], model: str) -> dict[str, list[Sample]]:
    """Return what lm-eval's own command line logs of each task."""
    command = [str(Path(sys.executable).with_name("lm_eval")), "run", "--model", "hf", "--model_args", model]
    command += ["--device", "cpu", "--batch_size", "1", "--tasks", ",".join(names), "--include_path", str(folder)]
    command += ["--log_samples", "--output_path", str(out)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    # There, data is looked for in the working folder.
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return {
        name: [json.loads(line) for file in out.rglob(f"samples_{name}_*") for line in file.read_text().splitlines()]
        for name in names
    }


def parts(answer: Any) -> list[Any]:
    """Return log-likelihoods as numbers and all else as text, in order; the command line writes all as text."""
    if isinstance(answer, (list, tuple)):
        return [part for inner in answer for part in parts(inner)]
    try:
        return [float(answer) if not isinstance(answer, bool) else str(answer)]
    except ValueError:
        return [answer]


def quietly(done: int, total: int) -> None:
    """Tell nobody of progress."""


def samples(loaded: Loaded, task: HarnessTask) -> list[Sample]:
    """Return what lm-eval logs of each document, asked on our engine."""
    found: list[Sample] = evaluated(loaded, task, quietly)[1]["samples"][task.name]
    return found


def key(sample: Sample) -> tuple[int, str]:
    """Return what one line of lm-eval is called by."""
    return sample["doc_id"], sample["filter"]


def hashes(sample: Sample) -> list[str]:
    """Return what names a document, what was asked, and the right answer."""
    return [sample[name] for name in ("doc_hash", "prompt_hash", "target_hash")]


def shots(samples: list[Sample]) -> list[int]:
    """Return how many examples stand before each document."""
    return [sample["arguments"][0][0].count("\n\n") for sample in samples]


def beginning(folder: Path) -> Path:
    """Write the embedded model with a tokenizer that begins every text with a token, as Llama's does."""
    shutil.copytree(EMBEDDED, folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    begin = ("<|system|>", tokenizer.token_to_id("<|system|>"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(f"{begin[0]} $A", special_tokens=[begin])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"bos_token": begin[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["base", "lora"])
def test_numbers_of_the_command_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of task, document by document: log-likelihoods, answers and each metric are lm-eval's own.

    The base model's texts begin with a token, and the adapter's do not.
    """
    names = tasks.write_all(tmp_path / "tasks", DOCUMENTS)
    if kind == "lora":
        folder = EMBEDDED
        adapter = Adapter(str(tmp_path / "lora"), adapters.lora(tmp_path / "lora", 1, size=0.3), "lora")
    else:
        folder, adapter = beginning(tmp_path / "model"), None
    model = f"pretrained={folder},dtype=float32" + (f",peft={adapter.path}" if adapter else "")
    theirs = by_command_line(tmp_path / "tasks", tmp_path / "out", names, model)
    engine, asked = LocalEngine("cpu"), Model("model", "base", path=str(folder))
    monkeypatch.chdir(tmp_path / "tasks")
    for name in names:
        task = HarnessTask(name, f"{name}.yaml" if name in tasks.TASKS else "")
        own = samples(engine.models.get(asked, adapter), task)
        pairs = list(zip(sorted(own, key=key), sorted(theirs[name], key=key), strict=True))
        assert len(pairs) >= DOCUMENTS
        for mine, wanted in pairs:
            place = (name, key(mine), mine["resps"], wanted["resps"])
            assert key(mine) == key(wanted), place
            assert hashes(mine) == hashes(wanted), place
            for one, other in zip(parts(mine["resps"]), parts(wanted["resps"]), strict=True):
                assert one == (pytest.approx(other, abs=1e-3) if isinstance(other, float) else other), place
            for metric in wanted["metrics"]:
                assert mine[metric] == pytest.approx(wanted[metric], abs=1e-3), (place, metric)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """The embedded model in this process."""
    return LocalEngine("cpu").models.get(Model("embedded", "base", path=str(EMBEDDED)))


def test_first_documents_and_examples(loaded: Loaded, tmp_path: Path) -> None:
    """A limit takes the first documents as they are; fewer examples shorten what is asked, unless the task says 0."""
    file = str(tasks.write(tmp_path, "ranked", tasks.rows("sentiment", 9)))
    whole = samples(loaded, HarnessTask("ranked", file))
    first = samples(loaded, HarnessTask("ranked", file, limit=4))
    assert list(map(hashes, first)) == list(map(hashes, whole[:4]))
    one = samples(loaded, HarnessTask("ranked", file, num_fewshot=1))
    assert (shots(whole), shots(one)) == ([2] * 9, [1] * 9)
    own = str(tasks.write(tmp_path, "likely", tasks.rows("copy", 2), "num_fewshot: 0\n"))
    assert shots(samples(loaded, HarnessTask("likely", own, num_fewshot=1))) == [0, 0]


def test_documents_of_every_kind(loaded: Loaded, tmp_path: Path) -> None:
    """What was asked, the right answer, the model's and the scores, for reports; equal documents are told apart."""
    row = tasks.rows("sentiment", 1)[0]
    ranked, again = documents(loaded, HarnessTask("t", str(tasks.write(tmp_path, "ranked", [row, row], ZERO))), quietly)
    assert (ranked.asked, ranked.reference) == (row["prompt"], row["completion"])
    assert re.fullmatch(r"positive \(-[\d.]+\); negative \(-[\d.]+\)", ranked.answers["none"])
    assert list(ranked.scores) == ["acc,none", "acc_norm,none", "acc_mutual_info,none"]
    assert ranked.id != again.id
    assert ranked == replace(again, id=ranked.id)
    (row,) = tasks.rows("copy", 1)
    (said,) = documents(loaded, HarnessTask("t", str(tasks.write(tmp_path, "said", [row]))), quietly)
    assert said.scores == {"exact_match,first": 0.0, "exact_match,whole": 0.0}
    row["completion"] = said.answers["whole"].upper()
    (said,) = documents(loaded, HarnessTask("t", str(tasks.write(tmp_path, "said", [row]))), quietly)
    assert said.scores == {"exact_match,first": 1.0, "exact_match,whole": 1.0}
    shown = documents(
        loaded, HarnessTask("t", str(tasks.write(tmp_path, "ranked", tasks.rows("sentiment", 4)))), quietly
    )
    assert [one.asked for one in shown] == [row["prompt"] for row in tasks.rows("sentiment", 4)], "without its examples"
    file = tasks.write(tmp_path, "rolling", [row])
    (rolling,) = documents(loaded, HarnessTask("t", str(file)), quietly)
    assert set(rolling.scores.values()) == {None}
    (coded,) = documents(
        loaded, HarnessTask("t", str(tasks.write(tmp_path, "coded", tasks.rows("sentiment", 1)))), quietly
    )
    assert 0 < (coded.scores["odds,none"] or 0) < 1
    assert coded.scores["doubt,none"] is None, "less of it is better"
    file = tasks.write(tmp_path, "likely", tasks.rows("copy", 1))
    (likely,) = documents(loaded, HarnessTask("t", str(file)), quietly)
    assert re.fullmatch(r"log-likelihood -[\d.e-]+(, greedy)?", likely.answers["none"])


ZERO = "fewshot_config: {split: test}\nnum_fewshot: 0\n"
MISTAKES = {
    "code": ("ranked", "unsafe_code: true", "it runs what the model writes as code"),
    "images": ("ranked", "doc_to_image: prompt", "it shows images"),
    "no split": ("ranked", "test_split: null", "it has no test_split and no validation_split"),
    "no data": (
        "ranked",
        "dataset_kwargs: {data_files: {test: gone.jsonl}}",
        "its data set 'json' cannot be loaded: ",
    ),
    "no such split": ("ranked", "test_split: other", "it cannot be set up: KeyError: 'other'"),
    "no such function": ("ranked", "doc_to_text: !function judged.gone", "ranked.yaml cannot be read: AttributeError"),
    "no such field": ("ranked", "nothing_of_lm_eval: 1", "it cannot be set up: TypeError"),
    "no column": ("ranked", "doc_to_target: '{{nothing}}'", "lm_eval = 't': "),
    "drawn": ("said", "generation_kwargs: {do_sample: true, temperature: 0.7}", "its answers are drawn at random"),
    "beams": ("said", "generation_kwargs: {num_beams: 4}", "generation_kwargs num_beams = 4 is not known here"),
    "no room": ("said", "generation_kwargs: {max_gen_toks: 768}", "max_gen_toks = 768 leaves no room"),
    "nothing asked": ("said", "doc_to_text: ''", "a document asks nothing"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_tasks_that_are_not_run(name: str, loaded: Loaded, tmp_path: Path) -> None:
    """What a task says wrong, or is not done here, is one line."""
    kind, more, said = MISTAKES[name]
    key = more.partition(":")[0]
    file = tasks.write(tmp_path, kind, tasks.rows("sentiment", 3))
    kept = [line for line in file.read_text().splitlines() if not line.startswith(f"{key}:")]
    file.write_text("\n".join([*kept, more]) + "\n")
    with pytest.raises(FinetuneError) as caught:
        documents(loaded, HarnessTask("t", str(file)), quietly)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_names_of_lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is none has the close ones named, a group its tasks, and data that cannot be reached is said."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    engine = EngineProcess("cpu", lambda progress: None)
    try:
        for name, said in (
            ("helaswag", "lm-eval [0-9.]* has no such task; did you mean 'hellaswag'"),
            ("arithmetic", "a group of tasks; .* its own: arithmetic_1dc, arithmetic_2da"),
            ("mmlu", "a group of tasks; .* its own: mmlu_stem"),
            ("arc_easy", "its data set 'allenai/ai2_arc' cannot be loaded: "),
        ):
            with pytest.raises(SuiteError, match=f"lm_eval = '{name}': {said}"):
                engine.harness(Model("embedded", "base", path=str(EMBEDDED)), None, HarnessTask(name))
    finally:
        engine.close()


TEST = """
def test_keeps(gate, adapter, base_model, general):
    gate.keeps(adapter, base_model, on=general)
"""
GENERAL = """
[[general]]
lm_eval = "tasks/ranked.yaml"
metric = "acc"
"""
ROWS = 200


@pytest.fixture
def asked(project: Path) -> Path:
    """A suite whose general suite is a task of the project's own."""
    tasks.write(project / "tasks", "ranked", tasks.rows("sentiment", ROWS))
    (project / "suite.toml").write_text(SUITE + GENERAL)
    (project / "test_colours.py").write_text(TEST)
    return project


def gate(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Gate the suite."""
    return pytester.runpytest_subprocess("--finetune", "-p", "no:cacheprovider", *args, timeout=240)


@pytest.mark.slow
def test_a_harmless_adapter_passes(pytester: pytest.Pytester, asked: Path) -> None:
    """A task of lm-eval's own form gates an adapter, and is judged anew from the evidence without a model."""
    adapters.lora(pytester.path / "made", 0, size=1e-4)
    made = gate(pytester, "--finetune-adapter=made", "--finetune-evidence=cell", "--finetune-report=once.json")
    assert made.ret == 0
    made.stdout.fnmatch_lines(["*PASS*adapter keeps ranked*% -> *"])
    again = gate(
        pytester, "--finetune-adapter=made", "--finetune-recompute", "--finetune-store=cell",
        "--finetune-report=again.json",
    )  # fmt: skip
    assert again.ret == 0
    once, anew = (json.loads((pytester.path / f"{name}.json").read_text())["suites"][0] for name in ("once", "again"))
    assert anew["verdicts"] == once["verdicts"]
    assert once["rows"]["general ranked"] == ROWS


@pytest.mark.slow
def test_an_adapter_that_forgot_fails(pytester: pytest.Pytester, asked: Path) -> None:
    """The verdict names the documents that were lost, with what was asked and the options by log-likelihood."""
    adapters.lora(pytester.path / "made", 1)
    made = gate(pytester, "--finetune-adapter=made", "-v")
    assert made.ret == 1
    made.stdout.fnmatch_lines(["*FAIL*adapter keeps ranked*", "*worst lost examples*", "*ranked:*positive*"])
    made.stdout.no_fnmatch_line("*Traceback*")
