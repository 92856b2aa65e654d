"""Hugging Face ``evaluate`` modules, by name or path, one score a pair. Runs in the engine process."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_finetune.errors import SuiteError, one_line
from pytest_finetune.stats import bootstrap


def scores(metric: str, key: str, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the module's score of each pair.

    Args:
        metric: the module's hub name, or the folder or file of a local one.
        key: which of its results to take; empty where it has only one.
        predictions: model outputs.
        references: right answers, in the same order.

    Raises:
        SuiteError: there is no such module, or it does not return one such number.
    """
    value = _loaded(metric, key)
    return [value([p], [r]) for p, r in zip(predictions, references, strict=True)]


def redrawn(
    metric: str, key: str, predictions: Sequence[str], references: Sequence[str], clusters: Sequence[str]
) -> list[float]:
    """Return the module's value of all pairs together, and then of each resample of them.

    Args and errors: as for :func:`scores`; ``clusters`` names the rows that are drawn together.
    """
    return bootstrap.redraw(_loaded(metric, key), predictions, references, clusters)


def _loaded(metric: str, key: str) -> Callable[[Sequence[str], Sequence[str]], float]:
    import evaluate

    evaluate.utils.logging.disable_progress_bar()
    try:
        module = evaluate.load(metric)
    except (FileNotFoundError, ConnectionError, ImportError) as error:
        hint = "" if Path(metric).exists() else " (a name needs the hub, a local folder does not)"
        raise SuiteError(f"metric evaluate:{metric}: cannot be loaded{hint}: {one_line(error, 200)}") from error

    def value(predictions: Sequence[str], references: Sequence[str]) -> float:
        result = module.compute(predictions=list(predictions), references=list(references))
        numbers = {name: number for name, number in result.items() if isinstance(number, (int, float))}
        if key not in numbers and (key or len(numbers) != 1):
            raise SuiteError(
                f"metric evaluate:{metric}: name one of its results, evaluate:{metric}:KEY, of {sorted(numbers)}"
            )
        return float(numbers[key] if key else next(iter(numbers.values())))

    return value
