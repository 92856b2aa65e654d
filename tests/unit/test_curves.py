"""What is read off a training curve."""

from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune import curves
from pytest_finetune.records import TrainingCurve, Usage


def curve(*dev: float, shipped: int = 0) -> TrainingCurve:
    """Return a curve with these dev losses, one a step, two steps an epoch."""
    points = tuple(enumerate(dev, 1))
    best = min(points, key=lambda point: point[1])[0]
    return TrainingCurve(len(dev), 1.0, 1, 1, ((1, 1.0),), points, best, shipped or best, 2)


losses = st.floats(0.01, 10)


@given(st.lists(losses, min_size=1, max_size=20))
def test_falling_loss_does_not_overfit(dev: list[float]) -> None:
    """A dev loss that only falls is no overfitting."""
    assert not curves.overfits(curve(*sorted(dev, reverse=True)))


@given(st.lists(losses, min_size=1, max_size=20), losses, st.lists(st.floats(1.02, 3), min_size=2, max_size=9))
def test_rise_for_good(before: list[float], best: float, rises: list[float]) -> None:
    """Two or more evaluations, all above the best by more than 1 %, are a rise for good; a return is not."""
    high = [loss + best for loss in before]
    after = [best * rise for rise in rises]
    assert curves.overfits(curve(*high, best, *after))
    assert not curves.overfits(curve(*high, best, *after, best * 1.001))


def test_remedy_names_the_epoch() -> None:
    """The remedy says how many epochs were enough, and how few rows there are."""
    found = curves.remedy(curve(3.0, 2.0, 1.0, 2.0, 3.0, shipped=5), rows=24)
    assert "about 2 epochs" in found
    assert "24 rows" in found


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 1000))
def test_payback(before: float, after: float, training: float) -> None:
    """After the payback the requests have saved what training took; one fewer has not."""
    requests = curves.payback_requests(training, Usage(1, 1, before), Usage(1, 1, after))
    if before - after <= 1e-9:
        assert requests is None
    else:
        assert requests
        saved = before - after
        assert requests * saved >= training * (1 - 1e-9)
        assert (requests - 1) * saved <= training * (1 + 1e-9)
