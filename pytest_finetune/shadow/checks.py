"""Checks of single answers, alike for both sides: whether one fits the schema, and whether it refuses."""

import re
from collections.abc import Callable

from pytest_finetune.metrics.structured import json_valid
from pytest_finetune.shadow.config import Limits

# How models of today begin to decline, in English. A heuristic: what matters is that both sides are judged by it.
REFUSALS = (
    r"(?i)^\W*(?:i['’]?m|i am) (?:very |really |so )?sorry,? (?:but )?i",
    r"(?i)^\W*sorry,? (?:but )?i (?:can|could|am|will)",
    r"(?i)^\W*i (?:can(?:no|['’])t|can not|cannot|won['’]?t|will not|am unable to|['’]m unable to|am not able to)\b",
    r"(?i)^\W*i['’]m (?:unable|not able) to\b",
    r"(?i)\bas an ai (?:language )?model\b",
    r"(?i)^\W*unfortunately,? i (?:can(?:no|['’])t|cannot|am unable)",
)


def facts(limits: Limits) -> Callable[[str], tuple[bool | None, bool]]:
    """Return what tells of a text whether it fits the schema (None without one), and whether it refuses."""
    patterns = [re.compile(pattern) for pattern in limits.refusals or REFUSALS]

    def told(text: str) -> tuple[bool | None, bool]:
        valid = bool(json_valid(text, "", limits.schema)) if limits.schema else None
        return valid, any(pattern.search(text) for pattern in patterns)

    return told
