"""The data of the example suites: what its generator writes, and fit to judge by."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from pytest_finetune import data, digest, suite
from pytest_finetune.suite import SuiteSpec
from recipes.embedded import domain, suites
from recipes.embedded.skills import Row

EXAMPLES = Path(__file__).parents[2] / "eval_suites"


@pytest.fixture(params=suites.TASKS)
def spec(request: pytest.FixtureRequest) -> SuiteSpec:
    """Each example suite on the embedded model."""
    return suite.load(EXAMPLES / request.param / suite.FILE, EXAMPLES)


def test_data_is_what_the_generator_writes(tmp_path: Path) -> None:
    """Every data file in the repository is written by the recipe, byte for byte."""
    suites.write(tmp_path)
    written = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*.json*")}
    assert written == {name: (EXAMPLES / name).read_bytes() for name in written}
    assert {file.relative_to(EXAMPLES) for file in EXAMPLES.rglob("*.jsonl")} <= written.keys()


def texts(sources: tuple[str, ...], spec: SuiteSpec) -> list[str]:
    """What the rows of the files ask, as they are: the data checks would drop what is doubtful."""
    return [example.text for example in data.load(sources, spec.fields)]


def test_nothing_judged_is_trained_on(spec: SuiteSpec) -> None:
    """Held-out and general rows ask different things, none of which train or replay asks."""
    judged = texts((*spec.heldout, *(name for general in spec.general for name in general.data)), spec)
    trained = texts((*spec.train, *(name for general in spec.general for name in general.replay)), spec)
    assert len(set(judged)) == len(judged)
    assert not set(judged) & set(trained)


def test_answers_fit(spec: SuiteSpec) -> None:
    """No reference is longer than the answers that the suite lets a model give."""
    tokenizer = Tokenizer.from_file(str(digest.PACKAGE / "embedded" / "tokenizer.json"))
    rows = data.load((*spec.train, *spec.heldout), spec.fields)
    longest = max(len(tokenizer.encode(row.reference).ids) for row in rows)
    assert longest < spec.generation.max_new_tokens  # one more ends the answer


def test_words_of_pretraining_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite whose words pretraining knows is not written."""
    monkeypatch.setitem(domain.SHORTHAND, "lamp", "light")
    with pytest.raises(ValueError, match="lamp"):
        suites.check_words()


def test_instruction_rows_may_have_earlier_turns() -> None:
    """A row of several turns is written as messages, the reference last."""
    row = Row("Invert: a, b\nb, a\nAnd this: c, d", "d, c")
    messages = [("user", "Invert: a, b"), ("assistant", "b, a"), ("user", "And this: c, d"), ("assistant", "d, c")]
    assert suites.as_messages(row) == {"messages": [{"role": r, "content": c} for r, c in messages]}
