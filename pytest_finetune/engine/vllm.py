"""The engine over vLLM in this process, for machines with a GPU. Source: docs.vllm.ai, LLM and LoRARequest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_finetune.engine import vetting
from pytest_finetune.engine.batches import Tick
from pytest_finetune.engine.kinds import Kind
from pytest_finetune.engine.served import ServedEngine
from pytest_finetune.errors import SuiteError
from pytest_finetune.protocol import OnProgress
from pytest_finetune.records import Adapter, Model, TrainingCurve, TrainSpec

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM's kernels are built for


class VllmEngine(ServedEngine):
    """Measures by vLLM, and trains by transformers and peft once vLLM has given its memory back."""

    def __init__(self, device: str, report: OnProgress) -> None:
        super().__init__(device, report)
        try:
            import vllm  # noqa: F401  # found out now, and not after training
        except ImportError as error:
            raise SuiteError(
                f"--finetune-engine=vllm: it cannot be imported ({error}); pip install 'pytest-finetune[vllm]'"
            ) from None
        if self.device.type != "cuda":
            raise SuiteError(f"--finetune-engine=vllm: needs a GPU, and this run's device is {self.device}; take local")
        self._model: Model | None = None
        self._llm: Any = None
        self._rank = RANKS[0]
        self._numbers: dict[str, int] = {}  # of adapters by digest, as vLLM wants them

    def continued(
        self, model: Model, adapter: Adapter | None, rows: Sequence[list[int]], limit: int, marks: set[int]
    ) -> list[tuple[str, int]]:
        """See ``served.ServedEngine``."""
        made = self._run(model, adapter, rows, max_tokens=limit, stop_token_ids=sorted(marks) or None)
        return [(one.outputs[0].text, len(one.outputs[0].token_ids)) for one in made]

    def nats(
        self, model: Model, adapter: Adapter | None, rows: Sequence[tuple[list[int], int]], tick: Tick
    ) -> list[list[float]]:
        """See ``served.ServedEngine``."""
        made = self._run(model, adapter, [ids for ids, _ in rows], max_tokens=1, prompt_logprobs=0)
        tick(len(rows), len(rows))
        return [
            [told.prompt_logprobs[place][ids[place]].logprob for place in range(start, len(ids))]
            for (ids, start), told in zip(rows, made, strict=True)
        ]

    def train(self, spec: TrainSpec, folder: str, kept: str = "") -> TrainingCurve:
        """See ``protocol.Engine``."""
        self.close()
        return super().train(spec, folder, kept)

    def close(self) -> None:
        """See ``protocol.Engine``."""
        import gc

        import torch

        self._llm = self._model = None
        gc.collect()
        torch.cuda.empty_cache()
        super().close()

    def _run(self, model: Model, adapter: Adapter | None, rows: Sequence[list[int]], **settings: Any) -> list[Any]:
        import vllm
        from vllm.lora.request import LoRARequest

        rank = _rank(adapter) if adapter else RANKS[0]
        if self._model != model or rank > self._rank:
            self.close()
            self._rank = max(rank, self._rank)
            self._llm, self._model = self._opened(model), model
        lora = None
        if adapter:
            number = self._numbers.setdefault(adapter.digest, len(self._numbers) + 1)
            lora = LoRARequest(adapter.digest, number, adapter.path)
        prompts = [vllm.TokensPrompt(prompt_token_ids=ids) for ids in rows]
        greedy = vllm.SamplingParams(temperature=0.0, **settings)
        return list(self._llm.generate(prompts, greedy, lora_request=lora, use_tqdm=False))

    def _opened(self, model: Model) -> Any:
        import vllm

        vetting.vet(model)
        return vllm.LLM(
            model=model.path or model.name,
            revision=model.revision or None,
            quantization="bitsandbytes" if model.quantised else None,
            enable_lora=True,
            max_lora_rank=self._rank,  # which takes memory for each layer, whatever an adapter has
            # It makes likelihoods depend on what was asked before: vllm-project/vllm#42019.
            enable_prefix_caching=False,
            trust_remote_code=model.remote_code,
            seed=0,
        )


def _rank(adapter: Adapter) -> int:
    """Return the rank that vLLM must make room for.

    Raises:
        SuiteError: it is no LoRA, or of a rank that vLLM has no kernels for.
    """
    if Kind.of(adapter) is not Kind.LORA:
        raise SuiteError(f"adapter {adapter.path}: vLLM serves LoRAs only; take --finetune-engine=local")
    own = int(vetting.adapter_settings(Path(adapter.path))["r"])
    fit = [rank for rank in RANKS if rank >= own]
    if not fit:
        raise SuiteError(
            f"adapter {adapter.path}: rank {own}, and vLLM takes {RANKS[-1]} at most; take the local engine"
        )
    return fit[0]
