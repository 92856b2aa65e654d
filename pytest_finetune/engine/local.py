"""The engine over transformers and peft, as it runs inside the engine process."""

from pathlib import Path

import torch
import transformers

from pytest_finetune.engine import models
from pytest_finetune.engine.batches import Tick
from pytest_finetune.engine.generate import generate as generate_answers
from pytest_finetune.engine.kinds import check_finite
from pytest_finetune.engine.score import score as score_choices
from pytest_finetune.engine.template import prompt_tokens
from pytest_finetune.engines import Capabilities
from pytest_finetune.errors import EngineError, SuiteError
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
)


class LocalEngine:
    """Implements ``protocol.Engine`` on one device of this machine.

    ``launcher`` is the command that starts what trains, in several processes; empty trains in this one.
    """

    launcher = ""

    def __init__(self, device: str = "auto", report: OnProgress = lambda progress: None) -> None:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.device = models.choose_device(device)
        self.models = models.Models(self.device)
        self.report = report

    def capabilities(self, model: Model) -> Capabilities:
        """See ``protocol.Engine``."""
        return Capabilities()

    def generate(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], generation: Generation
    ) -> Answers:
        """See ``protocol.Engine``."""
        loaded = self.models.get(model, adapter)
        return generate_answers(loaded, prompts, generation, self._tick("generate"))

    def lengths(self, model: Model, prompts: tuple[Turns, ...]) -> Lengths:
        """See ``protocol.Engine``."""
        loaded = self.models.get(model)
        return Lengths(tuple(len(prompt_tokens(loaded.tokenizer, p)) for p in prompts), loaded.context_tokens)

    def score(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], choices: tuple[str, ...]
    ) -> tuple[tuple[float, ...], ...]:
        """See ``protocol.Engine``."""
        loaded = self.models.get(model, adapter)
        return tuple(score_choices(loaded, prompts, choices, self._tick("score")))

    def train(self, spec: TrainSpec, folder: str, kept: str = "") -> TrainingCurve:
        """See ``protocol.Engine``."""
        self.models.release()
        work = Path(kept or Path(folder, "work"))
        if self.launcher:
            from pytest_finetune.engine.launcher import Job, launch

            job = Job(spec, str(Path(folder).resolve()), str(work.resolve()), self.device.type, self.launcher)
            return launch(job, self.report)
        from pytest_finetune.engine.train import train  # Trainer takes seconds to import

        return train(spec, Path(folder), work, self.device, self.report)

    def probe(self, model: Model, adapter: Adapter, prompts: tuple[Turns, ...]) -> float:
        """See ``protocol.Engine``."""
        check_finite(adapter)
        before = self._last_logits(model, None, prompts)
        after = self._last_logits(model, adapter, prompts)
        change = float((after - before).abs().max())
        if not change > 0:
            raise EngineError(
                f"adapter {adapter.digest[:12]} changes nothing: its logits equal the base model's. "
                "Its weights may be named for another model, or were never trained."
            )
        return change

    def evaluate(
        self, metric: str, key: str, predictions: tuple[str, ...], references: tuple[str, ...]
    ) -> tuple[float, ...]:
        """See ``protocol.Engine``."""
        from pytest_finetune.metrics.hub import scores  # evaluate takes 6 s of CPU to import

        return tuple(scores(metric, key, predictions, references))

    def redraw(
        self,
        metric: str,
        key: str,
        predictions: tuple[str, ...],
        references: tuple[str, ...],
        clusters: tuple[str, ...],
    ) -> tuple[float, ...]:
        """See ``protocol.Engine``."""
        from pytest_finetune.metrics.hub import redrawn  # as above

        return tuple(redrawn(metric, key, predictions, references, clusters))

    def harness(self, model: Model, adapter: Adapter | None, task: HarnessTask) -> tuple[Document, ...]:
        """See ``protocol.Engine``."""
        loaded = self.models.get(model, adapter)
        try:
            from pytest_finetune.engine import harness  # lm-eval is an extra, and takes 1 s to import
        except ModuleNotFoundError as error:
            raise SuiteError(f"{error.name} is not installed; pip install 'pytest-finetune[lm-eval]'") from None
        return harness.documents(loaded, task, self._tick("lm-eval"))

    def close(self) -> None:
        """See ``protocol.Engine``."""
        self.models.release()

    def _last_logits(self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...]) -> torch.Tensor:
        loaded = self.models.get(model, adapter)
        rows = []
        for prompt in prompts:
            ids = prompt_tokens(loaded.tokenizer, prompt)
            with torch.inference_mode():
                rows.append(
                    loaded.model(input_ids=torch.tensor([ids], device=loaded.model.device)).logits[0, -1].float().cpu()
                )
        return torch.stack(rows)  # (prompts, vocabulary)

    def _tick(self, stage: str) -> Tick:
        return lambda done, total: self.report(Progress(stage, done, total))
