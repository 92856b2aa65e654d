"""The gate as tests call it, over a fake engine: verdicts kept, attempts counted, seeds, levels and slices."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from pytest_finetune import fixtures, suite
from pytest_finetune.claims import Asked, ClaimNotProven, Gate
from pytest_finetune.cli import main
from pytest_finetune.errors import DataRefused, SuiteError
from pytest_finetune.handles import AdapterHandle
from pytest_finetune.holdings import entries, remove
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Adapter, Verdict
from pytest_finetune.store import Store

Answer = Callable[[Turns, Adapter | None], str]
LABELS = ("even", "odd")
SUITE = """
model = "embedded"
task = "classification"
data = { train = "train.jsonl", heldout = "heldout.jsonl", fields = { slice = "size" } }
prompts = { candidates = ["say"], shots = [0], chat_template = "on", answer_format = false }
"""


def write_rows(path: Path, numbers: range) -> None:
    """Write rows that ask whether a number is even, in two slices."""
    rows = ({"prompt": f"number {i}", "completion": LABELS[i % 2], "size": "big" if i % 5 else "five"} for i in numbers)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A suite of 60 training and 500 held-out rows."""
    write_rows(tmp_path / "train.jsonl", range(60))
    write_rows(tmp_path / "heldout.jsonl", range(1000, 1500))
    (tmp_path / "suite.toml").write_text(SUITE)
    return tmp_path


def knows(share: float, base: float = 0.0) -> Answer:
    """Return answers of which the adapter's are right on that share of rows, and the base model's on another."""

    def answer(prompt: Turns, adapter: Adapter | None) -> str:
        number = int(prompt[-1].content.split()[-1])
        right = (number * 7919 % 1000) / 1000 < (share if adapter else base)
        return LABELS[number % 2] if right else "?"

    return answer


def opened(folder: Path, engine: FakeEngine, **place: object) -> Pipeline:
    """Return the suite's pipeline as a new run would open it."""
    spec = suite.load(folder / "suite.toml", folder)
    return Pipeline(spec, Workplace(Store(folder / ".finetune"), lambda name: engine, **place))  # type: ignore[arg-type]  # names vary


def beats(pipeline: Pipeline, margin: float = 0.05) -> Verdict:
    """Return the verdict of the gate's first claim, also one that blocks."""
    try:
        return Gate(pipeline, Asked("test")).beats(
            AdapterHandle(pipeline), fixtures.baseline(pipeline), on=fixtures.heldout(pipeline), margin=margin
        )
    except ClaimNotProven as error:
        return error.verdict


def test_a_plain_verdict_measures_a_fifth(folder: Path) -> None:
    """A collapse or a plain gain is settled at the first look; without early stopping it is the same verdict."""
    first = beats(opened(folder, FakeEngine(knows(1.0))))
    assert (first.outcome, first.claims[0].n, first.claims[0].look) == ("PASS", 100, 1)
    pipeline = opened(folder, FakeEngine(knows(1.0)), early_stop=False)
    whole = beats(pipeline)
    assert whole.claims == first.claims
    assert len(pipeline.measurements["adapter", "held-out", "label_accuracy"].ids) == 500


def test_the_order_of_rows_in_the_file_sways_nothing(folder: Path) -> None:
    """The rows of a look are chosen by a hash of each row."""
    once = beats(opened(folder, FakeEngine(knows(1.0))))
    lines = (folder / "heldout.jsonl").read_text().splitlines()
    (folder / "heldout.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    again = beats(opened(folder, FakeEngine(knows(1.0))))
    assert again.claims == once.claims
    assert again.attempt == 1


def test_identical_inputs_give_the_stored_verdict(folder: Path) -> None:
    """A second run asks no engine, and takes the verdict even where outputs are gone from the store."""
    once = beats(opened(folder, FakeEngine(knows(0.3, 0.2))))
    store = Store(folder / ".finetune")
    for entry in entries(store):
        if entry.stage == "outputs":
            remove(store, entry)
    changed = FakeEngine(knows(1.0))
    pipeline = opened(folder, changed)
    vars(pipeline)["baseline"] = opened(folder, FakeEngine(knows(0.3, 0.2))).baseline
    vars(pipeline)["adapter"] = opened(folder, FakeEngine(knows(0.3, 0.2))).adapter
    assert beats(pipeline) == once
    assert "generate" not in changed.calls


def test_what_a_verdict_rests_on_is_never_pruned(folder: Path) -> None:
    """The ledger notes it when the verdict is decided, a run that takes the verdict keeps that, and from it alone
    the verdict can be decided anew without a model.
    """
    once = beats(opened(folder, FakeEngine(knows(0.3, 0.2))))
    store = Store(folder / ".finetune")
    store.json("outputs", "of nobody", lambda: 1)
    [noted] = store.ledger.entries()
    assert {"adapter", "outputs", "verdict"} <= {stage for stage, _ in noted.needs}
    beats(opened(folder, FakeEngine(knows(0.3, 0.2))))
    assert store.ledger.entries() == [noted]
    assert main(["store", f"--store={store.root}", "--prune-days=0"]) == 0
    assert {(entry.stage, entry.key) for entry in entries(store)} == set(noted.needs)
    again = FakeEngine(knows(1.0))
    assert beats(opened(folder, again, rejudge=True)) == once
    assert again.calls == {}


def test_swapped_arguments_are_no_attempt(folder: Path) -> None:
    """The baseline in the adapter's place is a mistake, and wears no rows."""
    pipeline = opened(folder, FakeEngine(knows(1.0)))
    with pytest.raises(SuiteError, match="the arguments are swapped"):
        Gate(pipeline, Asked("test")).beats(
            fixtures.baseline(pipeline), AdapterHandle(pipeline), on=fixtures.heldout(pipeline)
        )
    assert beats(opened(folder, FakeEngine(knows(1.0)))).attempt == 1


def test_attempts_spend_alpha(folder: Path) -> None:
    """Each new adapter on the same rows is judged at alpha / k^2; the margin alone is no attempt."""
    assert beats(opened(folder, FakeEngine(knows(1.0)))).attempt == 1
    assert beats(opened(folder, FakeEngine(knows(1.0))), margin=0.1).attempt == 1
    write_rows(folder / "train.jsonl", range(61))
    second = beats(opened(folder, FakeEngine(knows(0.4, 0.2))))
    assert second.attempt == 2
    assert second.alpha_spent == pytest.approx(0.05 + 0.05 / 4)
    assert second.claims[0].alpha < 0.05 / 4


def test_verdicts_carry_what_was_judged(folder: Path) -> None:
    """Digests of model, adapter, subjects, rows and metric; rows needed, and the least difference shown."""
    verdict = beats(opened(folder, FakeEngine(knows(0.27, 0.22))))
    (claim,) = verdict.claims
    assert verdict.outcome == "INCONCLUSIVE"
    assert set(verdict.digests) == {"model", "adapter", "subjects", "rows", "metric"}
    assert claim.n == claim.wins + claim.losses + claim.ties == 500
    assert claim.n_needed is not None
    assert claim.n_needed > 500
    assert claim.estimate < claim.detectable < 0.2


def test_named_slices_are_claims(folder: Path) -> None:
    """A slice that loses fails where it is named, and is reported where it is not."""

    def answer(prompt: Turns, adapter: Adapter | None) -> str:
        number = int(prompt[-1].content.split()[-1])
        right = (number % 5 != 0) == (adapter is not None)
        return LABELS[number % 2] if right else "?"

    verdict = beats(opened(folder, FakeEngine(answer)))
    assert verdict.outcome == "PASS"
    assert [one.name for one in verdict.slices if one.worse] == ["five"]
    (folder / "suite.toml").write_text(SUITE + "[gate.slices]\nfive = 0.1\n")
    named = beats(opened(folder, FakeEngine(answer)))
    assert named.outcome == "FAIL"
    assert [claim.outcome for claim in named.claims] == ["PASS", "FAIL"]
    (folder / "suite.toml").write_text(SUITE + "[gate.slices]\nfivve = 0.1\n")
    with pytest.raises(SuiteError, match=r"\[gate.slices\] 'fivve' is not one of big, five; did you mean 'five'\?"):
        opened(folder, FakeEngine(answer)).check_claims()
    (folder / "suite.toml").write_text(SUITE.replace('slice = "size"', 'slice = "sise"'))
    with pytest.raises(SuiteError, match=r"fields.slice = 'sise': no held-out row has that column"):
        opened(folder, FakeEngine(answer)).check_claims()


def test_reaches_compares_with_nobody(folder: Path) -> None:
    """A level is proven, refuted or open by the adapter's own scores, and asks the base model nothing of them."""
    for share, at_least, outcome in ((1.0, 0.9, "PASS"), (0.5, 0.9, "FAIL"), (0.92, 0.9, "INCONCLUSIVE")):
        engine = FakeEngine(knows(share))
        pipeline = opened(folder, engine)
        write_rows(folder / "train.jsonl", range(60 + int(100 * share)))  # another adapter each time
        gate = Gate(pipeline, Asked("test"))
        try:
            found = gate.reaches(AdapterHandle(pipeline), on=fixtures.heldout(pipeline), at_least=at_least).outcome
        except ClaimNotProven as error:
            found = error.verdict.outcome
        assert found == outcome


def test_a_rate_is_of_cases(folder: Path) -> None:
    """A test without the `case` fixture has no pass rate."""
    with pytest.raises(
        SuiteError,
        match=r"gate.pass_rate\(opened\): no per-case test; give a test function that has the argument 'case'",
    ):
        Gate(opened(folder, FakeEngine(knows(1.0))), Asked("test")).pass_rate(opened, at_least=0.5)


@pytest.mark.parametrize("margin", [5, -0.1, 1, "big", float("nan")])
def test_limits_of_a_call_are_shares(folder: Path, margin: float) -> None:
    """Points in place of a share, and what is no number, are one line, as is anything but rows."""
    pipeline = opened(folder, FakeEngine(knows(1.0)))
    gate, adapter, best = Gate(pipeline, Asked("test")), AdapterHandle(pipeline), fixtures.baseline(pipeline)
    rows = fixtures.heldout(pipeline)
    with pytest.raises(SuiteError, match=r"gate.beats: margin = .*: must be a share from 0 to 1"):
        gate.beats(adapter, best, on=rows, margin=margin)
    with pytest.raises(SuiteError, match=r"gate: on = .*: give rows, such as the fixture"):
        gate.beats(adapter, best, on=fixtures.general(pipeline))  # type: ignore[arg-type]  # the mistake
    with pytest.raises(SuiteError, match=r"gate.keeps: on = .*: give the fixture `general`"):
        gate.keeps(adapter, best, on=rows)  # type: ignore[arg-type]  # the mistake
    assert gate.beats(adapter, best, on=rows[:200]).claims[0].n == 40


def test_other_settings_are_another_attempt(folder: Path) -> None:
    """A few rows less, and other answers of the same adapter, are looked at again, and counted."""
    assert beats(opened(folder, FakeEngine(knows(1.0)))).attempt == 1
    with (folder / "suite.toml").open("a") as stream:
        stream.write("generation = { max_new_tokens = 9 }\n")
    assert beats(opened(folder, FakeEngine(knows(1.0)))).attempt == 2
    write_rows(folder / "heldout.jsonl", range(1000, 1490))
    assert beats(opened(folder, FakeEngine(knows(1.0)))).attempt == 3
    assert beats(opened(folder, FakeEngine(knows(1.0)))).attempt == 3


def test_a_slice_that_no_look_has_seen_yet_is_open(folder: Path) -> None:
    """A named slice of few rows waits for the look that has one of them."""
    rows = [json.loads(line) for line in (folder / "heldout.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row["size"] = "rare" if i == 7 else "big"
    (folder / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "suite.toml").write_text(SUITE + "[gate.slices]\nrare = 0.1\n")
    verdict = beats(opened(folder, FakeEngine(knows(1.0))))
    assert verdict.outcome == "INCONCLUSIVE"  # one row proves nothing
    assert [(claim.outcome, claim.n) for claim in verdict.claims][1] == ("INCONCLUSIVE", 1)


def test_seeds_judge_the_recipe(folder: Path) -> None:
    """Three seeds are trained and measured on all rows; a method without training has none."""
    engine = FakeEngine(knows(1.0))
    verdict = beats(opened(folder, engine, seeds=3))
    assert engine.calls["train"] == 3
    assert verdict.claims[0].statistic == "t over 3 seeds"
    assert verdict.claims[0].n == 500
    pipeline = opened(folder, engine, seeds=3, external=folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(SuiteError, match="--finetune-seeds=3: the adapter is external, and no seed changes it"):
        beats(pipeline)


def test_macro_f1_is_of_all_rows(folder: Path) -> None:
    """A metric of the whole data set is judged by a paired bootstrap, without looks."""
    (folder / "suite.toml").write_text(SUITE + 'gate = { metric = "macro_f1" }\n')
    verdict = beats(opened(folder, FakeEngine(knows(0.9, 0.3))))
    assert verdict.outcome == "PASS"
    assert verdict.claims[0].statistic == "paired bootstrap"
    assert verdict.claims[0].n == 500
    assert verdict.claims[0].after_mean == pytest.approx(2 * 0.9 / 1.9, abs=0.02)


@pytest.mark.parametrize(("rows", "refused"), [(58, True), (59, False)])
def test_hopeless_suites_are_refused(folder: Path, rows: int, refused: bool) -> None:
    """A general suite that could not pass if not one row were lost is refused before any compute."""
    write_rows(folder / "general.jsonl", range(5000, 5000 + rows))
    general = 'gate = { max_drop = 0.06 }\n[[general]]\ndata = "general.jsonl"\n'
    (folder / "suite.toml").write_text(SUITE + general)
    pipeline = opened(folder, FakeEngine(knows(1.0)))
    if refused:
        with pytest.raises(DataRefused, match=r"general general has 58 rows, .* takes 59 to prove a drop below"):
            _ = pipeline.data
    else:
        assert pipeline.data
    (folder / "suite.toml").write_text(SUITE + general.replace("0.06", "0.02"))
    with pytest.raises(DataRefused):
        _ = opened(folder, FakeEngine(knows(1.0))).data
