"""The mistakes of fine-tuning: each is caught, with what to do instead, and the mended suite passes."""

import json
import shutil
from pathlib import Path

import pytest
from colours import CUES, KEEPS, SUITE, TEST, rows

EXAMPLES = Path(__file__).parents[2] / "eval_suites"
SORT = """
[[general]]
data = "sort.jsonl"
replay = "sort-replay.jsonl"
"""


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run pytest in a process of its own, as people do."""
    return pytester.runpytest_subprocess("--finetune", "-p", "no:cacheprovider", *args, timeout=300)


@pytest.mark.slow
def test_no_eval_first(pytester: pytest.Pytester, project: Path) -> None:
    """An adapter that no test gates is not trained; with a gate it is."""
    (project / "test_colours.py").write_text("def test_it(adapter):\n    assert adapter.path\n")
    caught = run(pytester)
    assert caught.ret == pytest.ExitCode.USAGE_ERROR
    caught.stderr.fnmatch_lines(["ERROR: *suite.toml: no test gates this suite*gate.beats(adapter, baseline*"])
    assert not (pytester.path / ".finetune").exists()

    (project / "test_colours.py").write_text(TEST)
    run(pytester).assert_outcomes(passed=3)


@pytest.mark.slow
def test_bad_data(pytester: pytest.Pytester, project: Path) -> None:
    """Held-out rows that are trained on are refused before any compute; without them the suite passes."""
    train = (project / "train.jsonl").read_text()
    (project / "train.jsonl").write_text(train + rows(1000, 20))
    caught = run(pytester)
    assert caught.ret == pytest.ExitCode.TESTS_FAILED
    caught.stdout.fnmatch_lines(["*data refused: leakage: 20 *heldout.jsonl:1 = train.jsonl:151*"])
    assert not (pytester.path / ".finetune" / "adapter").exists()

    (project / "train.jsonl").write_text(train)
    run(pytester).assert_outcomes(passed=3)


@pytest.mark.slow
def test_no_prompt_baseline(pytester: pytest.Pytester, project: Path) -> None:
    """Where a prompt reaches the target, nothing is trained and the build says so; shipping that prompt passes."""
    labels = list(CUES)
    for name, first in (("train", 0), ("heldout", 1000)):
        lines = (
            json.dumps({"prompt": f"See {CUES[labels[i % 3]][i // 3 % 2]}. Number {i}.", "completion": labels[i % 3]})
            for i in range(first, first + 150)
        )
        (project / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    pairs = ", ".join(f"{cue}={label}" for label, cues in CUES.items() for cue in cues)
    told = SUITE.replace('["Name the box."]', f'["Name the box.", "Reply with the box. box: {pairs}."]')
    (project / "suite.toml").write_text(told + "gate = { target = 0.9 }\n")
    caught = run(pytester)
    assert caught.ret == pytest.ExitCode.TESTS_FAILED
    caught.stdout.fnmatch_lines(["*prompt is enough: do not fine-tune. candidate 2*of 15 dev rows*target is 90.0%*"])
    assert not (pytester.path / ".finetune" / "adapter").exists()

    mended = run(pytester, "--finetune-method=prompt")
    mended.assert_outcomes(passed=2, skipped=1)
    mended.stdout.fnmatch_lines(["*the best prompt ships*", "*PASS*adapter beats baseline*0.0 % -> 100.0 %*"])


@pytest.mark.slow
def test_overfitting(pytester: pytest.Pytester, project: Path) -> None:
    """Thirty rows by heart: the dev loss rises for good, and the last checkpoint fails; the best one ships."""
    lines = (EXAMPLES / "intent" / "train.jsonl").read_text().splitlines()[:60]
    (project / "train.jsonl").write_text("\n".join(lines) + "\n")
    shutil.copy(EXAMPLES / "intent" / "heldout.jsonl", project)
    long = (
        'model = "embedded"\ntask = "classification"\n'
        'data = { train = "train.jsonl", heldout = "heldout.jsonl", dev_share = 0.5 }\n'
        'prompts = { candidates = ["Name the intent."], shots = [0], chat_template = "on" }\n'
        "generation = { max_new_tokens = 6 }\ngate = { margin = 0.0 }\n"
        "training = { learning_rate = 4e-3, epochs = 20, replay = 0, evaluations_per_epoch = 1, patience = 9"
    )
    (project / "suite.toml").write_text(long + ', checkpoint = "last" }\n')
    caught = run(pytester)
    caught.assert_outcomes(passed=2, failed=1)
    caught.stdout.fnmatch_lines(
        ["the dev loss rose for good, and the last checkpoint ships: *ship the best checkpoint*"]
    )

    (project / "suite.toml").write_text(long + " }\n")
    mended = run(pytester)
    mended.assert_outcomes(passed=3)
    mended.stdout.fnmatch_lines(["*training      overfits: dev loss *; the best one ships"])


@pytest.mark.slow
def test_forgetting(pytester: pytest.Pytester, project: Path) -> None:
    """Too hot and without replay the adapter forgets sorting, and the build fails; with replay it is kept."""
    for name in ("sort.jsonl", "sort-replay.jsonl"):
        shutil.copy(EXAMPLES / "general" / name, project)
    (project / "test_colours.py").write_text(TEST + KEEPS)
    limits = "gate = { max_drop = 0.10, guard = 0.15 }\n"
    hot = SUITE.replace("5e-3, epochs = 4", "1e-2, epochs = 6")
    (project / "suite.toml").write_text(hot + limits + SORT)
    caught = run(pytester)
    assert caught.ret == pytest.ExitCode.TESTS_FAILED
    caught.stdout.fnmatch_lines(["*FAIL*adapter keeps sort*", "*worst lost examples*"])

    (project / "suite.toml").write_text(SUITE.replace("replay = 0", "replay = 0.5") + limits + SORT)
    run(pytester).assert_outcomes(passed=4)


@pytest.mark.slow
def test_wrong_method_for_the_memory(pytester: pytest.Pytester, project: Path) -> None:
    """A method that the device cannot hold is one line with what fits, before any compute; auto takes what fits."""
    caught = run(pytester, "--finetune-method=full", "--finetune-memory-gib=0.1")
    assert caught.ret == pytest.ExitCode.TESTS_FAILED
    caught.stdout.fnmatch_lines(['*suite.toml: [[]training] method = "full" needs * GiB, and cpu has 0.1; take *'])
    assert not (pytester.path / ".finetune").exists()

    (project / "suite.toml").write_text(SUITE.replace("training = {", 'training = { method = "auto",'))
    mended = run(pytester)
    mended.assert_outcomes(passed=3)
    mended.stdout.fnmatch_lines(["*training      lora,*", "*PASS*beats*"])


@pytest.mark.slow
def test_wrong_method_for_knowledge(pytester: pytest.Pytester, project: Path) -> None:
    """Facts that only the references tell are refused: retrieval is the method. Facts that stand in the prompt pass."""
    first = ["Dana", "Omar", "Lena", "Ravi", "Mia", "Tom", "Ida", "Noa", "Kai", "Zoe"]
    last = ["Reyes", "Stone", "Meyer", "Okoye", "Silva", "Novak", "Haddad", "Ito", "Brandt", "Fox"]
    managers = [f"{a} {b}{i}" for i, (a, b) in enumerate((a, b) for a in first for b in last)]

    def write(told: bool) -> None:
        for name, part in (("train", managers[:60]), ("heldout", managers[60:])):
            lines = (
                json.dumps({"prompt": f"Manager of {m[::-1]}?{f' Card: {m}.' if told else ''}", "completion": m})
                for m in part
            )
            (project / f"{name}.jsonl").write_text("\n".join(lines) + "\n")

    checks = 'checks = { knowledge = { on_issue = "fail" } }\n'
    (project / "suite.toml").write_text(SUITE.replace("classification", "instruction") + checks)
    write(told=False)
    caught = run(pytester)
    assert caught.ret == pytest.ExitCode.TESTS_FAILED
    caught.stdout.fnmatch_lines(["*data refused: knowledge: * Use retrieval, not fine-tuning*"])
    assert not (pytester.path / ".finetune" / "adapter").exists()

    write(told=True)
    mended = run(pytester, "-k", "data")
    mended.assert_outcomes(passed=1, deselected=2)


@pytest.mark.slow
def test_short_memory_takes_checkpointing(pytester: pytest.Pytester, project: Path) -> None:
    """Where activations may not fit, the plan says that they are computed anew, and only there."""
    plenty, short = (run(pytester, "--finetune-plan", f"--finetune-memory-gib={gib}") for gib in (4, 0.54))
    assert "activation checkpointing" not in plenty.stdout.str()
    assert "activation checkpointing" in short.stdout.str()
