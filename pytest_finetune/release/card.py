"""The model card of a release, as the Hugging Face hub reads it: what was proven, of what, and what is not known."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_finetune import suite
from pytest_finetune.records import RunRecord, SuiteRecord, Verdict
from pytest_finetune.report.markdown import code
from pytest_finetune.report.terminal import percent, signed

LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", re.MULTILINE)
SHAPE = ("peft_type", "r", "lora_alpha", "lora_dropout", "use_dora", "target_modules", "num_virtual_tokens")
FORCED = "\n> ⚠️ **Forced.**"  # by which it is found again
SHOWN = ("name", "metric", "outcome", "estimate", "low", "high", "bound", "n", "alpha")  # of a shadow's claim
MANY = 40  # entries of what a shadow's verdict holds


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card is written from.

    Args:
        run: the run that passed.
        suite: the part of it that is released.
        settings: the adapter's own configuration, as its file says.
        forced: what spoke against the release and the reason for it all the same; empty for nothing.
        shadow: the verdict of a shadow on live traffic, empty for none.
    """

    run: RunRecord
    suite: SuiteRecord
    settings: Mapping[str, Any] = field(default_factory=dict)
    forced: str = ""
    shadow: Mapping[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> tuple[str, str]:
        """The hub id and revision of the base model; empty where it is a folder."""
        name, at, revision = self.suite.model_digest.rpartition("@")
        return (name, revision) if at else ("", "")


def text(facts: Facts) -> str:
    """Return the card."""
    parts = [_head(facts), *_title(facts), *_verdicts(facts.suite), *_shadow(facts.shadow)]
    return "\n".join([*parts, *_training(facts), *_data(facts), *_base(facts)]) + "\n"


def _head(facts: Facts) -> str:
    """Return the front matter; every value is JSON, which is YAML."""
    adapter, (base, _) = facts.suite.adapter, facts.base
    assert adapter
    library = {"prompt": "", "full": "transformers"}.get(adapter.method, "peft" if facts.settings else "transformers")
    told = {
        **({"base_model": base, "base_model_relation": "adapter" if facts.settings else "finetune"} if base else {}),
        **({"library_name": library} if library else {}),
        "pipeline_tag": "text-generation",
        "license": "other",
        "license_name": "not-stated",
        "tags": sorted({"pytest-finetune", adapter.method, *(["forced"] if facts.forced else [])}),
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in told.items()]
    return "\n".join(["---", *lines, "---"])


def _title(facts: Facts) -> Iterator[str]:
    adapter = facts.suite.adapter
    assert adapter
    yield f"\n# {code(facts.suite.name)}\n"
    yield f"Adapter {code(adapter.digest)}, made by the method {code(adapter.method)}, released by pytest-finetune.\n"
    if facts.forced:
        yield f"{FORCED} {code(facts.forced, 0)}\n"


def _verdicts(record: SuiteRecord) -> Iterator[str]:
    yield "## Verdict\n"
    for verdict in record.verdicts:
        yield f"**{verdict.outcome}** by {code(verdict.test)}: {_spent(verdict)}.\n"
        rows = [
            [
                claim.outcome,
                f"{code(claim.name)} on {code(claim.on)} ({code(claim.metric)})",
                percent(claim.after_mean) if claim.kind == "level" else signed(claim.estimate),
                f"{_shown(claim.kind, claim.low)} to {_shown(claim.kind, claim.high)}",
                _shown(claim.kind, claim.bound),
                f"{claim.n:,}",
                f"{claim.alpha:.3g}",
            ]
            for claim in verdict.claims
        ]
        yield _table(["", "claim", "estimate (points)", "limits", "must lie above", "rows", "alpha"], rows)


def _spent(verdict: Verdict) -> str:
    return f"attempt {verdict.attempt} on these rows, which have spent an alpha of {verdict.alpha_spent:.3g} together"


def _shown(kind: str, value: float) -> str:
    return percent(value) if kind == "level" else signed(value)


def _shadow(verdict: Mapping[str, Any]) -> Iterator[str]:
    if not verdict:
        return
    yield "## Shadow on live traffic\n"
    yield f"**{code(str(verdict.get('outcome', '')))}**\n"
    claims = [claim for claim in verdict.get("claims", ()) if isinstance(claim, dict)]
    names = [name for name in SHOWN if any(name in claim for claim in claims)]
    if claims:
        yield _table([code(name) for name in names], [[_cell(claim.get(name)) for name in names] for claim in claims])
    rest = [[code(name), _cell(value)] for name, value in verdict.items() if name not in ("outcome", "claims")]
    if rest:
        yield _table(["", ""], rest[:MANY])


def _cell(value: object) -> str:
    if value is None:
        return ""
    return code(f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value))


def _training(facts: Facts) -> Iterator[str]:
    adapter = facts.suite.adapter
    assert adapter
    yield "## Training\n"
    rows = [[name, _cell(facts.settings[name])] for name in SHAPE if facts.settings.get(name) not in (None, False, "")]
    if curve := adapter.curve:
        rows += [
            ["steps", f"{curve.steps:,}, of which {curve.steps_per_epoch:,} are an epoch"],
            ["shipped step", f"{curve.shipped_step:,} (best on the dev split: {curve.best_step:,})"],
            ["trainable parameters", f"{curve.trainable_parameters:,}"],
            ["time", f"{curve.seconds:.1f} s"],
            ["train loss (nats a token)", _ends(curve.train_loss_nats)],
            ["dev loss (nats a token)", _ends(curve.dev_loss_nats)],
        ]
    rows += [[f"rank {rung.rank}", f"{percent(rung.score)} on the dev split"] for rung in adapter.rungs]
    if adapter.prompt:
        rows.append(["prompt", f"{code(adapter.prompt.name)}, {adapter.prompt.count} examples"])
    if facts.suite.baseline:
        best = facts.suite.baseline
        rows.append(
            ["best prompt beside it", f"{percent(best.score)} of {best.rows:,} dev rows, {best.prompt.count} examples"]
        )
    yield _table(["", ""], rows) if rows else "Made elsewhere; its files say nothing of how.\n"


def _ends(points: tuple[tuple[int, float], ...]) -> str:
    return " → ".join(f"{loss:.3f}" for _, loss in (points[:1] + points[-1:])) or "not told"


def _data(facts: Facts) -> Iterator[str]:
    yield "## Data\n"
    yield _table(["", "rows"], ([code(name), f"{count:,}"] for name, count in facts.suite.rows.items()))
    yield "What was judged, by digests:\n"
    found = {(name, value) for verdict in facts.suite.verdicts for name, value in verdict.digests.items()}
    yield _table(["", "sha256"], ([code(name), code(value)] for name, value in sorted(found)))


def _base(facts: Facts) -> Iterator[str]:
    (base, revision), licence = facts.base, base_licence(facts.suite)
    yield "## Base model, licences and versions\n"
    rows = [
        ["base model", code(facts.suite.model)],
        ["revision" if base else "sha256 of its files", code(revision if base else facts.suite.model_digest)],
        ["licence of the base model", licence],
        ["licence of this release", "not stated; the base model's terms hold for what is made from it"],
        ["pytest-finetune", code(facts.run.version)],
        ["judged", code(facts.run.started)],
        *([name, code(version)] for name, version in sorted(facts.run.libraries.items())),
    ]
    yield _table(["", ""], rows)


def base_licence(record: SuiteRecord) -> str:
    """Return what the base model's own files say of its licence, and where; nothing is asked of the hub."""
    place = Path(record.file).parent
    is_known = place.is_absolute() or record.model == suite.EMBEDDED  # a release does not say where its suite was
    folder = suite.model_folder(record.model, place) if is_known else None
    name, at, revision = record.model_digest.rpartition("@")
    if at:
        from huggingface_hub import try_to_load_from_cache  # 0.3 s to import

        cached = try_to_load_from_cache(name, "README.md", revision=revision)
        readme = Path(cached) if isinstance(cached, str) else None
    else:
        readme = folder / "README.md" if folder else None
    if readme and readme.is_file():
        _, _, rest = readme.read_text(encoding="utf-8", errors="replace").partition("---\n")
        if found := LICENCE.search(rest.partition("\n---")[0]):
            return f"{code(found[1])}, as its README.md says"
    if folder and (files := sorted(path.name for path in folder.glob("LICEN[CS]E*"))):
        return f"see its {code(files[0])}"
    return "unknown: no file of it here says"


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(names)
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
