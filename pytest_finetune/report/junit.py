"""JUnit properties of a verdict."""

from pytest_finetune.records import Verdict
from pytest_finetune.report.escape import visible


def properties(verdict: Verdict) -> list[tuple[str, str]]:
    """Return name and value of each property, as XML can hold them; names are prefixed ``finetune_``."""
    found: list[tuple[str, str]] = [("finetune_outcome", verdict.outcome)]
    for claim in verdict.claims:
        name = f"finetune_{claim.name}".replace(" ", "_")
        text = (
            f"{claim.outcome} estimate={claim.estimate:+.4f} low={claim.low:+.4f} high={claim.high:+.4f} "
            f"bound={claim.bound:+.4f} n={claim.n} wins={claim.wins} losses={claim.losses} alpha={claim.alpha:.4g} "
            f"detectable={claim.detectable:+.4f} needed={claim.n_needed or 'none'}"
        )
        found.append((name, text))
    open_claims = [claim.name for claim in verdict.claims if claim.outcome == "INCONCLUSIVE"]
    if verdict.outcome == "INCONCLUSIVE":
        found.append(("finetune_inconclusive", ", ".join(open_claims)))
    found.append(("finetune_attempt", str(verdict.attempt)))
    found += [(f"finetune_digest_{name}", digest) for name, digest in verdict.digests.items()]
    return [(visible(name), visible(value)) for name, value in found]
