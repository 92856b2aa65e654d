"""The advisor's choice, its command, and the memory of the device at hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from colours import SUITE, rows
from hypothesis import given
from hypothesis import strategies as st
from llamas import PUBLISHED

from pytest_finetune import advisor, cli, device, memory
from pytest_finetune.advisor import Request, advise
from pytest_finetune.errors import SuiteError
from pytest_finetune.memory import GIB, Load
from pytest_finetune.methods import METHODS, PROMPT

LLAMA = PUBLISHED["Llama-3.1-8B"]
SHAPE = memory.shape_from(LLAMA.config, LLAMA.tensors(biases=False))
LOAD = Load(rows=1, tokens=512, completion_tokens=64, dev_rows=1, device="cuda")
REQUEST = Request("classification", 2000, SHAPE, LOAD, 80 * GIB)


def high(method: str) -> int:
    """Return the memory that a method is sure to fit in."""
    return int(memory.estimate(SHAPE, method, LOAD).high) + 1


@pytest.mark.parametrize(
    ("changed", "method", "said"),
    [
        ({}, "lora", "a small LoRA"),
        ({"train_rows": 49}, "prompt", "49 rows are too few"),
        ({"train_rows": 50}, "lora", "a small LoRA"),
        ({"api_only": True, "train_rows": 90_000}, "prompt", "behind an API"),
        ({"shape": None}, "prompt", "behind an API"),
        ({"memory_bytes": high("lora") - 2}, "qlora", "LoRA does not fit"),
        ({"memory_bytes": high("qlora") - 2}, "prompt", "no training fits: qlora needs least"),
        ({"many_tasks": True}, "soft_prompt", "many tasks share one base"),
        ({"task": "domain"}, "lora", "facts belong in the prompt"),
        ({"task": "domain", "train_rows": 10_000}, "lora", "which does not fit here"),
        ({"task": "domain", "train_rows": 10_000, "memory_bytes": high("full")}, "full", "every weight"),
        ({"task": "domain", "train_rows": 9_999, "memory_bytes": high("full")}, "lora", "a small LoRA"),
        ({"task": "style", "train_rows": 10_000, "memory_bytes": high("full")}, "lora", "a small LoRA"),
        ({"task": "style", "train_rows": 50_000, "memory_bytes": high("full")}, "full", "every weight"),
        ({"train_rows": 10**6, "memory_bytes": 0}, "lora", "a small LoRA"),
    ],
)
def test_choice(changed: dict[str, object], method: str, said: str) -> None:
    """Each branch of the decision: the method, and the reason it gives."""
    advice = advise(replace(REQUEST, **changed))  # type: ignore[arg-type]  # fields of Request by name
    assert advice.method == method
    assert said in advice.reason
    assert [option.method for option in advice.table] == [*METHODS, PROMPT]


def test_soft_prompt_where_only_it_fits() -> None:
    """On a GPU, where the weights of a small model count for little, a soft prompt is what fits last."""
    small = PUBLISHED["Qwen2.5-0.5B"]
    shape = memory.shape_from(small.config, small.tensors(biases=True))
    needs = {method: memory.estimate(shape, method, LOAD).high for method in METHODS}
    assert min(needs, key=lambda method: needs[method]) == "soft_prompt"
    request = replace(REQUEST, shape=shape, memory_bytes=int(needs["soft_prompt"]) + 1)
    assert advise(request).method == "soft_prompt"


@given(st.sampled_from(advisor.TASKS), st.integers(0, 9_999), st.integers(0, 2000))
def test_small_data_never_trains_every_weight(task: str, train_rows: int, gib: int) -> None:
    """Below 10,000 rows full fine-tuning is no first try, and what is advised fits."""
    advice = advise(replace(REQUEST, task=task, train_rows=train_rows, memory_bytes=gib * GIB))
    assert advice.method != "full"
    assert {option.method: option.fits for option in advice.table}[advice.method]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": "domian"}, "task 'domian' is not one of .*; did you mean 'domain'?"),
        ({"train_rows": -1}, "rows -1 must be at least 0"),
        ({"load": replace(LOAD, rank=0)}, "rank 0 must be at least 1"),
        ({"load": replace(LOAD, rows=0)}, "batch size 0 must be at least 1"),
        ({"load": replace(LOAD, tokens=0)}, "tokens 0 must be at least 1"),
    ],
)
def test_bad_request(changed: dict[str, object], said: str) -> None:
    """An unknown task or a size that is none is one line."""
    with pytest.raises(SuiteError, match=said):
        advise(replace(REQUEST, **changed))  # type: ignore[arg-type]  # fields of Request by name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite of 150 rows on the embedded model, in the working directory."""
    (tmp_path / "suite.toml").write_text(SUITE)
    (tmp_path / "train.jsonl").write_text(rows(0, 150))
    (tmp_path / "heldout.jsonl").write_text(rows(1000, 30))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """Return what `pytest-finetune advise ... --json` prints."""
    assert cli.main(["advise", *arguments, "--json"]) == 0
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def test_advice_on_a_suite(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows, task, batch and tokens come from the suite's folder; the table names all five methods."""
    assert cli.main(["advise", str(folder), "--device=cpu"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{method} " in printed for method in (*METHODS, PROMPT))
    assert printed.splitlines()[-1].startswith("advice: lora: ")
    (folder / "train.jsonl").write_text(rows(0, 54))
    assert asked(capsys, str(folder))["method"] == "prompt"  # 54 less its dev split
    assert asked(capsys, str(folder), "--rows=50")["method"] == "lora"


def test_longer_rows_take_more(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One long row in the data raises the estimate, as a batch is padded to it; max_tokens bounds it."""
    before = asked(capsys, str(folder))
    line = json.dumps({"prompt": "long " * 300, "completion": "box red"})
    (folder / "train.jsonl").write_text(rows(0, 150) + line + "\n")
    after = asked(capsys, str(folder))
    taken = [answer["table"][0]["memory"]["activations"] for answer in (before, after)]  # type: ignore[index]
    assert taken[1] > 5 * taken[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere/at/all"], "'nowhere/at/all' is no folder here"),
        (["."], "no config.json in it"),
        (["embedded", "--task=poetry"], "task 'poetry' is not one of"),
        (["embedded", "--rank=0"], "rank 0 must be at least 1"),
        (["embedded", "--device=tpu"], "--device=tpu: write auto, cpu, cuda or cuda:N"),
    ],
)
def test_command_errors(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake is one line on stderr and exit code 4."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["advise", *arguments]) == 4
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.fault(21)
def test_absent_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for the memory of a GPU that is not there says how many there are."""
    monkeypatch.setattr(device, "gpu_count", lambda: 0)
    with pytest.raises(SuiteError, match="--device=cuda: this machine has 0 GPUs"):
        device.choose("cuda", "--device")
    with pytest.raises(SuiteError, match="this machine has 0 GPUs"):
        device.memory_bytes("cuda:1")


def test_advice_behind_an_api(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An API needs no model here: a name suffices, and the advice is a prompt."""
    assert asked(capsys, "some/hosted-model", "--api")["method"] == "prompt"


GROUPS = {
    "free": ({"proc/self/cgroup": "0::/\n"}, 8000),
    "version 2": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/memory.current": "1024\n",
            "sys/fs/cgroup/a/memory.max": str(3000 * 1024),
            "sys/fs/cgroup/a/memory.current": str(1500 * 1024),
            "sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {500 * 1024}\nactive_file 3\n",
        },
        2000,
    ),
    "version 1, path of the host": (
        {
            "proc/self/cgroup": "3:cpu:/x\n4:memory:/docker/x\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4000 * 1024),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(1000 * 1024),
            "sys/fs/cgroup/memory/memory.stat": "cache 5\ntotal_inactive_file 0\n",
        },
        3000,
    ),
}


@pytest.mark.parametrize(("files", "kib"), GROUPS.values(), ids=GROUPS.keys())
def test_memory_of_the_cpu(files: dict[str, str], kib: int, tmp_path: Path) -> None:
    """The least of what is available and what each control group leaves, its idle file pages counted as free."""
    for name, text in {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert device._free_bytes(tmp_path) == kib * 1024


def test_memory_at_hand() -> None:
    """This machine's memory is more than the embedded model takes, and less than a petabyte."""
    assert 2**28 < device.memory_bytes("cpu") < 2**50
