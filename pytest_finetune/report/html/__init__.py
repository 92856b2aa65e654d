"""The run as one page of HTML, which loads nothing: all that is shown is in the file."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from pytest_finetune.curate import describe
from pytest_finetune.records import Measurement, RunRecord, SuiteRecord, TestRecord
from pytest_finetune.report import gist
from pytest_finetune.report.escape import printable
from pytest_finetune.report.gist import WORST_FIRST
from pytest_finetune.report.html import charts, examples
from pytest_finetune.report.terminal import is_best, percent, signed

if TYPE_CHECKING:
    import jinja2

FOLDER = Path(__file__).parent
PAGE_BYTES = 1_000_000  # what a page may have; texts of examples are cut to keep it
MESSAGE = 4000  # characters of a test's message at most


def page(run: RunRecord) -> str:
    """Return the whole page.

    Args:
        run: what is shown; every text in it is taken for hostile.
    """
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    template = _environment().get_template("page.html.j2")
    shown = {
        "run": run,
        "suites": sorted(run.suites, key=lambda suite: WORST_FIRST.index(_outcome(suite, run.tests))),
        "style": Markup(style),  # our own files, which no text of the run enters
        "script": Markup(script),
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }
    bare = template.render(**shown, examples=examples.Packed("", 0, 0))
    return template.render(**shown, examples=examples.pack(run, PAGE_BYTES - len(bare.encode())))


@cache
def _environment() -> "jinja2.Environment":
    import jinja2  # takes longer than all of this page's own code, which every run under --finetune imports

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": percent,
        "signed": signed,
        "minus": _minus,
        "lines": _lines,
        "bytes": _bytes,
        "day": _day,
        "describe": describe,
    }
    made.globals |= {
        "charts": charts,
        "claims": _claims,
        "headlines": _headlines,
        "counted": _counted,
        "outcome": _outcome,
        "said": gist.said,
        "is_best": is_best,
        "usage": _usage,
    }
    return made


def _shown(value: Any) -> Any:
    """Return what the template writes: text without characters that do not print; autoescape does the rest."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _lines(text: str) -> Markup:
    """Return text of several lines, for an element that keeps them."""
    cut = text if len(text) <= MESSAGE else f"{text[:MESSAGE]}…"
    return escape(printable(cut, keep="\n\t"))


def _hash(text: str) -> str:
    """Return what the page's Content-Security-Policy calls an inline script or style by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _minus(text: str) -> str:
    """Return a number with a minus sign in place of a hyphen, which is too short beside digits."""
    return text.replace("-", "−")


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _day(started: str) -> str:
    try:
        return datetime.fromisoformat(started).strftime("%d %B %Y, %H:%M %Z")
    except ValueError:
        return started


def _usage(suite: SuiteRecord) -> list[Measurement]:
    """Return the measurements on the held-out rows that say what a request takes."""
    return [m for m in suite.measurements if m.on == "held-out" and m.usage]


def _outcome(suite: SuiteRecord, tests: Sequence[TestRecord]) -> str:
    """Return the worst outcome of a suite's verdicts and tests: a verdict alone proves, and a test may break it."""
    found: set[str] = {verdict.outcome for verdict in suite.verdicts}
    found |= {test.outcome for test in tests if test.outcome != "PASS" and _is_of(test, suite)}
    return next((one for one in WORST_FIRST if one in found), "SKIPPED")


def _is_of(test: TestRecord, suite: SuiteRecord) -> bool:
    """Whether a test is of a suite, or may be: its file is named from the root, which the record does not tell."""
    folder = PurePath(test.file).parent.parts
    place = PurePath(suite.file).parent.parts
    judging = {PurePath(verdict.test.split("::")[0]).parent.parts for verdict in suite.verdicts}
    return place[len(place) - len(folder) :] == folder or folder in judging


def _claims(suite: SuiteRecord) -> list[charts.Named]:
    return [(claim.name, claim) for verdict in suite.verdicts for claim in verdict.claims]


def _headlines(suites: Sequence[SuiteRecord]) -> list[charts.Named]:
    """Return what decides: the first claim of each suite, and all that are not proven."""
    named = [(suite.name, i, claim) for suite in suites for i, (_, claim) in enumerate(_claims(suite))]
    deciding = [(f"{suite}: {claim.name}", claim) for suite, i, claim in named if i == 0 or claim.outcome != "PASS"]
    return sorted(deciding, key=lambda one: WORST_FIRST.index(one[1].outcome))


def _counted(run: RunRecord) -> dict[str, int]:
    """Return how many claims there are of each outcome."""
    claims = [claim.outcome for suite in run.suites for _, claim in _claims(suite)]
    return {outcome: claims.count(outcome) for outcome in ("PASS", "FAIL", "INCONCLUSIVE")}
