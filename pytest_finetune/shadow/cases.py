"""Cases: where the two sides disagree, as rows for a person to label."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pytest_finetune.errors import SuiteError
from pytest_finetune.shadow.exchange import Pair

# The most telling first.
REASONS = ("tool calls differ", "one is invalid", "one refuses", "texts differ")


def rows(pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    """Return pairs that disagree as rows without an answer, the most telling first, each question once."""
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for pair in pairs:
        if pair.exchange.request is None or pair.primary.error or pair.candidate.error or pair.agrees:
            continue
        why = next(number for number, holds in enumerate(_differences(pair)) if holds)
        if pair.exchange.asked_digest not in found or why < found[pair.exchange.asked_digest][0]:
            found[pair.exchange.asked_digest] = why, {**_asked(pair), **_answers(pair), "why": REASONS[why]}
    return [row for _, row in sorted(found.values(), key=lambda one: one[0])]


def _differences(pair: Pair) -> Iterator[bool]:
    one, other = pair.primary, pair.candidate
    yield one.tool_calls != other.tool_calls
    yield one.valid != other.valid
    yield one.refused != other.refused
    yield True


def _asked(pair: Pair) -> dict[str, Any]:
    """Return the question: one user message (a system prompt is the suite's) as a prompt, a conversation whole."""
    request = pair.exchange.request or {}
    turns = [turn for turn in request.get("messages") or [] if isinstance(turn, dict) and turn.get("role") != "system"]
    if len(turns) > 1:
        return {"messages": request["messages"], "completion": ""}
    return {"prompt": pair.exchange.asked, "completion": ""}


def _answers(pair: Pair) -> dict[str, Any]:
    told = {"primary": pair.primary.text, "candidate": pair.candidate.text, "id": pair.primary.answer_id}
    calls = {"primary_calls": pair.primary.tool_calls, "candidate_calls": pair.candidate.tool_calls}
    return told | {name: _plain(value) for name, value in calls.items() if value}


def _plain(calls: str) -> Any:
    """Return calls as plain data, or as they are kept where redaction left no JSON."""
    try:
        return json.loads(calls)
    except ValueError:
        return calls


def write(pairs: Iterable[Pair], out: Path, limit: int | None) -> int:
    """Write rows to a new JSONL file; return how many.

    Raises:
        SuiteError: there is none to write.
    """
    found = rows(pairs)[:limit]
    if not found:
        raise SuiteError(f"--out={out}: no pair disagrees whose text is kept; nothing was written")
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return len(found)
