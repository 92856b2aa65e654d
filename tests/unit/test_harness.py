"""General suites of lm-eval: what a suite may say of them, what names them, and the gate over a fake engine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tasks
from fake_engine import FakeEngine

from pytest_finetune import fixtures, harness, plan, suite, taskfile
from pytest_finetune.claims import Asked, ClaimNotProven, Gate
from pytest_finetune.errors import DataRefused, EngineError, SuiteError
from pytest_finetune.handles import AdapterHandle
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Adapter, HarnessTask, TrainingCurve, TrainSpec, Verdict
from pytest_finetune.store import Store
from pytest_finetune.suite import SuiteSpec

SUITE = """
model = "embedded"
data = { train = "train.jsonl", heldout = "heldout.jsonl" }
prompts = { candidates = ["say"], shots = [0], chat_template = "on", answer_format = false }
[[general]]
lm_eval = "%s"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a suite and a task of its own."""
    project = tmp_path / "project"
    project.mkdir()
    for name, start in (("train", 0), ("heldout", 100)):
        rows = [{"prompt": f"ask {i}", "completion": "right"} for i in range(start, start + 60)]
        (project / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks.write(project / "tasks", "ranked", tasks.rows("sentiment", 3))
    return project


def opened(folder: Path, engine: FakeEngine, more: str = 'metric = "acc"', name: str = "arc", **place: Any) -> Pipeline:
    """Return the pipeline of a suite with one task, as a new run would open it."""
    (folder / "suite.toml").write_text(SUITE % name + more + "\n")
    spec = suite.load(folder / "suite.toml", folder)
    return Pipeline(spec, Workplace(Store(folder / ".finetune"), lambda name: engine, **place))


def knows(lost: int) -> Callable[[Turns, Adapter | None], str]:
    """Return answers of which the adapter loses the first documents, so many."""

    def answer(prompt: Turns, adapter: Adapter | None) -> str:
        number = int(prompt[-1].content.split()[-1])
        return "wrong" if adapter and number < lost else "right"

    return answer


def keeps(pipeline: Pipeline) -> Verdict:
    """Return the verdict on what is kept, also one that blocks."""
    try:
        adapter = AdapterHandle(pipeline)
        gate = Gate(pipeline, Asked("test"))
        return gate.keeps(adapter, fixtures.base_model(pipeline), on=fixtures.general(pipeline))
    except ClaimNotProven as error:
        return error.verdict


def test_a_task_is_gated_on_its_documents(folder: Path) -> None:
    """Equal scores pass and lost ones fail, with the documents that were lost; a second run asks nobody."""
    engine = FakeEngine(knows(0))
    pipeline = opened(folder, engine)
    assert keeps(pipeline).outcome == "PASS"
    assert engine.calls["harness"] == 2
    assert pipeline.measurements["adapter", "arc", "acc"].mean == 1
    assert pipeline.record().rows["general arc"] == 200
    stages = pipeline.record().stages
    assert stages["outputs of adapter on arc"].startswith("made: 0 of 200 rows reused, 200 asked")
    again = opened(folder, engine)
    assert keeps(again).outcome == "PASS"
    assert engine.calls["harness"] == 2
    lost = keeps(opened(folder, FakeEngine(knows(60)), 'metric = "acc"\nname = "other"'))
    assert lost.outcome == "PASS", "the same task and adapter is in the store, whatever it is called"
    lost = keeps(opened(folder, FakeEngine(knows(60)), 'metric = "acc"\nnum_fewshot = 1'))
    assert lost.outcome == "FAIL"
    worst = lost.lost[0]
    assert (worst.before, worst.after, worst.drop, worst.reference) == ("right", "wrong", 1, "right")
    assert worst.asked == f"document {worst.place.removeprefix('arc:')}"


def test_every_seed_is_asked(folder: Path) -> None:
    """A recipe is judged on the documents of all its adapters, of which one that forgot is enough to fail a claim."""

    class Seeded(FakeEngine):
        def train(self, spec: TrainSpec, folder: str, kept: str = "") -> TrainingCurve:
            Path(folder, "config.json").write_text(str(spec.training.seed))
            return super().train(spec, folder, kept)

    engine = Seeded(knows(0))
    assert keeps(opened(folder, engine, seeds=3)).outcome == "PASS"
    assert engine.calls["harness"] == 4
    pipeline = opened(folder, Seeded(knows(60)), 'metric = "acc"\nlimit = 190', seeds=3)
    assert keeps(pipeline).outcome == "FAIL"
    assert {who for who, on, _ in pipeline.measurements if on == "arc"} == {
        "base model", "adapter", "adapter 2", "adapter 3"
    }  # fmt: skip


def test_recomputing_asks_nobody(folder: Path) -> None:
    """What lies in the store is judged anew without an engine; what does not is said to lack."""
    engine = FakeEngine(knows(0))
    once = keeps(opened(folder, engine))

    def none(spec: SuiteSpec) -> FakeEngine:
        raise EngineError("lacks")

    pipeline = opened(folder, engine)
    workplace = Workplace(pipeline.workplace.store, none, rejudge=True, recompute=True)
    anew = keeps(Pipeline(pipeline.spec, workplace))
    assert anew.claims == once.claims
    with pytest.raises(EngineError, match="lacks"):
        keeps(Pipeline(opened(folder, engine, "limit = 150\nmetric = 'acc'").spec, workplace))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", r"suite.toml: general arc: metric 'nats,?n?o?n?e?' is not one score from 0 to 1 .* are: acc$"),
        ('metric = "bleu"', "metric 'bleu' is not one score .*: acc$"),
        ('metric = "f1"', "metric 'f1' is not one score .*: acc$"),
        ('metric = "acc"\nlimit = 20', "general arc has 20 rows, and without a single lost one it takes 5[0-9] to"),
    ],
)
def test_what_cannot_be_judged_is_not_trained_for(more: str, said: str, folder: Path) -> None:
    """A metric that is none, and too few documents, end a run before it trains."""
    engine = FakeEngine(knows(0))
    with pytest.raises(SuiteError, match=said):
        _ = opened(folder, engine, more).adapter
    assert "train" not in engine.calls


def test_other_documents_are_refused(folder: Path) -> None:
    """An adapter that was asked other documents than the base model is compared with nothing."""

    class Changing(FakeEngine):
        def harness(self, model: Any, adapter: Any, task: HarnessTask) -> Any:
            made = super().harness(model, adapter, task)
            return made[1:] if adapter else made

    with pytest.raises(SuiteError, match="general arc: its data set changed: adapter was asked other documents"):
        keeps(opened(folder, Changing(knows(0))))


def test_nothing_is_asked_before_a_run(folder: Path) -> None:
    """Collection and plan say that documents are counted later, and claims are checked for what is known."""
    engine = FakeEngine(knows(0))
    pipeline = opened(folder, engine)
    pipeline.check_claims()
    assert any("arc is a task of lm-eval, whose documents are counted" in text for _, text, _ in plan.proofs(pipeline))
    assert not engine.calls


def test_small_suites_beside_a_task_may_do(folder: Path) -> None:
    """What all suites prove together is checked when all are counted: too few rows of one may do with a task's."""
    (folder / "small.jsonl").write_text((folder / "heldout.jsonl").read_text())
    small = 'metric = "acc"\n[[general]]\ndata = "small.jsonl"\n[gate]\nmax_drop = '
    assert opened(folder, FakeEngine(knows(0)), f"{small}0.02").asked_harness()
    pipeline = opened(folder, FakeEngine(knows(0)), f"{small}0.01")
    pipeline.check_claims()
    with pytest.raises(DataRefused, match="the general suites have 260 rows, which even without a single lost one"):
        pipeline.asked_harness()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('lm_eval = "a"\ndata = "train.jsonl"', "general.0 needs one of 'data'"),
        ('lm_eval = "a"\nreplay = "train.jsonl"', "general.0.replay is for rows in 'data'"),
        ('lm_eval = "a"\nfields = { prompt = "x" }', "general.0.fields is for rows in 'data'"),
        ('lm_eval = "a"\nlimit = 0', "limit"),
        ('data = "train.jsonl"\nlimit = 5', "general.0.limit is for tasks of lm_eval"),
        ('lm_eval = "./gone.yaml"', "no such file"),
        ('lm_eval = "../x/gone.yaml"', "leads out of"),
        ('lm_eval = "/etc/hosts.yaml"', "leads out of"),
    ],
)
def test_mistakes_in_the_suite(entry: str, said: str, folder: Path) -> None:
    """What does not go together, and paths that are none, are one line each."""
    (folder / "suite.toml").write_text(SUITE.replace('lm_eval = "%s"', entry))
    with pytest.raises(SuiteError, match=said):
        suite.load(folder / "suite.toml", folder)


@pytest.mark.parametrize(("given", "name"), [("arc_easy", "arc_easy"), ("tasks/ranked.yaml", "ranked"), ("./x", "x")])
def test_a_task_names_its_suite(given: str, name: str, folder: Path) -> None:
    """A suite without a name is called as its task."""
    (folder / "x").mkdir()
    assert opened(folder, FakeEngine(knows(0)), name=given).spec.general[0].name == name


def test_lm_eval_is_missed_before_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra a run ends at once, in one line that says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SuiteError, match=r"general arc: lm_eval is not installed; pip install 'pytest-finetune\[lm-ev"):
        harness.check(opened(folder, FakeEngine(knows(0))).spec)


def named(file: Path) -> object:
    """Return what names a task's answers."""
    return harness.inputs_of(HarnessTask("ranked", str(file)), "suite.toml")["lm-eval task"]


@pytest.mark.parametrize("name", ["coded.yaml", "coded.jsonl", "judged.py", "../default.yaml", "../more/deep.jsonl"])
def test_all_that_a_task_is_made_of_names_it(name: str, folder: Path) -> None:
    """A change of its YAML, of one it includes, of its code or its data asks anew; where it lies does not."""
    file = tasks.write(folder / "own", "coded", tasks.rows("sentiment", 3))
    (folder / "more").mkdir()
    (folder / "more/deep.jsonl").write_text("{}\n")
    (folder / "default.yaml").write_text("num_fewshot: 0\n")
    text = file.read_text().replace("{test: coded.jsonl}", "{test: coded.jsonl, train: [../more/*.jsonl]}")
    file.write_text(text + "include: ../default.yaml\n")
    once = named(file)
    shutil.copytree(folder, folder.parent / "elsewhere")
    assert named(folder.parent / "elsewhere/own/coded.yaml") == once
    (file.parent / "test_coded.py").write_text("")
    assert named(file) == once, "which it does not name"
    changed = file.parent / name
    changed.write_text(changed.read_text() + "\n")
    assert named(file) != once
    assert named(file.parent) == named(file)


def test_data_beside_its_task_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data is sought beside the YAML file first, so that a suite runs from anywhere; what is not there stays."""
    monkeypatch.chdir(folder.parent)
    said = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "ranked.jsonl", "train": "hub/x"}}}
    found = taskfile.localised(said, folder / "tasks")["dataset_kwargs"]["data_files"]
    assert found == {"test": str(folder / "tasks/ranked.jsonl"), "train": "hub/x"}
    assert taskfile.localised({"dataset_path": "tasks"}, folder)["dataset_path"] == str(folder / "tasks")
    assert taskfile.localised({"dataset_path": "Rowan/hellaswag"}, folder) == {"dataset_path": "Rowan/hellaswag"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "task: [", r"tasks/a.yaml: no valid YAML: "),
        ("a.yaml", "- task", r"a.yaml: no task of lm-eval: its YAML is list"),
        ("a.yaml", "group: g\ntask: [one, {task: two}]", r"a.yaml: a group of tasks; .* its own: one, two$"),
        ("a.yaml", "num_fewshot: 1", r"a.yaml: no key 'task'"),
        ("a.yaml", "task: a\nx: !function [b]", r"a.yaml: no valid YAML: "),
        ("a.yaml", "task: a\ninclude: a.yaml", r"a.yaml: include 'a.yaml' leads back to itself"),
        ("a.yaml", "task: a\ninclude: gone.yaml", r"gone.yaml: cannot be read: No such file"),
        (".", "task: a", r"tasks: a folder must hold .* one task; it holds a.yaml, ranked.yaml; name one"),
    ],
)
def test_files_that_are_no_task(name: str, text: str, said: str, folder: Path) -> None:
    """A YAML file that cannot be read, or is not of one task, is named in one line."""
    (folder / "tasks" / "a.yaml").write_text(text + "\n")
    with pytest.raises(SuiteError, match=rf"suite.toml: .*{said}"):
        harness.inputs_of(HarnessTask("x", str(folder / "tasks" / name)), "suite.toml")
