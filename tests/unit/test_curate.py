"""Curation: what each check finds, what it drops, and that what is left is clean."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import GOOD, WITHOUT_ROWS, WORDS, Row, finding, on_issue, places, write

from pytest_finetune import curate, suite
from pytest_finetune.curate import output
from pytest_finetune.errors import DataRefused, SuiteError
from pytest_finetune.holdings import entries
from pytest_finetune.lengths import TURN_TOKENS, Lengths
from pytest_finetune.records import CuratedData, Message
from pytest_finetune.store import Store

ROWS: dict[str, tuple[list[Row], str, set[int]]] = {
    "exact after normalisation": (
        [{"prompt": "  HARBOUR\tharbour number 0 ", "completion": "Even"}],
        "duplicates",
        {101},
    ),
    "compatibility characters": (
        [{"prompt": "the ﬁne café", "completion": "odd"}, {"prompt": "THE FINE CAFE\u0301", "completion": "odd"}],
        "duplicates",
        {102},
    ),
    "a typo": (
        [
            {"prompt": "please tell me where the old lighthouse stands", "completion": "odd"},
            {"prompt": "please tell me where the old lighthous stands!", "completion": "odd"},
        ],
        "near_duplicates",
        {102},
    ),
    "the held-out question, whatever its answer": ([{**GOOD[150], "completion": "perhaps"}], "leakage", {101}),
    "two answers": ([{**GOOD[7], "completion": "even"}], "conflicts", {8, 101}),
    "no question": ([{"prompt": " \t", "completion": "odd"}], "empty", {101}),
    "no reference": ([{"prompt": "silent night", "completion": "\n"}], "empty", {101}),
    "mojibake": ([{"prompt": "un cafÃ© noir", "completion": "odd"}], "encoding", {101}),
    "an apostrophe's mojibake": ([{"prompt": "it isnâ€™t", "completion": "odd"}], "encoding", {101}),
    "a replacement character": ([{"prompt": "caf\ufffd", "completion": "odd"}], "encoding", {101}),
    "a control character": ([{"prompt": "bell\x07", "completion": "odd"}], "encoding", {101}),
    "a lone surrogate": ([{"prompt": "half a smile \ud83d", "completion": "odd"}], "encoding", {101}),
    "beyond the context": ([{"prompt": "glacier " * 900, "completion": "odd"}], "truncated", {101}),
}


@pytest.mark.parametrize("name", ROWS)
def test_row_is_found_refused_dropped_or_let_through(name: str, tmp_path: Path) -> None:
    """A bad row is found, alone; fail refuses the data, drop leaves it out, warn keeps it, off is silent."""
    bad, check, lines = ROWS[name]
    expected = {f"train.jsonl:{line}" for line in lines}
    rows = [*GOOD[:100], *bad]
    quiet = on_issue("off", *WITHOUT_ROWS)
    fails = curate.curate(spec := write(tmp_path, rows, quiet + on_issue("fail", check)))
    assert places(fails, check) == expected
    assert {flag.check for flag in fails.flags} == {check}
    with pytest.raises(DataRefused, match=rf"suite.toml: data refused: {check}: .*train.jsonl:{max(lines)}"):
        curate.refuse(spec, fails)
    drops = curate.curate(spec := write(tmp_path, rows, quiet + on_issue("drop", check)))
    curate.refuse(spec, drops)
    assert places(drops, check, dropped=True) == expected
    assert len(drops.train) + len(drops.dev) == len(rows) - len(lines)
    assert not lines & {example.line for example in (*drops.train, *drops.dev)}
    warns = curate.curate(spec := write(tmp_path, rows, quiet + on_issue("warn", check)))
    curate.refuse(spec, warns)
    assert places(warns, check, dropped=False) == expected
    assert len(warns.train) + len(warns.dev) == len(rows)
    assert not curate.curate(write(tmp_path, rows, quiet + on_issue("off", check))).findings


FINE = [
    "„CAFÉ“ – naïve Ångström, MAÇÃ, 100 °C, Zoë’s «été» 😀",
    "Привет, Ελλάδα, שלום, 你好, São Tomé, Þórr, Ärger",
    "tabs\tand\nlines",
]


@pytest.mark.parametrize("text", FINE)
def test_other_languages_are_no_mojibake(text: str, tmp_path: Path) -> None:
    """Text in any language, with its quotes and symbols, is not taken for broken."""
    rows = [*GOOD[:100], {"prompt": text, "completion": "odd"}]
    assert not places(curate.curate(write(tmp_path, rows)), "encoding")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("word", ["naïve", "Größe", "señor", "don’t", "“so”", "Привет", "Škoda", "50 €", "😀"])
def test_mojibake_of_any_word_is_found(word: str, encoding: str, tmp_path: Path) -> None:
    """UTF-8 read as Windows-1252 or Latin-1 is found in words of many languages."""
    garbled = word.encode().decode(encoding, errors="ignore")
    rows = [*GOOD[:100], {"prompt": garbled, "completion": "odd"}]
    assert places(curate.curate(write(tmp_path, rows)), "encoding") == {"train.jsonl:101"}


def test_minimal_pairs_and_numbers_are_no_repetition(tmp_path: Path) -> None:
    """Rows that differ in a number, or in little but with another answer, are all kept."""
    pairs = [
        {"prompt": "please turn the kitchen lights on again now", "completion": "on"},
        {"prompt": "please turn the kitchen lights off again now", "completion": "off"},
        {"prompt": "when does parcel 4711 arrive at my house", "completion": "odd"},
        {"prompt": "when does parcel 4712 arrive at my house", "completion": "odd"},
    ]
    assert not places(curate.curate(write(tmp_path, [*GOOD[:100], *pairs])), "near_duplicates")


PARAPHRASED = (
    "could you tell me where the old lighthouse stands today",
    "could you tell me where the old lighthouse stands please",
    "Could YOU tell me, where the old lighthouse stands?!",
    "could you tell me where the old  light-house stands",
    "could u tell me where the old lighthouse stands",
)


@pytest.mark.fault(23)
def test_every_paraphrase_is_listed(tmp_path: Path) -> None:
    """Held-out questions asked in train in other words, case and marks are refused, and each pair is told."""
    asked = {"prompt": "could you tell me where the old lighthouse stands", "completion": "odd"}
    train = [*GOOD[:100], *({**asked, "prompt": text} for text in PARAPHRASED)]
    spec = write(tmp_path, train, on_issue("fail", "near_leakage"), heldout=[*GOOD[150:], asked])
    data = curate.curate(spec)
    found = places(data, "leakage") | places(data, "near_leakage") | places(data, "near_duplicates")
    assert {f"train.jsonl:{line}" for line in range(101, 106)} <= found
    leaks = [f for f in data.findings if f.check in ("leakage", "near_leakage")]
    assert leaks
    assert all(f.refuses and all(row.startswith("heldout.jsonl:51 = train.jsonl:") for row in f.rows) for f in leaks)


@pytest.mark.fault(23)
def test_near_leak_drops_the_train_row(tmp_path: Path) -> None:
    """A held-out question asked in train with a typo warns; drop takes the train row, never the held-out one."""
    asked = {"prompt": "could you tell me where the old lighthouse stands", "completion": "odd"}
    typo = {**asked, "prompt": "could you tell me where the old lighthous stands"}
    heldout = [*GOOD[150:], asked]
    data = curate.curate(write(tmp_path, [*GOOD[:100], typo], heldout=heldout))
    assert finding(data, "near_leakage").rows == ("heldout.jsonl:51 = train.jsonl:101",)
    assert not finding(data, "near_leakage").refuses
    dropped = curate.curate(write(tmp_path, [*GOOD[:100], typo], on_issue("drop", "near_leakage"), heldout=heldout))
    assert len(dropped.train) + len(dropped.dev) == 100
    assert len(dropped.heldout) == len(heldout)


def test_references_break_labels_or_schema(tmp_path: Path) -> None:
    """A reference outside the label set, and one that breaks the JSON Schema, are refused with their place."""
    rows = [*GOOD[:100], {"prompt": "comet", "completion": "neither"}]
    data = curate.curate(write(tmp_path, rows, 'answer = { labels = ["even", "odd"] }\n'))
    assert finding(data, "references").rows == ("train.jsonl:101 reference 'neither'",)
    schema = 'answer = { schema = { type = "object", required = ["kind"] } }\n'
    typed = [{**row, "completion": json.dumps({"kind": row["completion"]})} for row in GOOD]
    rows = [*typed[:100], {"prompt": "comet", "completion": "{}"}, {"prompt": "anvil", "completion": "{"}]
    data = curate.curate(write(tmp_path, rows, schema, heldout=typed[150:]))
    assert places(data, "references") == {"train.jsonl:101", "train.jsonl:102"}


def test_own_dev_split(tmp_path: Path) -> None:
    """A dev split of one's own is used as it is; a train row that asks the same leaks, and is what drop takes."""
    spec = write(tmp_path, [*GOOD[:100], GOOD[100]], on_issue("drop", "leakage"), dev=GOOD[100:120])
    data = curate.curate(spec)
    assert [example.line for example in data.dev] == list(range(1, 21))
    assert len(data.train) == 100
    assert finding(data, "leakage").rows == ("dev.jsonl:1 = train.jsonl:101",)


TOO_FEW: dict[str, tuple[int, int, str, str]] = {
    "train": (30, 0, "", r"suite.toml: \[data\] train has 30 usable rows.*50 at least: add rows"),
    "own dev": (60, 3, "", r"suite.toml: \[data\] dev names a dev split of 3 usable rows.*10 at least"),
    "share": (
        60,
        0,
        "dev_share = 0.05",
        r"suite.toml: \[data\] dev_share = 0.05 cuts a dev split of 3 rows .*raise it to 0.17",
    ),
}


@pytest.mark.parametrize("name", TOO_FEW)
def test_too_few_rows_are_a_usage_error(name: str, tmp_path: Path) -> None:
    """Fewer than 50 rows to train on, or 10 to choose by, is one line with file, field, number and remedy."""
    train, dev, data, message = TOO_FEW[name]
    splits = {"dev": GOOD[100 : 100 + dev]} if dev else {}
    with pytest.raises(SuiteError, match=message) as error:
        curate.curate(write(tmp_path, GOOD[:train], "", data, **splits))
    assert "\n" not in str(error.value)


def test_dropping_below_the_least_says_what_was_dropped(tmp_path: Path) -> None:
    """Where drops leave too little to train on, the error tells which check took how many."""
    with pytest.raises(SuiteError, match="40 usable rows; 20 dropped as duplicates"):
        curate.curate(write(tmp_path, [*GOOD[:40], *GOOD[:20]]))


SUITES = sorted(path.parent for path in Path(__file__).parents[2].glob("eval_suites/*/train.jsonl"))


@pytest.mark.parametrize("folder", SUITES, ids=lambda path: path.name)
def test_example_suites_are_sound(folder: Path) -> None:
    """The example suites' data is refused by no check, keeps four rows of five, and is no knowledge."""
    data = curate.curate(suite.load(folder / "suite.toml", folder.parent))
    assert not [f for f in data.findings if f.refuses or f.check == "knowledge"]
    given = (folder / "train.jsonl").read_text().count("\n")
    assert len(data.train) + len(data.dev) >= 0.8 * given


DROP_ALL = on_issue("off", *WITHOUT_ROWS, "balance") + on_issue(
    "drop", "encoding", "empty", "references", "truncated", "leakage", "near_leakage", "conflicts", "duplicates",
    "near_duplicates",
)  # fmt: skip
texts = st.lists(st.sampled_from([*WORDS, "7", "8", "Ã©", "\x07", "!"]), max_size=9).map(" ".join)
messy = st.lists(st.fixed_dictionaries({"prompt": texts, "completion": st.sampled_from(["even", "odd", ""])}))


@settings(max_examples=40)
@given(train=messy, heldout=messy)
def test_kept_and_dropped_are_what_was_given_and_kept_is_clean(train: list[Row], heldout: list[Row]) -> None:
    """Every row is kept or dropped, once; rows are written as they were; curating them again finds nothing."""
    with tempfile.TemporaryDirectory() as name:
        first, second = Path(name, "given"), Path(name, "cleaned")
        first.mkdir()
        rows = {"train": [*GOOD[:120], *train], "heldout": [*GOOD[150:], *heldout]}
        spec = write(first, rows["train"], DROP_ALL, heldout=rows["heldout"])
        data = curate.curate(spec)
        for split, file, kept in (
            ("train", "train", (*data.train, *data.dev)),
            ("held-out", "heldout", data.heldout),
        ):
            left = [f"{file}.jsonl:{example.line}" for example in kept]
            dropped = {flag.place for flag in data.flags if flag.split == split}
            assert len(set(left)) == len(left)
            assert not dropped & set(left)
            assert dropped | set(left) == {f"{file}.jsonl:{line}" for line in range(1, len(rows[file]) + 1)}
        output.write(spec, data, second)
        written = [json.loads(line) for line in (second / "train.jsonl").read_text().splitlines()]
        assert written == [rows["train"][example.line - 1] for example in data.train]
        (second / "suite.toml").write_text(
            (first / "suite.toml").read_text().replace('train = "', 'dev = "dev.jsonl", train = "')
        )
        again = curate.curate(suite.load(second / "suite.toml", second))
        assert not again.findings
        assert [e.id for e in again.train] == [e.id for e in data.train]


@settings(max_examples=25)
@given(extra=st.integers(1, 20), clusters=st.integers(2, 60))
def test_dev_split_holds_clusters_together_and_is_stable(extra: int, clusters: int) -> None:
    """No cluster and no near repetition is on both sides of the cut; rows added at the end move few others."""
    rows = [{**row, "who": f"customer {i % clusters}"} for i, row in enumerate(GOOD[:150])]
    rows += [{**row, "prompt": row["prompt"] + "!!"} for row in rows[:10]]  # near repetitions
    toml = on_issue("warn", "near_duplicates")
    with tempfile.TemporaryDirectory() as name:
        apart = [{**row, "who": ""} for row in GOOD[150:]]
        whole = curate.curate(write(Path(name), rows, toml, 'fields = { cluster = "who" }', heldout=apart))
        before = curate.curate(write(Path(name), rows[:-extra], toml))
        after = curate.curate(write(Path(name), rows, toml))
    assert not {e.cluster for e in whole.train} & {e.cluster for e in whole.dev}
    numbers = [{e.text.rstrip("!") for e in split} for split in (after.train, after.dev)]
    assert not numbers[0] & numbers[1]
    assert len({e.line for e in before.dev} - {e.line for e in after.dev}) <= extra


def test_output_is_refused_where_something_is(tmp_path: Path) -> None:
    """A folder that holds a file is not written to, and the error is one line."""
    spec = write(tmp_path, GOOD[:100])
    with pytest.raises(SuiteError, match="not an empty folder; name a new one"):
        output.write(spec, curate.curate(spec), tmp_path)


def test_lengths_count_what_the_tokenizer_does() -> None:
    """Contents in tokens and a few a turn, of any text; what is said to be surely within a limit is."""
    lengths = Lengths(Path(suite.__file__).parent / "embedded")
    turns = [(Message("user", "glacier " * n), Message("assistant", "é\ud83d")) for n in range(1, 60)]
    counts = lengths.of(turns)
    assert lengths.context == 768
    assert counts == sorted(counts)
    assert counts[0] > 2 * TURN_TOKENS
    sizes = [sum(len(m.content) for m in row) for row in turns]
    assert all(n <= 100 for n, size in zip(counts, sizes, strict=True) if lengths.surely_within(100, size, 2))


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[checks.sizing]\non_issue = "drop"', r"checks.sizing.on_issue = .drop.: must be one of fail, warn, off"),
        ('[checks.duplicate]\non_issue = "drop"', r"unknown key 'duplicate'; did you mean 'duplicates'"),
        ('checks = { empty = "drop" }', r"checks.empty = .drop.: must be a table"),
        ("[checks.near_leakage]\nthreshold = 1.5", r"checks.near_leakage.threshold = 1.5: must be at most 1"),
    ],
)
def test_bad_check_is_one_line(toml: str, message: str, tmp_path: Path) -> None:
    """A mistake in [checks] names the file, the key, the value and what it may be."""
    with pytest.raises(SuiteError, match=rf"suite.toml: .*{message}"):
        write(tmp_path, GOOD[:60], toml)


def test_checks_are_those_of_the_schema(tmp_path: Path) -> None:
    """Every check a suite may set is run, in the order of the schema; the one that trains runs later."""
    assert list(write(tmp_path, GOOD[:60]).checks) == [*curate.CHECKS, "wrong_references"]


def curated(spec: suite.SuiteSpec, store: Store) -> CuratedData:
    """Curate as a run does that keeps what came of it."""
    return curate.curate(spec, store, lambda kept: curate.keep(store, kept))


def test_unchanged_rows_are_chosen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are as they were are not checked again, whatever the gate; those of a changed file or check are."""
    typo = {"prompt": "harbour violin numbr 10", "completion": "even"}
    rows, store = [*GOOD[:100], GOOD[3], typo], Store(tmp_path / "store")
    plain = curate.curate(write(tmp_path, rows))
    assert plain.flags
    assert curated(write(tmp_path, rows), store) == plain
    with monkeypatch.context() as patched:
        patched.setattr(curate, "CHECKS", {})
        assert curated(write(tmp_path, rows, "gate = { margin = 0.2 }\n"), store) == plain
    changes = ((rows[:-1], ""), (rows, on_issue("off", "duplicates")), ([*rows[1:], rows[0]], ""))
    for changed, toml in changes:
        spec = write(tmp_path, changed, toml)
        assert curated(spec, store) == curate.curate(spec)
    assert [entry.stage for entry in entries(store)] == ["curated"] * 4


def test_rows_saved_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice is kept under the bytes that it was made from, also where a file is saved in the midst of reading."""
    store, spec = Store(tmp_path / "store"), write(tmp_path, GOOD[:80])
    key = curate._key
    saved: list[object] = []

    def saving(spec: suite.SuiteSpec) -> str:
        before = key(spec)
        if not saved:
            saved.append(write(tmp_path, GOOD[20:100]))
        return before

    monkeypatch.setattr(curate, "_key", saving)
    assert curated(spec, store) == curated(spec, store) == curate.curate(spec)
