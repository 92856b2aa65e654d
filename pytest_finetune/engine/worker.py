"""The engine process: requests come as JSON lines on stdin, answers go to stdout's descriptor."""

import json
import os
import queue
import sys
import threading
import traceback
import typing
from typing import Any

from pytest_finetune import errors
from pytest_finetune.protocol import Progress
from pytest_finetune.records import from_plain, to_plain


def main() -> None:
    """Serve requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not land between the answers

    def send(kind: str, value: Any) -> None:
        answers.write(json.dumps({kind: to_plain(value)}) + "\n")

    def report(progress: Progress) -> None:
        send("progress", progress)

    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    engine: Any = None
    refused: errors.FinetuneError | None = None
    try:
        from pytest_finetune.engine.local import LocalEngine  # imports torch, while the parent curates

        engine = LocalEngine(sys.argv[1], report)
    except errors.FinetuneError as error:
        refused = error
    while True:
        request = json.loads(requests.get())
        try:
            if refused:
                raise refused
            method = getattr(engine, request["method"])
            hints = typing.get_type_hints(method)
            send("result", method(*map(from_plain, list(hints.values()), request["args"])))
        except errors.FinetuneError as error:
            send("error", {"kind": type(error).__name__, "message": str(error)})
        except Exception as error:
            traceback.print_exc()
            text = " ".join(str(error).split())[:300]
            send("error", {"kind": "EngineError", "message": f"{type(error).__name__}: {text}"})


def _read(requests: "queue.Queue[str]") -> None:
    """Queue requests; when the parent is gone, however it went, end at once, even amid training."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
