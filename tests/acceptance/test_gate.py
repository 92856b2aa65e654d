"""`pytest --finetune` on the embedded model: exit codes, and the lines people read."""

import sys
from pathlib import Path

import pytest
from colours import KEEPS, SUITE, rows

ARGS = ("--finetune", "-p", "no:cacheprovider")


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run pytest in a process of its own, as people do."""
    return pytester.runpytest_subprocess(*ARGS, *args, timeout=240)


def test_passes_then_store_then_retrains(pytester: pytest.Pytester, project: Path) -> None:
    """A good adapter passes; a rerun takes the verdict from the store; one changed row trains again."""
    report = pytester.path / "run.json"
    reports = ("--finetune-report=run.json", "--finetune-html=run.html", "--junit-xml=junit.xml")
    result = run(pytester, *reports, "--finetune-track=tensorboard")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*150 held-out*",
            "*baseline*<- best*",
            "*training*lora*dev loss*",
            "*by evaluation: dev loss █*▁*, dev score ▁*█*",
            "*PASS*beats*",
        ]
    )
    assert report.is_file()
    assert "adapter beats baseline" in (pytester.path / "run.html").read_text()
    assert list((pytester.path / "runs" / "colours").glob("events.out.tfevents.*"))
    assert "finetune_outcome" in (pytester.path / "junit.xml").read_text()
    drawn = pytester.run(Path(sys.executable).parent / "pytest-finetune", "report", "run.json")
    drawn.stdout.fnmatch_lines(["*PASS*adapter beats baseline*"])

    again = run(pytester, "-s")
    assert again.ret == 0
    again.stdout.no_fnmatch_line("*generate*")
    again.stdout.no_fnmatch_line("*: train*")
    assert len(list((pytester.path / ".finetune" / "adapter").iterdir())) == 1

    (project / "train.jsonl").write_text(rows(0, 151))
    assert run(pytester).ret == 0
    assert len(list((pytester.path / ".finetune" / "adapter").iterdir())) == 2


@pytest.mark.slow
def test_workers_train_once(pytester: pytest.Pytester, project: Path) -> None:
    """Two xdist workers that need the same adapter train it once, and the controller reports it."""
    text = (project / "test_colours.py").read_text()
    (project / "test_again.py").write_text(text.replace("the_best_prompt", "it_again"))
    result = run(pytester, "-n", "2")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*PASS*beats*"])
    assert len(list((pytester.path / ".finetune" / "adapter").iterdir())) == 1


@pytest.mark.slow
def test_shuffled_labels_fail(pytester: pytest.Pytester, project: Path) -> None:
    """An adapter that learned nothing misses the margin: the build fails and shows lost rows or numbers."""
    (project / "train.jsonl").write_text(rows(0, 150, shuffled=True))
    (project / "suite.toml").write_text(SUITE + "gate = { margin = 0.9 }\n")
    result = run(pytester)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*FAIL*adapter beats baseline by 90.0 points*"])


@pytest.mark.slow
def test_forgetting_fails(pytester: pytest.Pytester, project: Path) -> None:
    """Trained too hot without replay, the adapter forgets sorting: the build fails and names the suite."""
    numbers = [f'{{"prompt": "Sort: {b} {a}", "completion": "{a} {b}"}}' for a in range(10, 20) for b in range(20, 36)]
    (project / "sort.jsonl").write_text("\n".join(numbers) + "\n")
    hot = SUITE.replace("5e-3, epochs = 4", "3e-2, epochs = 8")
    (project / "suite.toml").write_text(hot + '[[general]]\ndata = "sort.jsonl"\n')
    (project / "test_colours.py").write_text(KEEPS)
    result = run(pytester)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*FAIL*adapter keeps sort*", "*worst lost examples*"])


@pytest.mark.slow
@pytest.mark.fault(8)
def test_external_adapters(pytester: pytest.Pytester, project: Path) -> None:
    """An adapter made by plain peft is gated; one that changes nothing is an error, not a verdict."""
    make = (
        "import sys, torch\nfrom peft import LoraConfig, get_peft_model\n"
        "from transformers import AutoModelForCausalLM\nimport pytest_finetune\nfrom pathlib import Path\n"
        "base = AutoModelForCausalLM.from_pretrained(Path(pytest_finetune.__file__).parent / 'embedded')\n"
        "torch.manual_seed(0)\n"
        "for name, init in (('noop', True), ('noise', False)):\n"
        "    model = get_peft_model(base, LoraConfig(r=4, target_modules='all-linear', init_lora_weights=init))\n"
        "    model.save_pretrained(name)\n    base = model.unload()\n"
    )
    (pytester.path / "make.py").write_text(make)
    assert pytester.runpython(pytester.path / "make.py").ret == 0
    noop = run(pytester, "--finetune-adapter=noop")
    assert noop.ret == 11
    noop.stdout.fnmatch_lines(["*changes nothing*", "*2 errors*"])
    noise = run(pytester, "--finetune-adapter=noise")
    assert noise.ret == 1
    noise.stdout.fnmatch_lines(["*adapter       made elsewhere*noise*", "*beats baseline*"])
