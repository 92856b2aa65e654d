"""The run as Markdown, for a pull request: the verdict first, and never longer than it may be."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pytest_finetune.records import Claim, LostExample, PolicyChange, RunOutcome, RunRecord, SuiteRecord, TestRecord
from pytest_finetune.report import gist
from pytest_finetune.report.escape import printable
from pytest_finetune.report.terminal import entries, percent, signed

MARKER = "<!-- pytest-finetune -->"  # by which a later run finds the comment it is to replace
MARKS: dict[RunOutcome, str] = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔", "ERROR": "⚠️", "SKIPPED": "⏭️"}
DETAILS = {
    "data": ("data",),
    "baseline": ("baseline",),
    "training": ("training", "ladder", "prompt", "adapter"),
    "cost": ("cost",),
    "slices": ("slice", "worn"),
}
NOTES = 600  # characters kept for saying what was left out
NAME, TEXT, MESSAGE_LINES = 120, 300, 20  # characters of a name and of a text, lines of a message
ENTITIES = {ord(char): f"&#{ord(char)};" for char in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"}
# A mark between the two sides of an @ keeps renderers that look for addresses after parsing from finding one.
ENTITIES[ord("@")] += "<!-- -->"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the text, of which the last rows are left out where it would be too long.

    Args:
        title: how the note of what is left out calls it.
        rank: the lower, the longer it stays.
        head: what comes before the rows; it goes where no row stays.
        rows: each complete by itself.
        tail: what comes after them.
    """

    title: str
    rank: int
    head: str
    rows: tuple[str, ...]
    tail: str = "\n"


def code(text: str, width: int = NAME) -> str:
    """Return ``text`` so that nothing in it acts in Markdown or HTML: no link, mention, tag or end of a cell."""
    return f"<code>{printable(text, width=width).translate(ENTITIES)}</code>"


def text(run: RunRecord, limit: int = 60_000, size: Callable[[str], int] = len) -> str:
    """Return the run as Markdown.

    Args:
        run: the whole run.
        limit: how long the text may be; what is least important is left out, and said to be.
        size: how long a text is: its characters, if nothing else is said.
    """
    head = _head(run)
    parts = [_policy(run), _failed(run.tests), *(part for suite in run.suites for part in _suite(suite))]
    left = limit - size(head) - NOTES
    kept, missing = {}, Counter[str]()
    for i, part in sorted(enumerate(parts), key=lambda one: one[1].rank):
        left -= size(part.head) + size(part.tail)
        fitting = 0
        for row in part.rows:
            if size(row) > left:
                break
            left -= size(row)
            fitting += 1
        if fitting:
            kept[i] = part.head + "".join(part.rows[:fitting]) + part.tail
        else:
            left += size(part.head) + size(part.tail)
        missing[part.title] += len(part.rows) - fitting
    note = ", ".join(f"{title} ({count:,})" for title, count in missing.items() if count)
    return head + "".join(kept[i] for i in sorted(kept)) + (f"Left out for length: {note}.\n" if note else "")


def _head(run: RunRecord) -> str:
    """Return the verdict, and how many changes lower the bar: whatever is left out, these are not."""
    lines = [MARKER, f"## {MARKS[run.outcome]} Fine-tuning gate: {run.outcome}", ""]
    lowered = sum(change.lowers for change in run.policy)
    if lowered:
        accepted = "accepted" if run.policy_accepted else "**not accepted**"
        lines += [f"> ⚠️ **Changes of the policy that lower the bar: {lowered}**, {accepted}", ""]
    lines += [f"{gist.said(run)} Tests: {gist.tests(run)}.", ""]
    return "\n".join(lines) + "\n"


def _table(*names: str) -> str:
    return f"{_row(names)}{_row(['---'] * len(names))}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _policy(run: RunRecord) -> Part:
    changes: list[PolicyChange] = sorted(run.policy, key=lambda change: not change.lowers)
    rows = tuple(
        _row(
            [
                "⚠️ lowers the bar" if c.lowers else "harmless",
                *map(code, (c.suite, c.what, c.before or "nothing", c.after or "nothing")),
            ]
        )
        for c in changes
    )
    return Part("changes of policy", 0, "### Policy\n\n" + _table("", "suite", "what", "before", "now"), rows)


def _failed(tests: tuple[TestRecord, ...]) -> Part:
    failed = sorted(
        (test for test in tests if test.outcome not in ("PASS", "SKIPPED")),
        key=lambda test: ("FAIL", "ERROR", "INCONCLUSIVE").index(test.outcome),
    )
    return Part("tests that did not pass", 1, "### Not passed\n\n", tuple(map(_test, failed)), "")


def _test(test: TestRecord) -> str:
    lines = [printable(line, width=TEXT).translate(ENTITIES) for line in test.message.splitlines()]
    if len(lines) > MESSAGE_LINES:
        lines = [*lines[:MESSAGE_LINES], f"and {len(lines) - MESSAGE_LINES} more lines"]
    place = code(f"{test.file}:{test.line}")
    shown = "\n".join(lines) or "no message"
    return f"{MARKS[test.outcome]} {test.outcome} {code(test.name)}, {place}\n\n<pre>\n{shown}\n</pre>\n\n"


def _suite(suite: SuiteRecord) -> Iterator[Part]:
    claims = [claim for verdict in suite.verdicts for claim in verdict.claims]
    if not suite.rows:
        return
    title = f"### {code(suite.name)}\n\nModel {code(suite.model)}\n\n"
    columns = ("", "claim", "before → after", "difference [interval]", "bound", "rows", "won / lost")
    yield Part("claims", 2, title + _table(*columns), tuple(map(_claim, claims)))
    found: dict[str, list[str]] = {}
    for label, said, _ in entries(suite, verbose=False):
        found.setdefault(label, []).append(said)
    for rank, (name, labels) in enumerate(DETAILS.items()):
        rows = tuple(f"- {code(said, TEXT)}\n" for label in labels for said in found.get(label, ()))
        yield Part(name, 3 + rank, *_folded(f"{name.capitalize()} of", suite, "", rows))
    lost = tuple(_lost(example) for verdict in suite.verdicts for example in verdict.lost)
    head = _table("row", "asked", "reference", "before", "after")
    yield Part("lost examples", 3 + len(DETAILS), *_folded("Worst lost examples of", suite, head, lost))


def _folded(title: str, suite: SuiteRecord, head: str, rows: tuple[str, ...]) -> tuple[str, tuple[str, ...], str]:
    opening = f"<details><summary>{title} {code(suite.name)}</summary>\n\n{head}"
    return opening, rows, "\n</details>\n\n"


def _claim(claim: Claim) -> str:
    if claim.kind == "level":
        said = f"{claim.after} reaches {percent(claim.bound)}"
        means = percent(claim.after_mean)
    else:
        said = {"superiority": f"{claim.after} beats {claim.before}", "slice": f"{claim.after} {claim.name}"}.get(
            claim.kind, f"{claim.after} keeps what {claim.before} can do"
        )
        means = f"{percent(claim.before_mean)} → {percent(claim.after_mean)}"
    shown = percent if claim.kind == "level" else signed
    interval = f"{shown(claim.estimate)} [{shown(claim.low)}, {shown(claim.high)}]"
    rows = str(claim.n)
    if claim.outcome == "INCONCLUSIVE" and claim.n_needed and claim.n_needed > claim.n:
        rows += f" (about {claim.n_needed} needed)"
    cells = (means, interval, shown(claim.bound), rows, f"{claim.wins} / {claim.losses}")
    return _row([f"{MARKS[claim.outcome]} {claim.outcome}", f"{code(said)} on {code(claim.on)}", *cells])


def _lost(example: LostExample) -> str:
    texts = (example.asked, example.reference, example.before, example.after)
    return _row([code(example.place), *(code(text, TEXT) for text in texts)])
