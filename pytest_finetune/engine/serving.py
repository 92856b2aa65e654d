"""A model served: a thread of its own makes the answers of all who ask."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import transformers

from pytest_finetune.engine.asking import Ask
from pytest_finetune.engine.generate import model_end_marks
from pytest_finetune.engine.kinds import check_finite, check_fits, mixes
from pytest_finetune.engine.models import Loaded, Models, choose_device
from pytest_finetune.engine.passes import check_joins
from pytest_finetune.engine.stepper import Row, Say, Stepper
from pytest_finetune.engine.template import end_marks, prompt_tokens, uses_chat
from pytest_finetune.errors import EngineError, FinetuneError, SuiteError, one_line
from pytest_finetune.protocol import Turns
from pytest_finetune.records import PLAIN, Adapter, Model


class Busy(FinetuneError):
    """So many wait already that nobody more may."""


class Unloaded(FinetuneError):
    """An adapter was unloaded after a request had named it."""


class Serving:
    """One base model with its adapters, and the thread that runs them.

    Args:
        model: the base model.
        device: where it runs; see ``models.choose_device``.
        batch_size: rows that are answered at once.
        queue: rows that may wait.
        told: told of each pass how many rows are in it.

    Raises:
        SuiteError: the model cannot be loaded, or not be served.
    """

    def __init__(
        self, model: Model, device: str, batch_size: int, queue: int, told: Callable[[int], None] = lambda rows: None
    ) -> None:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.model, self.queue, self._told = model, queue, told
        self.running = 0  # rows that are being answered
        self._models = Models(choose_device(device))
        base = self._models.get(model)
        check_joins(base, model.name)
        self.tokenizer = base.tokenizer
        self._loaded = {"": base}  # by digest, what may be asked
        self._adapters: dict[str, Adapter] = {}
        self._stepper = Stepper(self._models, model, batch_size)
        self._come: list[Row] = []  # since the last step
        self._calls: list[tuple[Callable[[], bool], Future[None]]] = []
        self._wake, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return len(self._come) + len(self._stepper.waiting)

    @property
    def alive(self) -> bool:
        """Whether anybody answers."""
        return self._thread.is_alive()

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self._loaded[""].network.get_input_embeddings().num_embeddings)

    def context_tokens(self, digest: str) -> int:
        """Return the longest text that an adapter, or the base model, takes.

        Raises:
            Unloaded: it is not served any more.
        """
        return self._get(digest).context_tokens

    def prompt(self, turns: Turns) -> tuple[int, ...]:
        """Return a conversation's tokens."""
        return tuple(prompt_tokens(self.tokenizer, turns))

    def ends(self, digest: str, turns: Turns) -> tuple[frozenset[int], bool]:
        """Return the tokens that end an answer, and whether a blank line does, as where no chat template says it.

        Raises:
            Unloaded: it is not served any more.
        """
        marks = model_end_marks(self._get(digest)) | end_marks(self.tokenizer, turns)
        return frozenset(marks), turns[0].role != PLAIN and not uses_chat(self.tokenizer, turns)

    def submit(self, asks: Sequence[Ask], says: Sequence[Say]) -> list[Row]:
        """Take rows into the queue; each tells its pieces, from the engine's thread.

        Raises:
            Busy: there is no room for all of them.
            Unloaded: an adapter is not served any more; in a batch, its rows would make all others fail.
        """
        for ask in asks:
            if ask.adapter and ask.adapter not in self._adapters:
                raise Unloaded(f"adapter {ask.adapter} was unloaded; ask for another")
        rows = [Row(ask, say, self.tokenizer) for ask, say in zip(asks, says, strict=True)]
        with self._wake:
            if self.waiting + len(rows) > self.queue:
                raise Busy(f"{self.waiting} answers wait already, and {self.queue} may; ask again later")
            self._come += rows
            self._wake.notify()
        return rows

    def load(self, adapter: Adapter) -> Future[None]:
        """Serve an adapter, too; the result is a ``FinetuneError`` where it cannot be."""

        def done() -> bool:
            self._load(adapter)
            return True

        return self._call(done)

    def unload(self, digest: str) -> Future[None]:
        """Take no more rows of an adapter, and let go of it when those of before are answered."""
        self._adapters.pop(digest, None)

        def done() -> bool:
            if digest in self._stepper.asked():
                return False
            if digest not in self._adapters:  # it may have been loaded again meanwhile
                self._stepper.remove(digest)
                self._loaded.pop(digest, None)
            return True

        return self._call(done)

    def close(self) -> None:
        """Stop; rows that still run are told so."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _get(self, digest: str) -> Loaded:
        try:
            return self._loaded[digest]
        except KeyError:
            raise Unloaded(f"adapter {digest} was unloaded; ask for another") from None

    def _call(self, done: Callable[[], bool]) -> "Future[None]":
        future: Future[None] = Future()
        with self._wake:
            self._calls.append((done, future))
            self._wake.notify()
        return future

    def _load(self, adapter: Adapter) -> None:
        if adapter.digest in self._adapters:
            return
        mixes(adapter)
        check_finite(adapter)
        base = self._loaded[""].network
        check_fits(base, adapter)
        try:
            self._stepper.add(adapter)
            loaded = self._models.get(self.model, adapter)
            if loaded.network is not base:
                check_joins(loaded, adapter.path)
                if (size := loaded.network.get_input_embeddings().num_embeddings) != self.vocabulary:
                    raise SuiteError(f"{adapter.path}: a model of {size} tokens, not {self.vocabulary} as the base")
        except BaseException:
            self._stepper.remove(adapter.digest)
            self._restore()
            raise
        self._loaded[adapter.digest] = loaded
        self._adapters[adapter.digest] = adapter

    def _restore(self) -> None:
        """Load everything anew where an adapter that failed took the base model with it."""
        base = self._models.get(self.model)
        if base is not self._loaded[""]:
            self._stepper.fail("the model was loaded anew; ask again")
            self._loaded[""] = base
            for adapter in self._adapters.values():
                self._stepper.add(adapter)
                self._loaded[adapter.digest] = self._models.get(self.model, adapter)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._calls or self._come or self._busy())
                calls, self._calls = self._calls, []
                self._stepper.waiting.extend(self._come)
                self._come = []
            if self._closing:
                self._stepper.fail("the server is stopping")
                return
            self._answer(calls)
            if self._busy():
                self._step()

    def _busy(self) -> bool:
        return bool(self._stepper.waiting) or self._stepper.running > 0

    def _step(self) -> None:
        try:
            self._stepper.step(self._told)
        except Exception as error:  # out of memory, say: those who asked are told, and the next ones are answered
            self._stepper.fail(f"{type(error).__name__}: {one_line(error)}")
        self.running = self._stepper.running

    def _answer(self, calls: list[tuple[Callable[[], bool], "Future[None]"]]) -> None:
        for done, future in calls:
            try:
                if done():
                    future.set_result(None)
                else:
                    self._calls.append((done, future))
            except (SuiteError, EngineError) as error:
                future.set_exception(error)
            except Exception as error:  # whatever a library says to an adapter it does not know
                future.set_exception(EngineError(f"{type(error).__name__}: {one_line(error)}"))
