"""The store: nothing half made, nothing damaged is ever served."""

import errno
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from writers import BEGINNING, NO_DISK, at_once, on_a_disk

from pytest_finetune import unfinished
from pytest_finetune.records import Example, Message, Prompt, from_plain, to_plain
from pytest_finetune.store import Store, work_name


def test_made_once(tmp_path: Path) -> None:
    """A value is made the first time only."""
    store = Store(tmp_path / "s")
    made: list[str] = []

    def make() -> list[int]:
        made.append("once")
        return [1, 2]

    for _ in range(3):
        assert store.json("stage", "key", make) == [1, 2]
    assert made == ["once"]
    assert (tmp_path / "s" / "CACHEDIR.TAG").is_file()


@pytest.mark.parametrize("damage", [b"", b"[9]", b"\xff\x00"])
def test_damaged_entry_is_made_again(tmp_path: Path, damage: bytes) -> None:
    """A changed byte makes an entry invisible; it is quarantined and made anew."""
    store = Store(tmp_path)
    store.json("stage", "key", lambda: "good")
    (tmp_path / "stage" / "key" / "value.json").write_bytes(damage)
    assert not store.has("stage", "key")
    assert store.json("stage", "key", lambda: "made again") == "made again"
    assert list((tmp_path / "quarantine").iterdir())


def test_failed_make_leaves_nothing(tmp_path: Path) -> None:
    """When making raises, the error passes and no entry and no work folder stay."""
    store = Store(tmp_path)

    def broken() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.json("stage", "key", broken)
    assert not store.has("stage", "key")
    assert not list(tmp_path.glob("work-*"))


def test_error_of_a_maker_is_its_own(tmp_path: Path) -> None:
    """What a user's metric could not open is not blamed on the store."""

    def broken() -> None:
        raise FileNotFoundError("words.txt")

    with pytest.raises(FileNotFoundError, match=r"words\.txt"):
        Store(tmp_path).json("stage", "key", broken)


def test_only_own_dead_are_cleared(tmp_path: Path) -> None:
    """A folder that a killed process of this machine left is cleared; one of another machine's, whose pids we cannot
    know, stays.
    """
    dead, elsewhere = tmp_path / f"{work_name(2**22 + 1)}x", tmp_path / "work-otherhost-1-x"
    dead.mkdir()
    elsewhere.mkdir()
    Store(tmp_path).json("stage", "key", lambda: 1)
    assert (dead.exists(), elsewhere.exists()) == (False, True)


texts = st.text(max_size=8)
examples = st.builds(
    Example, texts, st.lists(st.builds(Message, texts, texts)).map(tuple), texts, texts, st.integers(), texts
)


@given(st.builds(Prompt, texts, texts, st.lists(examples, max_size=3).map(tuple)))
def test_records_survive_plain_data(prompt: Prompt) -> None:
    """A record is the same after its way through plain data."""
    assert from_plain(Prompt, to_plain(prompt)) == prompt


@pytest.mark.fault(10)
def test_with_locks_one_makes_what_many_want(tmp_path: Path) -> None:
    """Of processes that want an entry at once, one makes it; one that is killed amid that holds up nobody."""
    code = """
store = Store(Path(sys.argv[1]))
if sys.argv[2] == "dies":
    store.json("stage", "key", lambda: (print("locked", flush=True), sys.stdin.readline()))
def make():
    print("made")
    return 1
store.json("stage", "key", make)
"""
    dies = subprocess.Popen([sys.executable, "-c", f"LOCKLESS = False\n{BEGINNING}{code}", str(tmp_path), "dies"],
                            stdin=-1, stdout=-1, text=True)  # fmt: skip
    assert dies.stdin
    assert dies.stdout
    dies.stdin.write("\n")
    dies.stdin.flush()
    assert dies.stdout.readline() == "locked\n"
    dies.kill()
    dies.communicate()
    assert sorted(at_once(code, str(tmp_path), "lives", processes=4, lockless=False)) == [""] * 3 + ["made\n"]
    assert not list(tmp_path.glob("work-*"))


@pytest.mark.fault(12)
def test_without_locks_all_work_and_one_entry_stands(tmp_path: Path) -> None:
    """Where locks do nothing, each of many writers gets a whole entry, also in the place of a damaged one, and no
    writer's is left half made.
    """
    keys = [f"key{i}" for i in range(40)]
    for key in keys:
        Store(tmp_path).json("stage", key, lambda: "old")
        (tmp_path / "stage" / key / "value.json").write_text("damaged")
    code = """
store = Store(Path(sys.argv[1]))
for i in range(40):
    found = store.json("stage", f"key{i}", lambda: [os.getpid()] * 1000)
    assert len(found) == 1000 and len(set(found)) == 1, found
    store.note("name", lambda noted: {"last": i})
"""
    at_once(code, str(tmp_path))
    store = Store(tmp_path)
    assert all(store.has("stage", key) for key in keys)
    assert store.noted("name") == {"last": 39}
    assert not list(tmp_path.glob("work-*")) + list(tmp_path.glob("notes/*.half"))
    damaged = [path for path in tmp_path.glob("quarantine/*/value.json") if path.read_text() == "damaged"]
    assert len(damaged) == len(keys) == len(list(tmp_path.glob("quarantine/*/value.json")))


def test_without_locks_no_two_share_what_is_unfinished(tmp_path: Path) -> None:
    """Trainers of one key at once, and one folder of checkpoints that a killed one left: one goes on with it,
    and every one writes to a folder of its own.
    """
    left = tmp_path / "unfinished" / f"key-{unfinished.HOST}-{2**22 + 1}-0a"
    (left / "checkpoint-7").mkdir(parents=True)
    code = """
import time
with Store(Path(sys.argv[1])).unfinished("key") as kept:
    resumed = (kept / "checkpoint-7").is_dir()
    (kept / f"of {os.getpid()}").mkdir(parents=True)
    print(resumed, flush=True)
    (Path(sys.argv[2]) / str(os.getpid())).touch()
    while len(os.listdir(sys.argv[2])) < 4:  # none ends before all have begun
        time.sleep(0.01)
    assert len(list(kept.glob("of *"))) == 1
"""
    (tmp_path / "begun").mkdir()
    assert sorted(at_once(code, str(tmp_path), str(tmp_path / "begun"), processes=4)) == ["False\n"] * 3 + ["True\n"]
    with Store(tmp_path).unfinished("key") as kept:  # all of them left theirs
        assert kept.is_dir()


def test_unfinished_of_the_living_is_theirs(tmp_path: Path) -> None:
    """What a process that lives here works on is not taken, nor is another machine's that was touched lately."""
    for owner, hours, taken in (
        (f"{unfinished.HOST}-{os.getpid()}", 0, False),
        (f"{unfinished.HOST}-{os.getpid()}", 1, True),  # a number that another process has now
        ("elsewhere-1", 0, False),
        ("elsewhere-1", 1, True),
        (f"{unfinished.HOST}-{2**22 + 1}", 0, True),
    ):
        root = tmp_path / f"{owner} {hours}"
        folder = root / f"key-{owner}-0a"
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - 3600 * hours,) * 2)
        with unfinished.held(root, "key") as own:
            assert (own.is_dir(), folder.is_dir()) == (taken, not taken)


def test_what_fails_is_taken_up_by_the_same_process(tmp_path: Path) -> None:
    """A trainer that lost its engine leaves its checkpoints to the next one at once, and one that ended leaves none."""
    store = Store(tmp_path)

    def loses_its_engine() -> None:
        with store.unfinished("key") as kept:
            kept.mkdir(parents=True)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        loses_its_engine()
    with store.unfinished("key") as again:
        assert again.is_dir()
        again.rmdir()
    assert not list((tmp_path / "unfinished").iterdir())


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk whose answer to locking is that it has none holds a store all the same."""
    import fcntl

    for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):

        def no_locks(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", no_locks)
        assert Store(tmp_path).json("stage", str(number), lambda: 1) == 1


class Publishing(RuleBasedStateMachine):
    """Writers of one key, each of whose steps may come between any two of another's."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.path = self.root / "stage" / "key"
        self.seen: list[int] = []  # damaged entries that a writer is about to set aside
        self.standing = False

    @rule()
    def publish(self) -> None:
        """A writer publishes in one go."""
        Store(self.root).json("stage", "key", lambda: "made")
        self.standing = True

    @precondition(lambda self: self.standing)
    @rule(writers=st.integers(0, 2))
    def damage(self, writers: int) -> None:
        """A byte of the entry flips; some writers find that, and are held up."""
        (self.path / "value.json").write_text("damaged")
        self.seen += [os.open(self.path, os.O_RDONLY) for _ in range(writers)]
        self.standing = False

    @precondition(lambda self: self.seen)
    @rule()
    def set_aside(self) -> None:
        """One of them goes on."""
        found = self.seen.pop(0)
        Store(self.root)._set_aside("key", found)
        os.close(found)

    @invariant()
    def valid_stays(self) -> None:
        """What was published stays, until a byte of it flips."""
        if self.standing:
            assert Store(self.root).has("stage", "key")

    def teardown(self) -> None:
        """Remove the store."""
        for found in self.seen:
            os.close(found)
        self.folder.cleanup()


Publishing.TestCase.settings = settings(max_examples=50, stateful_step_count=12, deadline=None)
TestPublishing = Publishing.TestCase


def test_rebuilding_at_once_is_once(tmp_path: Path) -> None:
    """Whoever makes an entry anew, and finds that another did so meanwhile, takes what that one made."""
    store = Store(tmp_path)
    store.json("stage", "key", lambda: "old")

    def slowly() -> str:
        other = tmp_path / "other"
        other.mkdir()
        (other / "value.json").write_text('"of another"')
        Store(tmp_path)._publish(other, tmp_path / "stage" / "key", (tmp_path / "stage" / "key").stat().st_ino)
        return "mine"

    assert store.json("stage", "key", slowly, rebuild=True) == "of another"
    assert store.json("stage", "key", lambda: "again", rebuild=True) == "again"


KILLED = """
import os, signal, sys
from pathlib import Path
from pytest_finetune.store import Store

def write(folder):
    for name in ("a", "b"):
        (folder / name).write_text("whole " * 100)

def counted(call):
    def counting(*arguments, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **more)
    return counting

before = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "mkdir", "chmod", "open", "rmdir")}
for number in range(1000):
    root, left = Path(sys.argv[1], str(number)), number
    if (child := os.fork()) == 0:
        for name, call in before.items():
            setattr(os, name, counted(call))
        Store(root).folder("stage", "key", write)
        os._exit(0)
    ended = os.waitpid(child, 0)[1]
    there = Store(root).has("stage", "key")
    folder = Store(root).folder("stage", "key", write)
    work = list(root.glob("work-*"))
    print(there, sorted(path.name for path in folder.iterdir()), len(work), flush=True)
    if not ended:
        break
"""


@pytest.mark.fault(2)
def test_killed_at_every_call_to_the_disk(tmp_path: Path) -> None:
    """Before whichever call to the disk a writer is killed, its entry is not there or whole, and the next one's is."""
    said = subprocess.check_output([sys.executable, "-c", KILLED, str(tmp_path)], text=True).splitlines()
    assert len(said) > 10
    assert {line.partition(" ")[2] for line in said} == {"['a', 'b', 'manifest.json'] 0"}
    there = [line.partition(" ")[0] for line in said]
    assert there == sorted(there)  # none, and from the rename on all
    assert {*there} == {"False", "True"}


@pytest.mark.fault(11)
def test_lock_of_a_killed_holder(tmp_path: Path) -> None:
    """Whoever waits for a lock has it within 2 seconds of its holder's death."""
    code = """
import sys
from pathlib import Path
from pytest_finetune.store import Store
with Store(Path(sys.argv[1])).lock("stage", "key"):
    print("held", flush=True)
    sys.stdin.readline()
"""
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=-1, stdout=-1, text=True)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    killer = threading.Timer(0.5, holder.kill)
    started = time.monotonic()
    killer.start()
    with Store(tmp_path).lock("stage", "key"):
        waited = time.monotonic() - started
    holder.communicate()
    assert 0.4 < waited < 2.5


FULL = """
import sys
from pathlib import Path
from pytest_finetune.errors import EngineError
from pytest_finetune.store import Store
store = Store(Path(sys.argv[1], "store"))
store.json("stage", "small", lambda: "fits")
try:
    store.json("stage", "large", lambda: "x" * 3_000_000)
except EngineError as error:
    print(error)
print(store.has("stage", "small"), store.has("stage", "large"), list(store.root.glob("work-*")))
print(store.json("stage", "next", lambda: "fits"))
"""


@pytest.mark.fault(14)
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk of its own")
def test_full_disk(tmp_path: Path) -> None:
    """What does not fit is one error with the bytes it takes and those there are; the store goes on with what fits."""
    done = subprocess.run(
        on_a_disk("1m", tmp_path, sys.executable, "-c", FULL, str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == NO_DISK or done.stderr.startswith("unshare:"):
        pytest.skip("no disk can be mounted here")
    assert done.returncode == 0, done.stderr
    full, kept, after = done.stdout.splitlines()
    assert re.fullmatch(
        rf"store {tmp_path}/store: the disk is full: 3,000,002 bytes are needed, and [\d,]+ are free; "
        r"see --finetune-store",
        full,
    ), full
    assert (kept, after) == ("True False []", "fits")
