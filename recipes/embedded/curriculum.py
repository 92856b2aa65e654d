"""What pretraining sees when: drills, then short dense tasks, then the final mix, in batches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from recipes.embedded import tasks
from recipes.embedded.skills import SKILLS, draw

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

DRILLS_UNTIL = 0.02
# at this progress: the shares of tables, records and described tasks (the rest are skills), how
# often a message is a cue and nothing else, and the most fields an answer has
_STAGES = (
    (0.08, (0.70, 0.05, 0.15), 0.5, 1),
    (0.20, (0.30, 0.05, 0.40), 0.2, 1),
    (0.35, (0.10, 0.05, 0.50), 0.1, 2),
    (1.01, (0.05, 0.04, 0.51), 0.05, 3),
)
_SYSTEMS = ["", "", "", "", "You are a helpful assistant.", "Answer briefly.",
            "Answer with the result only."]  # fmt: skip
_WEIGHTS = {"arithmetic": 5, "sort": 2, "reverse": 3, "reading": 7, "compare": 2, "dates": 2,
            "sentiment": 2, "copy": 1, "nth": 1}  # fmt: skip
_MIX = [name for name, weight in _WEIGHTS.items() for _ in range(weight)]
_WARM_UP = ["copy", "copy", "reverse", "reading", "nth", "sentiment", "compare"]
_BUCKETS = (32, 48, 64, 96, 128, 192, 256, 320, 400, 480)  # tokens a row, without the first
_IGNORE = -100


class Example(NamedTuple):
    """Token ids and, for each, whether it carries loss."""

    ids: list[int]
    supervised: list[bool]


def skill_turns(rng: random.Random, names: Sequence[str]) -> tasks.Conversation:
    """One to six questions, mostly of one skill."""
    alone, first = rng.random() < 0.6, rng.choice(names)
    chosen = [first if alone else rng.choice(names) for _ in range(rng.choice([1, 1, 2, 3, 4, 5, 6]))]
    turns = [draw(rng, SKILLS[name], held_out=False) for name in chosen]
    return tasks.Conversation(rng.choice(_SYSTEMS), turns)


def conversation(rng: random.Random, progress: float = 1.0) -> tasks.Conversation:
    """The next conversation at `progress` (0 to 1) through pretraining."""
    (tables, records, described), bare_share, most_fields = next(stage[1:] for stage in _STAGES if progress < stage[0])
    x = rng.random()
    if x < tables:
        return tasks.table(rng, bare_share, ease=max(0.0, 1 - progress / 0.06))
    if x < tables + records:
        return tasks.record(rng)
    if x < tables + records + described:
        return tasks.described_task(rng, most_fields, bare_share)
    return skill_turns(rng, _WARM_UP if progress < _STAGES[0][0] else _MIX)


def drill(rng: random.Random, vocabulary: int, reserved: int) -> Example:
    """Random tokens repeated, or random pairs recalled: copying without any meaning."""

    def token() -> int:
        return rng.randrange(reserved, vocabulary)

    if rng.random() < 0.5:
        period, repeats = rng.randint(3, 14), rng.randint(2, 4)
        ids = [token() for _ in range(period)] * repeats
        return Example(ids[:48], [i >= period for i in range(len(ids))][:48])
    count = rng.randint(2, 8)
    keys, values = rng.sample(range(reserved, vocabulary), count), [token() for _ in range(count)]
    between = [token()] if rng.random() < 0.5 else []
    after = [token()] if rng.random() < 0.5 else []
    supervised: list[bool] = []
    ids = []
    for turn, index in enumerate([*range(count), *(rng.randrange(count) for _ in range(count))]):
        ids += [keys[index], *between, values[index], *after]
        supervised += [*[False] * (1 + len(between)), turn >= count, *[False] * len(after)]
    return Example(ids[:64], supervised[:64])


@dataclass
class Stream:
    """Endless length-bucketed batches; picklable, so that a resumed run sees the same ones."""

    tokenizer: PreTrainedTokenizerBase
    batch_tokens: int
    rng: random.Random
    pools: dict[int, list[Example]] = field(default_factory=lambda: {size: [] for size in _BUCKETS})

    def encode(self, conversations: Sequence[tasks.Conversation]) -> list[Example]:
        """Token ids as the chat template spells them, the answers supervised."""
        id_of = self.tokenizer.get_vocab()
        system_id, user_id, assistant_id, end_id = (
            id_of[f"<|{name}|>"] for name in ("system", "user", "assistant", "end")
        )
        texts: list[str] = []
        for talk in conversations:
            texts += [talk.system, *(text for turn in talk.turns for text in turn)]
        pieces: Iterator[list[int]] = iter(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        examples = []
        for talk in conversations:
            ids: list[int] = []
            supervised: list[bool] = []
            system = next(pieces)
            if talk.system:
                ids += [system_id, *system, end_id]
                supervised += [False] * len(ids)
            for number, _ in enumerate(talk.turns):
                prompt, answer = next(pieces), next(pieces)
                ids += [user_id, *prompt, end_id, assistant_id, *answer, end_id]
                supervised += [False] * (len(prompt) + 3)
                supervised += [number >= talk.supervised_from] * (len(answer) + 1)
            examples.append(Example(ids, supervised))
        return examples

    def _fill(self, progress: float) -> None:
        drills = 0.8 if progress < DRILLS_UNTIL else 0.03
        count = sum(self.rng.random() < drills for _ in range(200))
        examples = [drill(self.rng, len(self.tokenizer), reserved=5) for _ in range(count)]
        examples += self.encode([conversation(self.rng, progress) for _ in range(200 - count)])
        for example in examples:
            fits = [size for size in _BUCKETS if len(example.ids) <= size + 1]
            if fits and any(example.supervised[1:]):
                self.pools[fits[0]].append(example)

    def batch(self, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and labels of one batch, both (rows, tokens); ignored labels are -100."""
        import torch

        while True:
            ready = [size for size, pool in self.pools.items() if len(pool) * size >= self.batch_tokens]
            if ready and sum(map(len, self.pools.values())) > 400:
                break
            self._fill(progress)
        size = self.rng.choices(ready, [len(self.pools[size]) * size for size in ready])[0]
        pool = self.pools[size]
        rows = [pool.pop(self.rng.randrange(len(pool))) for _ in range(self.batch_tokens // size)]
        width = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        labels = torch.full((len(rows), width), _IGNORE)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            labels[i, : len(row.ids)] = torch.where(torch.tensor(row.supervised), ids[i, : len(row.ids)], _IGNORE)
        return ids, labels
