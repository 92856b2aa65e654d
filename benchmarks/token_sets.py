"""Which token set tells a text that was edited from one that asks something else, by Jaccard.

    python -m benchmarks.token_sets --data DIR [--out FILE]

DIR holds `train.csv` of github.com/PolyAI-LDN/task-specific-datasets, folder banking_data
(Casanueva et al. 2020, CC BY 4.0). Its questions of 8 to 15 words are edited, one edit each.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
from collections.abc import Callable, Hashable
from pathlib import Path

from benchmarks.duplicates import THRESHOLD, filler, punctuated, typo

Tokens = set[Hashable]

FUNCTION_WORDS = {"the", "a", "my", "is", "to", "of", "for", "can", "do", "i", "it", "on", "in", "so", "just", "please"}


def folded(text: str) -> str:
    """Return the text's words, case and punctuation left out."""
    return " ".join(re.findall(r"\w+", text.casefold().replace("'", "")))


def runs(text: str, length: int) -> Tokens:
    """Return runs of characters, of which the ends of the text are two."""
    return {text[i : i + length] for i in range(len(text) - length + 1)}


def words(text: str, length: int) -> Tokens:
    """Return runs of words."""
    parts = folded(text).split()
    return {tuple(parts[i : i + length]) for i in range(max(1, len(parts) - length + 1))}


SETS: dict[str, Callable[[str], Tokens]] = {
    "3 characters (ours)": lambda text: runs(f"\0 {folded(text)} \0", 3),
    "4 characters": lambda text: runs(f"\0 {folded(text)} \0", 4),
    "5 characters": lambda text: runs(f"\0 {folded(text)} \0", 5),
    "3 letters, no spaces": lambda text: runs(f"\0{folded(text).replace(' ', '')}\0", 3),
    "2 letters, no spaces": lambda text: runs(f"\0{folded(text).replace(' ', '')}\0", 2),
    "words": lambda text: words(text, 1),
    "pairs of words": lambda text: words(text, 2),
    "words and pairs": lambda text: words(text, 1) | words(text, 2),
}


def dropped(text: str, chance: random.Random) -> str:
    """Return the text without one of its function words."""
    parts = text.split()
    small = [i for i, word in enumerate(parts) if word.casefold() in FUNCTION_WORDS]
    if small:
        parts.pop(chance.choice(small))
    return " ".join(parts)


def reordered(text: str, chance: random.Random) -> str:
    """Return the text with two words in each other's place."""
    parts = text.split()
    i, j = chance.sample(range(len(parts)), 2)
    parts[i], parts[j] = parts[j], parts[i]
    return " ".join(parts)


def main() -> None:
    """Edit the questions, compare, and write the shares down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "token_sets.md")
    options = parser.parse_args()
    with (options.data / "train.csv").open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    content = [word for text in texts for word in folded(text).split() if len(word) > 3]

    def other_word(text: str, chance: random.Random) -> str:
        parts = text.split()
        long = [i for i, word in enumerate(parts) if len(word) > 3]
        parts[chance.choice(long or [0])] = chance.choice(content)
        return " ".join(parts)

    edits = {
        "a typo": typo,
        "a filler word": filler,
        "a small word less": dropped,
        "case, punctuation": punctuated,
        "another word": other_word,
        "two words swapped": reordered,
    }
    chance = random.Random(0)
    asked = [text for text in texts if 8 <= len(text.split()) <= 15]
    pairs = {
        name: [(text, edited) for text in asked if (edited := edit(text, chance)) != text]
        for name, edit in edits.items()
    }
    table = [
        "# Token sets: shares of edited questions at a Jaccard of 0.8 or more",
        "",
        f"`python -m benchmarks.token_sets --data DIR`: {len(asked):,} questions of 8 to 15 words, one edit each. The",
        "first four edits should be near, the last two not. Whatever the set, texts of the same words in another order",
        "are left out afterwards, and so are texts whose numbers differ.",
        "",
        f"| tokens | {' | '.join(edits)} |",
        "|" + " --- |" * (len(edits) + 1),
    ]
    for name, tokens in SETS.items():
        shares = []
        for both in pairs.values():
            sets = [(tokens(a), tokens(b)) for a, b in both]
            shares.append(sum(len(a & b) >= THRESHOLD * len(a | b) for a, b in sets) / len(sets))
        table.append(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    options.out.write_text("\n".join([*table, ""]), encoding="utf-8")
    print("\n".join(table))


if __name__ == "__main__":
    main()
