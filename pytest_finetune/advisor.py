"""Advice: which method to try first, and what each one takes and can reach."""

from dataclasses import dataclass

from pytest_finetune.errors import SuiteError, named_choice
from pytest_finetune.memory import GIB, Estimate, Load, Shape, estimate
from pytest_finetune.methods import METHODS, PROMPT, PROMPT_CEILING

TASKS = ("classification", "extraction", "style", "domain", "instruction")
FEW_ROWS = 50
FULL_ROWS = {"domain": 10_000, "style": 50_000, "instruction": 50_000}
FACTS = "; facts belong in the prompt (retrieval): fine-tuning teaches a domain's words and manner, not knowledge"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be advised on.

    ``shape`` is None where the model's weights are not at hand; ``memory_bytes`` is what the
    device can give, 0 where unknown; ``many_tasks`` are to be served on one base model.
    """

    task: str
    train_rows: int
    shape: Shape | None
    load: Load
    memory_bytes: int = 0
    api_only: bool = False
    many_tasks: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """One method: its ceiling in words, its memory (None: it trains nothing), and whether that fits."""

    method: str
    ceiling: str
    memory: Estimate | None
    fits: bool


@dataclass(frozen=True, slots=True)
class Advice:
    """The method to try first, why, and all five that were weighed."""

    method: str
    reason: str
    table: tuple[Option, ...]


def advise(request: Request) -> Advice:
    """Return the method to try first.

    Sources: below about 50 rows prompting wins (OpenAI's fine-tuning guide sees gains from 50 to
    100 on). New facts are learned slowly and bring hallucination (Gekhman 2024, arXiv 2405.05904),
    retrieval does better (Ovadia 2023, 2312.05934). LoRA on all linear layers reaches full
    fine-tuning on small and medium data (Schulman 2025, "LoRA Without Regret") and forgets less;
    full fine-tuning leads on continued pretraining (Biderman 2024, 2405.09673), hence 10,000 rows
    of a domain before it is tried; 50,000 of style or instruction is our caution, not a published
    limit. QLoRA reaches LoRA (Dettmers 2023, 2305.14314). Soft prompts come near only on large
    models, and many of them share one base (Lester 2021, 2104.08691).

    Raises:
        SuiteError: the task is unknown, or a number is not above 0.
    """
    _check(request)
    table = tuple(_option(name, request) for name in (*METHODS, PROMPT))
    fits = [option.method for option in table if option.fits]
    return Advice(*_choose(request, fits, table), table)


def _choose(request: Request, fits: list[str], table: tuple[Option, ...]) -> tuple[str, str]:
    rows = request.train_rows
    facts = FACTS if request.task == "domain" else ""
    if request.api_only or request.shape is None:
        return PROMPT, "behind an API only the prompt can be changed" + facts
    if rows < FEW_ROWS:
        return PROMPT, f"{rows} rows are too few to train on (below {FEW_ROWS}); put the best into the prompt" + facts
    if request.many_tasks and "soft_prompt" in fits:
        return "soft_prompt", "many tasks share one base model, each as a few vectors; LoRA where that falls short"
    wanted = FULL_ROWS.get(request.task)
    if wanted and rows >= wanted and "full" in fits:
        return "full", f"{rows} rows of {request.task} ({wanted} or more) can use every weight, and the memory is there"
    if "lora" in fits:
        small = "a small LoRA (rank 8 to 16) costs least of what usually reaches full fine-tuning"
        if wanted and rows >= wanted:
            small += ", which does not fit here"
        return "lora", small + facts
    if "qlora" in fits:
        return "qlora", "LoRA does not fit; over a base model in 4 bits it does" + facts
    if "soft_prompt" in fits:
        return "soft_prompt", "only a soft prompt fits" + facts
    needed = min((o.memory for o in table if o.memory), key=lambda memory: memory.high)
    return PROMPT, (
        f"no training fits: {needed.method} needs least, {needed.high / GIB:.1f} GiB "
        f"of {request.memory_bytes / GIB:.1f}; take smaller batches, shorter rows or a smaller model"
    )


def _option(name: str, request: Request) -> Option:
    if name == PROMPT:
        return Option(name, PROMPT_CEILING, None, True)
    ceiling = METHODS[name].ceiling
    if request.api_only or request.shape is None:
        return Option(name, ceiling, None, False)
    need = estimate(request.shape, name, request.load)
    return Option(name, ceiling, need, not request.memory_bytes or need.high <= request.memory_bytes)


def _check(request: Request) -> None:
    if request.task not in TASKS:
        raise SuiteError(f"task {named_choice(request.task, TASKS)}")
    load = request.load
    sizes = {
        "rows": (request.train_rows, 0),
        "memory": (request.memory_bytes, 0),
        "batch size": (load.rows, 1),
        "tokens": (load.tokens, 1),
        "rank": (load.rank, 1),
    }
    for name, (value, least) in sizes.items():
        if value < least:
            raise SuiteError(f"{name} {value} must be at least {least}")
