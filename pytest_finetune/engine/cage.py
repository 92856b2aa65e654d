"""The cage: caps of time and memory on what a model's own files make this process do, such as its chat template."""

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_finetune.errors import FinetuneError, SuiteError, one_line

SECONDS = 10  # of one prompt, and of this process's own time: on a busy machine it is no fewer
GIB = 2  # of one prompt
FILES = ("chat_template.jinja", "tokenizer_config.json")
WHAT = "the chat template, or the tokenizer beside it,"


@contextmanager
def caged(source: str) -> Iterator[None]:
    """Cap what tokenising one prompt takes; in the main thread, since a timer and a limit are the whole process's.

    A loop in a template may hold Python's lock and never give it back, so that the kernel ends this process when its
    time is over, and whoever waits for it says :func:`broken`.

    Args:
        source: the model's folder or hub id.

    Raises:
        SuiteError: it takes too much memory, or fails.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _roomy(GIB << 30):
        before = signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            yield
        except MemoryError:
            raise broken(source, f"{GIB} GiB") from None
        except (FinetuneError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as Rust's panics are
            said = f"{type(error).__name__}: {one_line(error)}"
            raise SuiteError(f"{_file(source)}: {WHAT} failed on a prompt: {said}") from error
        finally:
            signal.setitimer(signal.ITIMER_PROF, *before)


def broken(source: str, cap: str) -> SuiteError:
    """Return the error of a model whose files took more than a cap, such as ``10 s``."""
    return SuiteError(f"{_file(source)}: {WHAT} took more than {cap} for one prompt; mend it, or take another model")


def exceeded(status: int, log: str) -> str:
    """Return the cap that ended a process, by its status and last words; nothing where another thing did."""
    if status == -signal.SIGPROF:
        return f"{SECONDS} s"
    # As Rust's standard library says; Python and torch raise errors.
    refused = status == -signal.SIGABRT and re.search(r"^memory allocation of \d+ bytes", log, re.MULTILINE)
    return f"{GIB} GiB" if refused else ""


@contextmanager
def _roomy(size: int) -> Iterator[None]:
    """Let this process take so many bytes more than it has; where the kernel does not say what it has, any number."""
    if sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[5])  # of data, of which this is a limit
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = min((limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY), default=sys.maxsize)
    resource.setrlimit(resource.RLIMIT_DATA, (min(most, pages * resource.getpagesize() + size), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _file(source: str) -> str:
    """Return the file to blame: where a template lies beside the tokenizer, it counts and not the one within."""
    return next((str(file) for name in FILES if (file := Path(source, name)).is_file()), source)
