"""Choices: the options of a multiple-choice document as reports show them, the likeliest first."""

from collections.abc import Sequence


def ranked(requests: Sequence[tuple[str, str]], nats: Sequence[float]) -> tuple[str, list[str]]:
    """Return the options by log-likelihood as one text, and as they were given.

    Args:
        requests: a context and what may follow it, an option each.
        nats: the log-likelihood of each.
    """
    # Some tasks vary the context and not what follows; a copy of each option without one serves acc_mutual_info only.
    at = 1 if len({request[1] for request in requests}) > 1 else 0
    asked = [(request[at].strip(), odd, request[0]) for request, odd in zip(requests, nats, strict=True)]
    options = [one[:2] for one in asked if one[2] != ""] or [one[:2] for one in asked]
    best_first = sorted(options, key=lambda option: -option[1])
    return "; ".join(f"{option} ({odd:.4g})" for option, odd in best_first), [option for option, _ in options]


def reference(target: str, options: Sequence[str]) -> str:
    """Return the right option, which a choice names by its place; any other target is itself."""
    return dict(zip(map(str, range(len(options))), options, strict=False)).get(target, target)
