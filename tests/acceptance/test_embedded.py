"""The embedded model shows what its card says, through the shipped stages; minutes, so slow."""

import json
from collections.abc import Iterator

import pytest

from pytest_finetune.records import from_plain
from recipes.embedded import card

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def written() -> card.Measured:
    """The numbers that the card was written from."""
    return from_plain(card.Measured, json.loads(card.MEASURED.read_text()))


@pytest.fixture(scope="module")
def bench() -> Iterator[card.Bench]:
    """One engine and one store for all tests here."""
    with card.bench() as on:
        yield on


def test_card_is_written_from_the_numbers(written: card.Measured) -> None:
    """The card in the package says what was measured, to the letter."""
    assert card.card(written) == card.CARD.read_text(encoding="utf-8")


def test_general_skills(written: card.Measured, bench: card.Bench) -> None:
    """Skills are what the card says, within 2 points; five or more lie between 70 and 98 %."""
    skills = bench.skills()
    assert skills == pytest.approx(written.skills, abs=0.02)
    assert sum(0.70 <= score <= 0.98 for score in skills.values()) >= 5


def test_prompt_helps_and_leaves_room(bench: card.Bench) -> None:
    """The best prompt scores clearly above the poor one, and far below what can be had."""
    scores = bench.prompts()
    assert max(scores.values()) > scores["candidate 1"] + 0.2
    assert max(scores.values()) < 0.7


def test_lora_beats_the_best_prompt(bench: card.Bench) -> None:
    """A rank-8 LoRA beats the best prompt by 30 points or more and keeps general skills within 5."""
    tuned = bench.tune("LoRA")
    skills = bench.skills().values()
    assert tuned.held_out > max(bench.prompts().values()) + 0.3
    assert tuned.general > sum(skills) / len(skills) - 0.05


def test_replay_prevents_forgetting(bench: card.Bench) -> None:
    """Too hot and too long costs more than 10 points of general skills without replay, and less with 25 %."""
    skills = bench.skills().values()
    base = sum(skills) / len(skills)
    hot = {"learning_rate": card.HOT_LEARNING_RATE, "epochs": card.HOT_EPOCHS}
    assert base - bench.tune("no replay", replay=0.0, **hot).general > 0.10
    assert base - bench.tune("replay", replay=0.25, **hot).general < 0.10


def test_tiny_set_overfits(bench: card.Bench) -> None:
    """On a tiny set the dev loss falls, then rises."""
    losses = card.tiny_dev_losses(bench)
    assert losses[0] > min(losses)
    assert losses[-1] > 1.05 * min(losses)
