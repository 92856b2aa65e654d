"""The launcher: what its command says, how a batch is shared, and what fills a batch up."""

import re
from pathlib import Path

import pytest

from pytest_finetune import digest
from pytest_finetune.engine import launcher, ranks
from pytest_finetune.engine.launcher import Job
from pytest_finetune.engine.tree import collate
from pytest_finetune.errors import SuiteError
from pytest_finetune.records import Model, Training, TrainSpec


@pytest.mark.parametrize(
    ("command", "count"),
    [
        ("torchrun --nproc-per-node 8", 8),
        ("torchrun --nproc_per_node=8 --nnodes=2 --rdzv-backend c10d", 16),
        ("srun -N2 -n2 torchrun --nnodes 2 --nproc-per-node 8", 16),
        ("torchrun --nnodes 1:4 --nproc-per-node 8", 0),
        ("torchrun --nproc-per-node gpu", 0),
        ("accelerate launch --cpu --num_processes 2", 2),
        ("accelerate launch --config_file fsdp.yaml", 0),
        ("srun -n 4 wrapped", 4),
        ("nice -n 10 wrapped", 0),
        ("python", 0),
    ],
)
def test_what_a_launcher_is_asked_for(command: str, count: int) -> None:
    """How many processes there must be is read off the commands of launchers, where they say it in numbers."""
    assert launcher.asked(command) == count


def test_what_accelerates_config_asks_for(tmp_path: Path) -> None:
    """The number of processes is read off a config of accelerate's, too; what is wrong with it, accelerate says."""
    config = tmp_path / "fsdp.yaml"
    command = f"accelerate launch --config_file {config}"
    assert launcher.asked(command) == 0
    config.write_text("distributed_type: FSDP\nnum_processes: 16\n")
    assert launcher.asked(command) == 16
    config.write_text("- 16\n")
    assert launcher.asked(command) == 0


def test_configs_to_copy(tmp_path: Path) -> None:
    """Accelerate takes the configs that the documentation has."""
    from accelerate.commands.config.config_args import (  # type: ignore[import-untyped]  # it ships no types
        load_config_from_file,
    )

    text = (digest.PACKAGE.parent / "docs" / "distributed-training.md").read_text()
    configs = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for number, config in enumerate(configs):
        file = tmp_path / f"{number}.yaml"
        file.write_text(config)
        assert load_config_from_file(str(file)).num_processes == launcher.asked(
            f"accelerate launch --config_file={file}"
        )
    assert len(configs) == 2


def test_batch_that_processes_cannot_share(tmp_path: Path) -> None:
    """A batch_size that the processes do not divide is one line with a remedy, before any of them is started."""
    spec = TrainSpec(Model("embedded", ""), Training(batch_size=16), (), ())
    job = Job(spec, str(tmp_path), str(tmp_path / "work"), "cpu", "torchrun --nproc-per-node 3")
    with pytest.raises(SuiteError, match=r"batch_size = 16: the 3 processes .* write batch_size = 15, or launch fewer"):
        launcher.launch(job, lambda progress: None)
    assert ranks.share(16, 8) == 2


def test_last_words_of_a_launcher() -> None:
    """Of a long dump the first error of a rank is told; a killed rank is taken for one that lacked memory."""
    job = Job(TrainSpec(Model("embedded", ""), Training(), (), ()), "", "", "cpu", "torchrun")
    log = "W1125 run.py\n[rank1]: Traceback (most recent call last):\n[rank1]: torch.nn.OddError: wires crossed\n"
    log += "E1125 failed\nChildFailedError: \n====\n"
    assert str(launcher._unsaid(job, 1, log)) == (
        "--finetune-launcher='torchrun' ended with status 1: torch.nn.OddError: wires crossed"
    )
    assert "ran out of memory" in str(launcher._unsaid(job, 1, "traceback : Signal 9 (SIGKILL) received by PID 7\n"))
    assert str(launcher._unsaid(job, 3, "")).endswith("ended with status 3: no message")


def test_rows_that_fill_up_count_nothing() -> None:
    """A batch of rows without completions has no token whose loss would count, and one among others adds none."""
    filler = ([5, 6], list[int]())
    alone = collate([filler, filler], [0.0, 0.0], 0, 0.0)
    assert alone["labels"].numel() == alone["nodes"].numel() == 0
    assert not alone["logits_to_keep"].any()
    mixed, own = (collate(pairs, [1.0] * len(pairs), 0, 0.0) for pairs in ([([5], [7, 8]), filler], [([5], [7, 8])]))
    assert mixed["labels"].tolist() == own["labels"].tolist() == [7, 8]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("torchrum --nproc-per-node 2", "no program 'torchrum'; install it, or write its path"),
        ("torchrun 'two", "No closing quotation; write it as in a shell"),
        (" ", "no command; write one, as torchrun --nproc-per-node 2"),
    ],
)
def test_launcher_that_cannot_be(pytester: pytest.Pytester, command: str, said: str) -> None:
    """A launcher that does not exist, or is none, is one line before anything runs."""
    with pytest.raises(pytest.UsageError, match=f"--finetune-launcher=.*{re.escape(said)}$"):
        pytester.parseconfigure("--finetune", f"--finetune-launcher={command}")


def test_launcher_of_the_ini_file(pytester: pytest.Pytester) -> None:
    """The ini file may name the launcher, too."""
    pytester.makeini("[pytest]\nfinetune_launcher = torchrum")
    with pytest.raises(pytest.UsageError, match="--finetune-launcher=torchrum: no program"):
        pytester.parseconfigure("--finetune")
