"""Five looks at growing data, which together make no more false claims than one look at all of it."""

import math
from functools import cache
from statistics import NormalDist

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
FEWEST_A_LOOK = 20  # rows; on fewer a look costs more power than it saves
WIDTH = 9.0  # standard deviations of a look's increment, beyond which its density is nothing
STEPS = 60  # of the integration grid, a standard deviation


def count(rows: int) -> int:
    """Return how often data of so many rows is looked at while it grows."""
    return len(SHARES) if rows >= FEWEST_A_LOOK * len(SHARES) else 1


@cache
def levels(alpha: float, looks: int = len(SHARES)) -> tuple[float, ...]:
    """Return the one-sided level of each look, of O'Brien and Fleming's bounds.

    Args:
        alpha: chance that any look of all claims falsely, at most.
        looks: how many there are, equally far apart; one look has the whole of ``alpha``.

    Source: O'Brien and Fleming 1979, Biometrics 35:549.
    """
    edge = constant(alpha, looks)
    return tuple(_beyond(edge * math.sqrt(looks / look)) for look in range(1, looks + 1))


@cache
def constant(alpha: float, looks: int = len(SHARES)) -> float:
    """Return c such that any of ``Z_k >= c sqrt(looks / k)`` has the chance ``alpha`` under no difference.

    On the scale of sums of unit-variance increments the bound is the same at every look, and the chance
    is found by passing the density of the sums below it from look to look.

    Source: Armitage, McPherson and Rowe 1969, J. R. Statist. Soc. A 132:235.
    """
    if looks == 1:
        return -NormalDist().inv_cdf(alpha)
    low, high = 0.0, WIDTH
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _crossing(middle * math.sqrt(looks), looks) > alpha else (low, middle)
    return (low + high) / 2


def _crossing(bound: float, looks: int) -> float:
    """Return the chance that a walk of ``looks`` standard normal steps is ever at or above ``bound``."""
    import numpy as np

    low = -WIDTH * math.sqrt(looks)
    step = 1 / STEPS
    points = bound - step * np.arange(int((bound - low) / step) + 1)  # from the bound downwards
    weights = np.full(points.size, step)
    weights[0] = step / 2  # trapezoidal
    near = int(WIDTH / step)
    kernel = np.exp(-0.5 * (step * np.arange(-near, near + 1)) ** 2) / math.sqrt(2 * math.pi)
    beyond = np.array([_beyond(step * i) for i in range(points.size)])  # one step from a point over the bound
    density = np.exp(-0.5 * points**2) / math.sqrt(2 * math.pi)
    crossed = _beyond(bound)
    for _ in range(looks - 1):
        mass = density * weights
        crossed += float(mass @ beyond)
        density = np.convolve(mass, kernel)[near : near + points.size]
    return crossed


def _beyond(z: float) -> float:
    """Return the chance of a normal deviate above ``z``, exact also far out, where 1 - cdf is not."""
    return math.erfc(z / math.sqrt(2)) / 2
