"""The pointers to releases, through processes that are killed at every step."""

import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_finetune.errors import SuiteError
from pytest_finetune.release.pointer import CURRENT, HISTORY, PREVIOUS, Pointers

EVENTS = ("open", "os.rename", "os.replace", "os.symlink", "os.remove", "os.truncate", "os.mkdir")


def move(folder: Path, after: str) -> None:
    """Move, as a command does."""
    pointers = Pointers(folder)
    with pointers.locked():
        if pointers.current != after:
            pointers.move(after, "test")


def killed(step: int, folder: Path, act: Callable[[], None]) -> bool:
    """Act in a process that is killed before its ``step``-th change of the folder; whether it lived so long."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) in (-signal.SIGKILL, 0)
        return os.WIFSIGNALED(status)
    count = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in EVENTS and any(isinstance(a, (str, Path)) and str(a).startswith(str(folder)) for a in arguments):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.addaudithook(watch)
        act()
        code = 0
    finally:
        os._exit(code)


def state(folder: Path) -> tuple[str, str]:
    """Return where the pointers lead, as a server reads them."""
    return os.readlink(folder / CURRENT), os.readlink(folder / PREVIOUS)  # noqa: PTH115  # what is there, raw


def test_killed_at_every_step(tmp_path: Path) -> None:
    """Wherever a move is killed, `current` is the old or the new; the next command finishes what was written down."""
    step, seen = 0, set()
    while True:
        step += 1
        folder = tmp_path / str(step)
        folder.mkdir()
        for name in ("a", "b"):
            move(folder, name)
        lived = not killed(step, folder, lambda place=folder: move(place, "c"))  # type: ignore[misc]
        between = state(folder)
        assert between[0] in ("b", "c")
        begun = len(Pointers(folder).history()) == 3
        with Pointers(folder).locked():
            assert state(folder) == (("c", "b") if begun else ("b", "a"))
        seen.add((between, begun))
        move(folder, "d")
        assert state(folder) == ("d", "c" if begun else "b")
        assert not {path.name for path in folder.iterdir()} - {CURRENT, PREVIOUS, HISTORY, ".lock"}
        if lived:
            break
    assert seen == {(("b", "a"), False), (("b", "a"), True), (("c", "a"), True), (("c", "b"), True)}, seen


def test_half_a_line_is_no_move(tmp_path: Path) -> None:
    """A line that the machine's end cut off is taken away, and the moves before it stay."""
    move(tmp_path, "a")
    whole = (tmp_path / HISTORY).read_bytes()
    (tmp_path / HISTORY).write_bytes(whole + whole[:-1])
    move(tmp_path, "b")
    assert [one.after for one in Pointers(tmp_path).history()] == ["a", "b"]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
@settings(max_examples=25)
def test_any_moves(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    """After any moves `current` is the last, `previous` the one before, and each move has one line."""
    folder = tmp_path_factory.mktemp("moves")
    for name in names:
        move(folder, name)
    runs = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    pointers = Pointers(folder)
    assert pointers.current == runs[-1]
    assert pointers.previous == (runs[-2] if len(runs) > 1 else "")
    assert [one.after for one in pointers.history()] == runs


def test_two_at_once(tmp_path: Path) -> None:
    """Processes that promote at once take turns: every one's move is in the history, each from where the last led."""
    children = []
    for name in "abcdef":
        if not (child := os.fork()):
            try:
                move(tmp_path, name)
            finally:
                os._exit(0)
        children.append(child)
    assert {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children} == {0}
    moves = Pointers(tmp_path).history()
    assert sorted(one.after for one in moves) == list("abcdef")
    assert [one.before for one in moves] == ["", *(one.after for one in moves[:-1])]
    assert state(tmp_path) == (moves[-1].after, moves[-1].before)


def test_waits_for_its_turn(tmp_path: Path) -> None:
    """Whoever comes while another promotes waits until that one is done."""
    read, write = os.pipe()
    with Pointers(tmp_path).locked():
        if not (child := os.fork()):
            try:
                move(tmp_path, "b")
                os.write(write, b"done")
            finally:
                os._exit(0)
        assert select.select([read], [], [], 0.5)[0] == []  # more time only makes this surer
        Pointers(tmp_path).move("a", "test")
    os.waitpid(child, 0)
    assert os.read(read, 4) == b"done"
    os.close(read)
    os.close(write)
    assert state(tmp_path) == ("b", "a")


def by_hand(folder: Path) -> None:
    (folder / CURRENT).unlink()
    (folder / CURRENT).symlink_to("x")


def a_folder(folder: Path) -> None:
    (folder / CURRENT).unlink()
    (folder / CURRENT).mkdir()


def no_history(folder: Path) -> None:
    (folder / HISTORY).unlink()


def bad_history(folder: Path) -> None:
    (folder / HISTORY).write_text("{}\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [(by_hand, "by hand"), (a_folder, "is no link"), (no_history, "and no history"), (bad_history, "is no move")],
)
def test_what_others_did_is_not_undone(tmp_path: Path, change: Callable[[Path], None], said: str) -> None:
    """What somebody changed by hand is refused in one line, and left as it is."""
    move(tmp_path, "a")
    move(tmp_path, "b")
    change(tmp_path)
    before = sorted((path.name, path.lstat().st_mtime_ns) for path in tmp_path.iterdir() if path.name != ".lock")
    with pytest.raises(SuiteError, match=said):
        move(tmp_path, "c")
    assert before == sorted(
        (path.name, path.lstat().st_mtime_ns) for path in tmp_path.iterdir() if path.name != ".lock"
    )
