"""Escaping: random hostile outputs through every report, and what acts of them.

    python -m benchmarks.escaping --outputs 1000000 --out benchmarks/results/escaping.md

Each output stands where models, data and repositories put text: in names, files, messages, findings and
examples. A report must have the very structure that it has with harmless text.
"""

import argparse
import platform
import random
import time
import unicodedata
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from html.parser import HTMLParser
from importlib.metadata import version
from multiprocessing import Pool
from pathlib import Path

from markdown_it import MarkdownIt

from benchmarks.runner_log import commands
from pytest_finetune.records import (
    Claim,
    Finding,
    LostExample,
    PolicyChange,
    RunOutcome,
    RunRecord,
    SuiteRecord,
    TestRecord,
    Verdict,
)
from pytest_finetune.report import github, html, junit, terminal
from pytest_finetune.report.escape import printable, visible
from pytest_finetune.report.wrap import cells

OUTCOMES: tuple[RunOutcome, ...] = ("FAIL", "INCONCLUSIVE", "ERROR", "FAIL") * 2
A_RUN = 3 * len(OUTCOMES)  # outputs: eight tests, each with a name, a file and a message
A_PAGE = 100 * A_RUN
CODE = ("code", "pre")
Piece = tuple[str, tuple[tuple[str, str | None], ...]]  # a tag with its attributes, or text
FRAGMENTS = {
    "commands": [
        *("::error::", "::add-mask::a", "::stop-commands::x", "::set-output name=a::b", "::warning file=a,line=1::b"),
        *("##[add-mask]a", "##[set-env name=PATH]x", "##[group]", "##[", "::", ":", "#", "::Error::", " \t::debug::"),
        *(":\ufe0f:error::", "#\u200b#[error]", ":\u034f:add-path::/x", "%0A::error::", "%0D", "%25", "%3A%3A"),
    ],
    "html": [
        *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</code>", "</pre>", "</td></tr></table>"),
        *(
            "<!--",
            "-->",
            "<![CDATA[",
            "]]>",
            "<?php",
            "</details>",
            "<svg/onload=x>",
            '" onclick="x',
            "' x='",
            "<",
            ">",
        ),
        *("</script>", "<a href=javascript:x>", "<b>", "<style>", "</style>", "<textarea>", "<title>", "&lt;b&gt;"),
    ],
    "markdown": [
        *(
            "|",
            "\\|",
            "`",
            "```",
            "~~~",
            "[a](http://x.example)",
            "![](http://x.example/a.png)",
            "[a]: http://x.example",
        ),
        *("@user", "@org/team", "#1", "org/repo#1", "GH-1", "http://x.example", "www.example.com", "a@example.com"),
        *(
            "<http://x.example>",
            "\\",
            "**",
            "__",
            "~~",
            "# ",
            "> ",
            "- ",
            "1. ",
            "---",
            "===",
            "    ",
            "$x$",
            ":smile:",
        ),
        *("mailto:a@example.com", "xmpp:a@example.com", "[^1]", "- [ ] ", "<!-- pytest-finetune -->"),
    ],
    "entities": [
        "&amp;",
        "&#64;",
        "&#x3c;",
        "&#60;script&#62;",
        "&lt",
        "&",
        "&colon;&colon;",
        "&NewLine;",
        "&#0;",
        ";",
    ],
    "controls": [
        *(
            "\r",
            "\n",
            "\r\n",
            "\x00",
            "\x1b[2J",
            "\x1b]0;x\x07",
            "\x1b[31m",
            "\x08",
            "\x7f",
            "\x85",
            "\x9b31m",
            "\t",
            "\v",
        ),
        *("\u2028", "\u2029", "\u202e", "\u2066", "\u2069", "\u200b", "\ufeff", "\ud800", "\udfff", "\ue000", "\ufffe"),
        *("\U000e0041", "\U000e0100", "\u00ad", "\u3164", "\u0301", "\U0010ffff", "\x1c", "\x1f"),
    ],
    "words": [
        "the answer",
        "box red",
        "42",
        "中文",
        "é",
        "😀",
        " ",
        "",
        "error",
        "add-mask",
        "name=x",
        "]",
        "script",
        "=",
    ],
}
NAMES = list(FRAGMENTS)


def output(rng: random.Random) -> str:
    """Return one hostile output; never an empty one, for which reports leave out what would hold it."""
    parts = []
    for _ in range(rng.randint(1, 7)):
        kind = rng.random()
        if kind < 0.9:
            parts.append(rng.choice(FRAGMENTS[rng.choice(NAMES)]))
        else:  # anything at all
            parts.append(chr(rng.randrange(0x80) if kind < 0.95 else rng.randrange(0x110000)))
    return "".join(parts) or "x"


def run_of(outputs: Sequence[str], judged: int = 1) -> RunRecord:
    """Return a run in which every output stands in a test, in an example and in what was found."""
    tests = tuple(
        TestRecord(name, file, 7, outcome, message or "x")  # an empty one has no element, which is no injected one
        for (name, file, message), outcome in zip(_in_threes(outputs[:A_RUN]), OUTCOMES, strict=True)
    )
    batches = [outputs[start : start + A_RUN] for start in range(0, judged * A_RUN, A_RUN)]
    policy = tuple(PolicyChange(a, b, c, a, lowers=True) for a, b, c in _in_threes(outputs[:3]))
    suites = tuple(map(_suite, batches))
    return RunRecord("1", "2026-01-01T00:00:00+00:00", 1.0, {"torch": outputs[5]}, suites, "FAIL", tests, policy)


def _in_threes(outputs: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*[iter(outputs)] * 3, strict=True)


def _suite(outputs: Sequence[str]) -> SuiteRecord:
    found = tuple(
        Finding(check, message, (row,), refuses=False, count=1) for check, message, row in _in_threes(outputs[3:6])
    )
    lost = tuple(
        LostExample(a, b, c, d, e, 1.0) for a, b, c, d, e in zip(*[iter([*outputs, outputs[0]])] * 5, strict=True)
    )
    claim = Claim(
        name=outputs[1],
        kind="superiority",
        on=outputs[2],
        metric=outputs[3],
        before=outputs[4],
        after=outputs[5],
        before_mean=0.5,
        after_mean=0.6,
        estimate=0.1,
        low=0.0,
        high=0.2,
        bound=0.05,
        n=100,
        wins=20,
        losses=10,
        ties=70,
        alpha=0.05,
        alpha_refute=0.05,
        outcome="INCONCLUSIVE",
        n_needed=400,
        detectable=0.12,
        statistic="x",
        look=1,
        looks=1,
    )
    verdict = Verdict(outputs[0], "INCONCLUSIVE", (claim,), (), lost, digests={outputs[6]: outputs[7]})
    rows = {"train": 1, "dev": 1, "heldout": 1}
    return SuiteRecord(outputs[0], outputs[1], outputs[2], outputs[3], rows, found, verdicts=(verdict,))


class _Structure(HTMLParser):
    """Takes down what a browser's tokenizer sees: tags with their attributes, and text that stands in no code.

    In code GitHub looks for no mention of a user and for no number of an issue.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Piece] = []
        self._text: list[str] = []
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_text()
        self.found.append((tag, tuple(attrs)))
        self._code += tag in CODE

    def handle_endtag(self, tag: str) -> None:
        self._end_text()
        self.found.append((f"/{tag}", ()))
        self._code -= tag in CODE

    def handle_data(self, data: str) -> None:
        if not self._code:
            self._text.append(data)

    def _end_text(self) -> None:
        if self._text:
            self.found.append((f"text {''.join(self._text)}", ()))
            self._text = []


def structure(page: str) -> list[Piece]:
    """Return the tags of a page and its text outside code, in order."""
    parser = _Structure()
    parser.feed(page)
    parser.close()
    return parser.found


@cache
def renderer() -> MarkdownIt:
    """Return a CommonMark renderer with tables and links of bare addresses, which lets HTML through."""
    return MarkdownIt("gfm-like", {"html": True, "linkify": True})


@cache
def harmless() -> list[Piece]:
    """Return the structure of the summary of a run without any hostile text."""
    return structure(renderer().render(github.summary(run_of(["x"] * A_RUN))))


def acted(outputs: Sequence[str]) -> Iterator[str]:
    """Yield for each thing in the reports of one run that acts what it is."""
    run = run_of(outputs)
    lines = [text for text, _ in (*terminal.run_lines(run, verbose=True), *terminal.outcome_lines(run))]
    yield from ("command in the terminal" for _ in commands("\n".join(lines)))
    yield from ("control character in the terminal" for line in lines if _controls(line))
    yield from ("line too wide" for line in lines if cells(line) > terminal.columns())
    yield from _annotations(run)
    summary = github.summary(run)
    yield from ("command in the Markdown" for _ in commands(summary))
    yield from ("control character in the Markdown" for line in summary.split("\n") if _controls(line))
    found = structure(renderer().render(summary))
    if found != harmless():
        yield from ["element in the Markdown"] * max(len(found) - len(harmless()), 1)
    yield from _xml(run.suites[0].verdicts[0])


def acted_in_page(outputs: Sequence[str]) -> Iterator[str]:
    """Yield for each element or attribute that the page of a run of many suites has too many."""
    found, meant = _page(outputs), _harmless_page(len(outputs))
    if found != meant:
        yield from ["element or attribute in the page"] * max((found - meant).total(), 1)


@cache
def _harmless_page(outputs: int) -> Counter[tuple[str, ...]]:
    return _page(["x"] * outputs)


def _page(outputs: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Return how often each tag, with the names of its attributes, is in a page."""
    pieces = structure(html.page(run_of(outputs, len(outputs) // A_RUN)))
    return Counter((tag, *(name for name, _ in given)) for tag, given in pieces if not tag.startswith("text"))


def _controls(line: str) -> bool:
    return not line.isprintable() and any(unicodedata.category(char) in ("Cc", "Cf", "Cs") for char in line)


def _annotations(run: RunRecord) -> Iterator[str]:
    lines = github.annotations(run)
    yield from ("control character in the annotations" for line in lines if _controls(line))
    found = list(commands("\n".join(lines)))
    meant = {
        (
            printable(Path(test.file).as_posix()),
            f"{test.outcome}: {printable(test.name)}".rstrip(),
            _message(test) or test.outcome,
        )
        for test in run.tests
    }
    read = {(one.properties.get("file"), one.properties.get("title"), one.data) for one in found}
    yield from ["command in the annotations"] * (len(found) - len(lines))
    yield from ["annotation garbled"] * len(meant ^ read)
    if any(set(one.properties) != {"file", "line", "title"} or one.properties.get("line") != "7" for one in found):
        yield "property in the annotations"


def _message(test: TestRecord) -> str:
    return "\n".join(map(visible, test.message.splitlines()))


def _xml(verdict: Verdict) -> Iterator[str]:
    meant = junit.properties(verdict)
    suite = ET.Element("properties")
    for name, value in meant:
        ET.SubElement(suite, "property", name=name, value=value)
    try:
        read = [(one.attrib["name"], one.attrib["value"]) for one in ET.fromstring(ET.tostring(suite, "unicode"))]
    except ET.ParseError:
        yield "broken XML"
        return
    if read != meant:
        yield "property in the XML"


def fuzz(outputs: int, processes: int = 1) -> Counter[str]:
    """Return how often something acted, of so many random outputs (a multiple of 24)."""
    pages = [(start, min(A_PAGE, outputs - start)) for start in range(0, outputs, A_PAGE)]
    if processes == 1:
        return sum(map(_fuzz_page, pages), Counter[str]())
    with Pool(processes) as pool:
        return sum(pool.imap_unordered(_fuzz_page, pages), Counter[str]())


def _fuzz_page(page: tuple[int, int]) -> Counter[str]:
    """Return how often something acted, of the outputs of one page; ``page`` is its seed and their number."""
    seed, outputs = page
    rng = random.Random(seed)
    made = [output(rng) for _ in range(outputs)]
    found = Counter(acted_in_page(made))
    for first in range(0, outputs, A_RUN):
        found.update(acted(made[first : first + A_RUN]))
    return found


def report(outputs: int, found: Counter[str], seconds: float) -> Iterable[str]:
    """Yield the lines of the report."""
    yield from ("# Escaping", "")
    versions = f"Python {platform.python_version()}, markdown-it-py {version('markdown-it-py')}"
    yield f"python -m benchmarks.escaping --outputs {outputs}, {versions}, {seconds:.0f} s"
    yield from ("", "| of hostile outputs | acted |", "| --- | --- |", f"| {outputs:,} | {found.total():,} |")
    yield from (f"| {what} | {count:,} |" for what, count in sorted(found.items()))


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", type=int, default=24_000, help="how many random outputs (24,000)")
    parser.add_argument("--out", type=Path, help="write the report to this file (else it is printed)")
    parser.add_argument("--processes", type=int, default=1, help="how many processes (1)")
    options = parser.parse_args()
    started, outputs = time.perf_counter(), -(-options.outputs // A_RUN) * A_RUN
    found = fuzz(outputs, options.processes)
    text = "\n".join(report(outputs, found, time.perf_counter() - started)) + "\n"
    if options.out:
        options.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
