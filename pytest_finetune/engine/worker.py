"""The engine process: requests come as JSON lines on stdin, answers go to stdout's descriptor."""

import contextlib
import gc
import json
import os
import queue
import sys
import threading
import traceback
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_finetune import errors, redaction
from pytest_finetune.engines import EngineSpec
from pytest_finetune.lifeline import end_with
from pytest_finetune.protocol import Engine, OnProgress, Progress
from pytest_finetune.records import Model, from_plain, to_plain
from pytest_finetune.redaction import redacted


def main() -> None:
    """Serve requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not land between the answers

    def send(kind: str, value: Any) -> None:
        answers.write(json.dumps({kind: redacted(to_plain(value))}) + "\n")

    def answer(value: Any) -> None:
        # It is measured and stored: without the secret another text would be, and with it, the store would tell.
        if name := redaction.holder(plain := to_plain(value)):
            raise errors.EngineError(
                f"an answer holds what the engine's environment keeps secret in {name}; "
                "take another secret, or unset it for this run"
            )
        send("result", plain)

    def report(progress: Progress) -> None:
        send("progress", progress)

    end_with(int(sys.argv[5]))
    _bound(int(sys.argv[4]))
    library = _Bitsandbytes()
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    engine: Any = None
    refused: errors.FinetuneError | None = None
    try:
        with _uncollected():
            # Torch, and what every model needs, while the parent curates.
            import transformers.generation.utils
            import transformers.modeling_utils  # noqa: F401

            engine = _opened(from_plain(EngineSpec, json.loads(sys.argv[2])), sys.argv[1], report)
            engine.launcher = sys.argv[3]
    except errors.FinetuneError as error:
        refused = error
    while True:
        request = json.loads(requests.get())
        try:
            if refused:
                raise refused
            method = getattr(engine, request["method"])
            args = list(map(from_plain, typing.get_type_hints(method).values(), request["args"]))
            if not library.serves(args):  # the parent starts another process
                send("again", True)
                continue
            answer(method(*args))
        except errors.FinetuneError as error:
            kind = next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
            send("error", {"kind": kind, "message": str(error)})
        except Exception as error:
            from pytest_finetune.engine import mishaps  # imports torch, as `engine` did

            traceback.print_exc()
            send("error", {"kind": "EngineError", "message": str(mishaps.named(error))})


def _opened(spec: EngineSpec, device: str, report: OnProgress) -> Engine:
    if spec.name == "endpoint":
        from pytest_finetune.engine.endpoint import EndpointEngine

        return EndpointEngine(spec, device, report)
    if spec.name == "vllm":
        from pytest_finetune.engine.vllm import VllmEngine

        return VllmEngine(device, report)
    from pytest_finetune.engine.local import LocalEngine

    return LocalEngine(device, report)


def _bound(memory_bytes: int) -> None:
    """Let this process take so much memory, and what it starts each as much; 0 for all there is."""
    if memory_bytes:
        import resource

        # Not of its addresses, of which CUDA reserves more than any machine has memory.
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, most))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Import without looking for garbage: modules stay."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


class _Bitsandbytes:
    """Hides bitsandbytes in a process whose first model is in full precision.

    peft imports it where it can, with all that it imports itself. Libraries remember
    whether they found it, so that a process which hid it never shows it again.
    """

    def __init__(self) -> None:
        self._hidden: bool | None = None

    def serves(self, args: Sequence[object]) -> bool:
        """Whether this process can serve a request of these arguments."""
        models = [model for arg in args if isinstance(model := getattr(arg, "model", arg), Model)]
        if not models:
            return True
        quantised = any(model.quantised or _saved_quantised(model) for model in models)
        if self._hidden is None:
            self._hidden = not quantised
            if self._hidden:
                sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # how Python marks what is not there
        return not (quantised and self._hidden)


def _saved_quantised(model: Model) -> bool:
    """Whether the model's own config.json asks for quantised weights."""
    from pytest_finetune.engine import vetting

    try:
        return model.has_files and "quantization_config" in vetting.configuration(model)
    except errors.SuiteError:  # whoever loads it says so
        return False


def _read(requests: "queue.Queue[str]") -> None:
    """Queue requests; when the parent is gone, however it went, end at once, even amid training."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
