"""The engine as the pytest process sees it: a child that holds torch, spoken to in JSON lines."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_finetune import environment, errors
from pytest_finetune.engine import cage
from pytest_finetune.engines import LOCAL, Capabilities, EngineSpec
from pytest_finetune.protocol import OnProgress, Progress, Turns
from pytest_finetune.records import (
    Adapter,
    Answers,
    Document,
    Generation,
    HarnessTask,
    Lengths,
    Model,
    TrainingCurve,
    TrainSpec,
    from_plain,
    to_plain,
)

T = TypeVar("T")
GRACE_SECONDS = 5.0  # GitHub's runner kills a cancelled job 10 s after its first signal
# A waiting thread gives its core away: where others use the cores, spinning costs both sides (benchmarks/cores.py).
DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE"}
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "BITSANDBYTES_NOWELCOME": "1",
    "PYTHONIOENCODING": "utf-8",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the child may see and take.

    Args:
        passed: names of variables that it gets beside those it always does, see ``environment.of_engine``.
        silent_seconds: for which it may give no sign of life amid a request; 0 for any time.
        memory_bytes: that it may take of this machine's memory; 0 for all there are.
    """

    passed: tuple[str, ...] = ()
    silent_seconds: float = 3600.0
    memory_bytes: int = 0


UNBOUND = Bounds()


class EngineProcess:
    """Implements ``protocol.Engine`` by a child process, which starts its imports at once.

    Args:
        device: what it computes on.
        on_progress: told how far long calls have come.
        spec: which engine it is.
        launcher: the command that starts what trains, in several processes; empty trains in the child.
        bounds: what it may see and take.
    """

    def __init__(
        self,
        device: str,
        on_progress: OnProgress,
        spec: EngineSpec = LOCAL,
        launcher: str = "",
        bounds: Bounds = UNBOUND,
    ) -> None:
        self._device = device
        self.bounds = bounds
        self.spec = spec
        self._launcher = launcher
        self._on_progress = on_progress
        self._start()

    def _start(self) -> None:
        self.closed = False
        self._ended: errors.FinetuneError | None = None  # why it was
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # until close()
        theirs, ours = os.pipe()
        self._lifeline = os.fdopen(ours, "wb")  # its end by our death, or by close(), is the child's
        self._child = subprocess.Popen(
            # -P: a script of the user's called evaluate.py or queue.py is no module of the engine's.
            [
                sys.executable,
                "-P",
                "-m",
                "pytest_finetune.engine.worker",
                self._device,
                json.dumps(to_plain(self.spec)),
                self._launcher,
                str(self.bounds.memory_bytes),
                str(theirs),
            ],
            pass_fds=(theirs,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={
                **DEFAULTS,
                **environment.of_engine(os.environ, (*self.bounds.passed, self.spec.api_key_env)),
                **QUIET,
            },
            # Ctrl-C reaches the terminal's whole group; the parent decides when the child ends.
            start_new_session=True,
        )
        os.close(theirs)
        assert self._child.stdout
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()  # an empty one is the end
        self._reader = threading.Thread(target=_read, args=(self._child.stdout, self._lines), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def capabilities(self, model: Model) -> Capabilities:
        """See ``protocol.Engine``."""
        return self._call(Capabilities, "capabilities", model)

    def generate(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], generation: Generation
    ) -> Answers:
        """See ``protocol.Engine``."""
        return self._call(Answers, "generate", model, adapter, prompts, generation)

    def lengths(self, model: Model, prompts: tuple[Turns, ...]) -> Lengths:
        """See ``protocol.Engine``."""
        return self._call(Lengths, "lengths", model, prompts)

    def score(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], choices: tuple[str, ...]
    ) -> tuple[tuple[float, ...], ...]:
        """See ``protocol.Engine``."""
        return self._call(tuple[tuple[float, ...], ...], "score", model, adapter, prompts, choices)

    def train(self, spec: TrainSpec, folder: str, kept: str = "") -> TrainingCurve:
        """See ``protocol.Engine``."""
        return self._call(TrainingCurve, "train", spec, folder, kept)

    def probe(self, model: Model, adapter: Adapter, prompts: tuple[Turns, ...]) -> float:
        """See ``protocol.Engine``."""
        return self._call(float, "probe", model, adapter, prompts)

    def evaluate(
        self, metric: str, key: str, predictions: tuple[str, ...], references: tuple[str, ...]
    ) -> tuple[float, ...]:
        """See ``protocol.Engine``."""
        return self._call(tuple[float, ...], "evaluate", metric, key, predictions, references)

    def redraw(
        self,
        metric: str,
        key: str,
        predictions: tuple[str, ...],
        references: tuple[str, ...],
        clusters: tuple[str, ...],
    ) -> tuple[float, ...]:
        """See ``protocol.Engine``."""
        return self._call(tuple[float, ...], "redraw", metric, key, predictions, references, clusters)

    def harness(self, model: Model, adapter: Adapter | None, task: HarnessTask) -> tuple[Document, ...]:
        """See ``protocol.Engine``."""
        return self._call(tuple[Document, ...], "harness", model, adapter, task)

    def close(self, grace_seconds: float = 0.0) -> None:
        """End the child; nothing of it stays behind.

        Args:
            grace_seconds: what training may take to write a checkpoint.
        """
        self.closed = True
        try:
            if grace_seconds:
                self._child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(grace_seconds)
        finally:  # also where Ctrl-C was pressed twice
            self._kill()
        self._reader.join()
        for stream in (self._child.stdin, self._child.stdout, self._log, self._lifeline):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def _call(self, kind: type[T], method: str, *args: Any) -> T:
        self._asked = (method, args)
        try:
            request = json.dumps({"method": method, "args": to_plain(args)}) + "\n"
            self._send(request)
            answer = self._receive()
            if "again" in answer:  # the child's libraries were imported without what this request needs
                self.close()
                self._start()
                self._send(request)
                answer = self._receive()
            return from_plain(kind, answer["result"])
        except errors.FinetuneError:
            raise
        except BaseException:  # Ctrl-C, a timeout: the child must not go on writing into a folder that is removed
            self.close(GRACE_SECONDS)
            raise

    def _send(self, request: str) -> None:
        assert self._child.stdin
        try:
            self._child.stdin.write(request)
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._gone() from None

    def _receive(self) -> dict[str, Any]:
        while line := self._next_line():
            answer: dict[str, Any] = json.loads(line)
            if "progress" in answer:
                self._on_progress(from_plain(Progress, answer["progress"]))
            elif "error" in answer:
                kind = getattr(errors, answer["error"]["kind"], errors.EngineError)
                raise kind(answer["error"]["message"])
            else:
                return answer
        raise self._gone()

    def _next_line(self) -> str:
        try:
            return self._lines.get(timeout=self.bounds.silent_seconds or None)
        except queue.Empty:
            self._kill()
            self._ended = errors.EngineError(
                f"the engine process gave no sign of life for {self.bounds.silent_seconds:g} s in "
                f"{self._asked[0]!r}, and was ended; if that can take so long, raise --finetune-engine-timeout"
            )
            raise self._ended from None

    def _gone(self) -> errors.FinetuneError:
        if self.closed:
            return errors.EngineError("the engine process was ended: an earlier request was interrupted")
        if self._ended is None:
            self._ended = self._why()
        return self._ended

    def _why(self) -> errors.FinetuneError:
        """Return what ended the child."""
        status = self._child.wait()
        self._log.seek(0)
        log = self._log.read()
        if cap := cage.exceeded(status, log):
            return cage.broken(_model(self._asked[1]), cap)
        if status == -signal.SIGKILL:
            return errors.EngineError(
                "the engine process was killed (SIGKILL); most likely this machine ran out of memory. "
                "Take a smaller model, batch_size or max_tokens."
            )
        if status < 0:
            return errors.EngineError(f"the engine process was ended by {signal.Signals(-status).name}")
        last = next((line for line in reversed(log.splitlines()) if line.strip()), "no message")
        return errors.EngineError(f"the engine process ended with status {status}: {errors.one_line(last)}")


def _read(lines: Iterable[str], into: "queue.SimpleQueue[str]") -> None:
    """Hand lines over, so that a wait for one can end."""
    for line in lines:
        into.put(line)
    into.put("")


def _model(args: Iterable[Any]) -> str:
    """Return the folder or name of the model that a request is about."""
    models = (model for arg in args if isinstance(model := getattr(arg, "model", arg), Model))
    return next((model.path or model.name for model in models), "a model")
