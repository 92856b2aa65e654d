"""The tokenizer: byte-level BPE in which a word is spelled the same wherever it stands."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.embedded.curriculum import conversation
from recipes.embedded.words import CONTENT, FIELDS, LABELS, SPACED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 1536
SPECIAL = ["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{% else %}"
    "{{ m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _texts(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(12_000):
        talk = conversation(rng)
        yield talk.system
        for turn in talk.turns:
            yield from turn
    for _ in range(20):
        yield " ".join(CONTENT + LABELS + FIELDS + SPACED)


def build(seed: int = 7) -> PreTrainedTokenizerFast:
    """Train the tokenizer on generated conversations.

    Merges are learned with spaces isolated; then "space + word" merges are appended for function
    words only, so that a content word has one spelling and copying it is plain induction.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    single_digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [single_digits, pre_tokenizers.Split(" ", "isolated"), byte_level]
    )
    tokenizer.train_from_iterator(
        _texts(seed),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY - len(SPACED),
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([single_digits, byte_level])
    state = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = state["model"]["vocab"]
    for word in SPACED:
        if word in vocabulary and "Ġ" + word not in vocabulary:
            state["model"]["merges"].append(["Ġ", word])
            vocabulary["Ġ" + word] = len(vocabulary)
    while len(vocabulary) < VOCABULARY:
        vocabulary[f"<|unused{len(vocabulary)}|>"] = len(vocabulary)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[-1],
        additional_special_tokens=SPECIAL[1:4],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=768,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def load(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that `build` made and someone saved."""
    from transformers import PreTrainedTokenizerFast

    words: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return words
