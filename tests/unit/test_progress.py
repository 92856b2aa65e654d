"""The line that shows how far a stage has come."""

from types import SimpleNamespace

import pytest

from pytest_finetune.progress import ProgressLine
from pytest_finetune.protocol import Progress


@pytest.mark.parametrize(("ci", "shown"), [("", True), ("true", False)])
def test_quiet_in_ci(ci: str, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log gets a line now and then; one that nobody watches, in CI, gets none."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr("pytest_finetune.progress.SECONDS_BETWEEN_LINES", {True: 0.0, False: 0.0})
    lines: list[str] = []
    reporter = SimpleNamespace(isatty=False, ensure_newline=lambda: None, write_line=lines.append)
    plugins = {"terminalreporter": reporter}
    config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=plugins.get))
    line = ProgressLine(config)  # type: ignore[arg-type]  # all it asks of a config
    line.show("colours", Progress("train", 3, 10, "loss 1.234, 900 tokens/s, 7 s left"))
    assert lines == (["  colours: train 3/10 loss 1.234, 900 tokens/s, 7 s left"] if shown else [])
