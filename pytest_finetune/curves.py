"""Curves: what the dev losses of a training run say, and when training has paid."""

import math

from pytest_finetune.records import TrainingCurve, Usage

RISE = 0.01  # a dev loss counts as higher from one per cent above the best


def overfits(curve: TrainingCurve) -> bool:
    """Whether the dev loss rose for good: every evaluation after the best one, two or more, is clearly higher."""
    best = min(loss for _, loss in curve.dev_loss_nats)
    after = [loss for step, loss in curve.dev_loss_nats if step > curve.best_step]
    return len(after) >= 2 and min(after) > (1 + RISE) * best


def remedy(curve: TrainingCurve, rows: int) -> str:
    """Return what helps an overfitted fine-tune of ``rows`` train rows."""
    epochs = curve.best_step / curve.steps_per_epoch
    return (
        f'ship the best checkpoint ([training] checkpoint = "best"), train about {max(1, math.ceil(epochs))} epochs, '
        f"or give it more data: {rows} rows are what it learned by heart; rephrased copies of them (augmentation) help"
    )


def rise(curve: TrainingCurve) -> str:
    """Return how far the dev loss rose, in nats."""
    last_step, last = curve.dev_loss_nats[-1]
    best = dict(curve.dev_loss_nats)[curve.best_step]
    return f"dev loss {best:.3f} at step {curve.best_step}, {last:.3f} at step {last_step}"


def payback_requests(training_seconds: float, before: Usage, after: Usage) -> int | None:
    """Return the number of requests after which training has paid for itself in seconds; None for never."""
    saved = before.seconds - after.seconds
    return math.ceil(training_seconds / saved) if saved > 1e-9 else None  # less cannot be measured
