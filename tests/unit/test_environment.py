"""The engine's environment: what its process gets of ours."""

import contextlib
import os
from pathlib import Path

import pytest

from pytest_finetune import environment
from pytest_finetune.engine.client import Bounds, EngineProcess
from pytest_finetune.engines import EngineSpec

OURS = {"PATH": "/bin", "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "1", "HF_HOME": "/hf", "LC_ALL": "C"}
OTHERS = {
    **{"HF_TOKEN": "t", "GITHUB_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "t", "NVIDIA_API_KEY": "t", "SLURM_JWT": "t"},
    **{
        "SSH_AUTH_SOCK": "/s",
        "GITHUB_ENV": "/e",
        "PGPASSFILE": "/p",
        "ACTIONS_RUNTIME_URL": "u",
        "WANDB_MODE": "offline",
    },
}


@pytest.mark.attack(19)
def test_only_what_is_listed() -> None:
    """What is on the list is passed, and nothing that is called a secret, though a pattern of the list has its name."""
    assert environment.of_engine(OURS | OTHERS, ()) == OURS


def test_what_is_asked_for() -> None:
    """Names and patterns that were asked for are passed, too, secrets or not."""
    assert environment.of_engine(OTHERS, ("HF_TOKEN", "WANDB_*")) == {"HF_TOKEN": "t", "WANDB_MODE": "offline"}


def test_what_the_hub_is_asked_with() -> None:
    """A run that takes anything from the hub has each variable by which its client finds a token, or sends none."""
    ours = dict.fromkeys(("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_ENDPOINT"), "x")
    assert environment.of_engine(ours, environment.OF_HUB) == ours


@pytest.mark.attack(19)
@pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="reads a process's environment in /proc")
def test_the_engine_gets_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real engine process holds no secret of the runner's; the key of its own server it does, and what is named."""
    for name in ("GITHUB_TOKEN", "HF_TOKEN", "MY_SERVERS_KEY", "MINE", "NOT_MINE"):
        monkeypatch.setenv(name, f"canary-{name}")
    spec = EngineSpec("endpoint", "http://127.0.0.1:9/v1", api_key_env="MY_SERVERS_KEY")
    with contextlib.closing(EngineProcess("cpu", lambda progress: None, spec, bounds=Bounds(("MINE",)))) as engine:
        held = Path(f"/proc/{engine.pid}/environ").read_bytes()
    assert {part for part in held.split(b"\0") if b"canary" in part} == {
        b"MY_SERVERS_KEY=canary-MY_SERVERS_KEY",
        b"MINE=canary-MINE",
    }
    assert f"PATH={os.environ['PATH']}".encode() in held
