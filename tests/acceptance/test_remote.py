"""The remote through pytest: a machine that has nothing takes what another made."""

from pathlib import Path

import pytest


@pytest.mark.slow
def test_another_machine_asks_no_model(pytester: pytest.Pytester, project: Path) -> None:
    """With a store of its own and the same remote, nothing is trained or asked, and attempts are its own."""
    remote = f"--finetune-remote=file://{pytester.path}/remote"
    first = pytester.runpytest_subprocess("--finetune", remote, timeout=240)
    assert first.ret == 0
    other = pytester.runpytest_subprocess(
        "--finetune", remote, "--finetune-store=other", "--finetune-explain", timeout=240
    )
    assert other.ret == 0
    other.stdout.fnmatch_lines(
        ["*stage*baseline: reused*", "*stage*adapter: reused*", "*outputs of adapter on held-out: reused*"]
    )
    held = {path.name for path in (pytester.path / "remote").iterdir()}
    assert held >= {"adapter", "likelihoods"} or held >= {"adapter", "outputs"}
    assert not held & {"verdict", "settled", "curated", "ledger", "notes", "unfinished", "locks"}
    assert len(list((pytester.path / "other" / "ledger").glob("0*"))) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bucket/prefix", "*--finetune-remote=bucket/prefix: is no address; write s3://bucket/prefix*"),
        ("nowhere://x", "*--finetune-remote=nowhere://x: Protocol not known: nowhere*"),
        ("http://127.0.0.1:1/x", "*--finetune-remote=http://127.0.0.1:1/x: cannot be read: *mend the address*"),
    ],
)
def test_an_address_that_is_none(pytester: pytest.Pytester, project: Path, url: str, said: str) -> None:
    """It is one line before anything runs, also from the ini file."""
    pytester.makeini(f"[pytest]\nfinetune_remote = {url}\n")
    result = pytester.runpytest_subprocess("--finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])
    assert "Traceback" not in result.stderr.str()
    assert not (pytester.path / ".finetune").exists()


def test_a_plan_needs_no_remote(pytester: pytest.Pytester, project: Path) -> None:
    """It makes nothing, so it asks nobody."""
    assert pytester.runpytest_subprocess("--finetune-plan", "--finetune-remote=http://127.0.0.1:1/x").ret == 0
