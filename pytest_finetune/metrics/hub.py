"""Hugging Face ``evaluate`` modules, by name or path, one score a pair. Runs in the engine process."""

from collections.abc import Sequence
from pathlib import Path

from pytest_finetune.errors import SuiteError


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
    import evaluate

    evaluate.utils.logging.disable_progress_bar()
    try:
        module = evaluate.load(metric)
    except (FileNotFoundError, ConnectionError, ImportError) as error:
        where = "folder" if Path(metric).exists() else "name (names need the hub, a local folder does not)"
        raise SuiteError(f"metric evaluate:{metric}: no such {where}: {' '.join(str(error).split())[:200]}") from error
    results = []
    for prediction, reference in zip(predictions, references, strict=True):
        result = module.compute(predictions=[prediction], references=[reference])
        numbers = {name: value for name, value in result.items() if isinstance(value, (int, float))}
        if key not in numbers and (key or len(numbers) != 1):
            raise SuiteError(
                f"metric evaluate:{metric}: name one of its results, evaluate:{metric}:KEY, of {sorted(numbers)}"
            )
        results.append(float(numbers[key] if key else next(iter(numbers.values()))))
    return results
