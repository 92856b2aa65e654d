"""Token trees: rows of tokens in which what several begin with is computed once.

A node is a token after all that stands before it in its row, so its state, its keys and its values
are the same for every row that begins so. A pass over the nodes, each attending to its own way
from the root, gives what a pass over the rows would. (Tree attention: Miao 2024, arXiv 2305.09781,
section 4.2, there for speculative decoding.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

KEY_READ = 16  # how often a key and its value are used while they are read from memory, about


@dataclass(frozen=True, slots=True)
class Tree:
    """Some rows as one tree, its nodes row by row.

    ``paths`` are each row's nodes from the root on; ``branches`` are the first node of each run of
    nodes that only one path goes through at first, and the nodes before it on that path.
    """

    ids: list[int]
    depths: list[int]
    paths: list[list[int]]
    branches: list[tuple[int, list[int]]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Trees side by side, filled up to the longest; what ``Loaded.run`` takes.

    ``ids`` and ``positions`` have the shape (trees, nodes); ``mask`` is (trees, 1, nodes, past + nodes), true
    where a node attends, or (trees, nodes) where each tree is a single row.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two rows begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def grow(rows: Sequence[list[int]]) -> Tree:
    """Return rows as a tree."""
    tree = Tree([], [], [[] for _ in rows], [])
    before: list[int] = []
    path: list[int] = []
    for i in sorted(range(len(rows)), key=rows.__getitem__):
        row = rows[i]
        shared, start = common(before, row), len(tree.ids)
        if shared < len(row):
            tree.branches.append((start, path[:shared]))
        tree.ids.extend(row[shared:])
        tree.depths.extend(range(shared, len(row)))
        path = path[:shared] + list(range(start, len(tree.ids)))
        tree.paths[i] = path
        before = row
    return tree


def groups(rows: Sequence[list[int]], linear_cost: float, past: int = 0, steps: int = 0) -> list[list[int]]:
    """Return which rows are best made one tree: what costs least of 1, 2, 4 ... trees of equal numbers of rows.

    Args:
        rows: token ids.
        linear_cost: what the linear layers cost a token, in pairs of a query and a key.
        past: keys before each tree.
        steps: tokens that are then appended to each row, one at a time.
    """
    order = sorted(range(len(rows)), key=rows.__getitem__)
    new = [len(rows[i]) - common(rows[before], rows[i]) for before, i in pairwise(order)]

    def cost(size: int) -> float:
        starts = range(0, len(order), size)
        longest = max(len(rows[order[start]]) + sum(new[start : start + size - 1]) for start in starts)
        reading = longest * (linear_cost + past + longest)
        return len(starts) * (reading + steps * (past + longest + steps * size / 2) * (size + KEY_READ))

    sizes = [len(rows)]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    best = min(sizes, key=cost)
    return [order[start : start + best] for start in range(0, len(order), best)]


def stack(trees: Sequence[Tree], pad: int, past: int = 0) -> Batch:
    """Return trees side by side, each after ``past`` tokens that are in the cache."""
    width = max(len(tree.ids) for tree in trees)
    ids = torch.full((len(trees), width), pad)
    positions = torch.zeros((len(trees), width), dtype=torch.long)
    for row, tree in enumerate(trees):
        ids[row, : len(tree.ids)] = torch.tensor(tree.ids)
        positions[row, : len(tree.ids)] = torch.tensor(tree.depths) + past
    if past == 0 and all(len(tree.branches) == 1 for tree in trees):
        filled = torch.tensor([[len(tree.ids)] for tree in trees])
        return Batch(ids, positions, (torch.arange(width) < filled).long())
    mask = torch.zeros((len(trees), 1, width, past + width), dtype=torch.bool)
    below = torch.ones((width, width), dtype=torch.bool).tril_()
    for row, tree in enumerate(trees):
        mask[row, 0, : len(tree.ids), :past] = True
        own = mask[row, 0, :, past:]
        starts = [start for start, _ in tree.branches] + [len(tree.ids)]
        for (start, above), end in zip(tree.branches, starts[1:], strict=True):
            own[start:end, torch.tensor(above, dtype=torch.long)] = True
            own[start:end, start:end] = below[: end - start, : end - start]
        # A query that attends to nothing gives NaN, which no mask takes out of the sums of the others.
        filler = torch.arange(len(tree.ids), width)
        own[filler, filler] = True
    return Batch(ids, positions, mask)


def kept(places: Iterable[tuple[int, int]], shape: tuple[int, ...]) -> tuple[torch.Tensor, list[int]]:
    """Return the mask of places whose logits are computed, and each place's number among them.

    Args:
        places: tree and node; a place may come several times.
        shape: trees, nodes.
    """
    listed = list(places)
    numbers = {place: number for number, place in enumerate(sorted(set(listed)))}
    mask = torch.zeros(shape, dtype=torch.bool)
    chosen = torch.tensor(list(numbers), dtype=torch.long).reshape(-1, 2)  # also where there is none
    mask[chosen[:, 0], chosen[:, 1]] = True
    return mask, [numbers[place] for place in listed]


def collate(
    pairs: Sequence[tuple[list[int], list[int]]], weights: Sequence[float], pad: int, linear_cost: float
) -> dict[str, Any]:
    """Return training rows as a batch of trees, with logits at the nodes before completion tokens only.

    Args:
        pairs: token ids of a prompt and of its completion, a row each.
        weights: what each row counts.
        pad: id that fills up.
        linear_cost: see ``groups``; 0 makes each row a tree of its own.

    Returns:
        The model's inputs, with Boolean ``logits_to_keep`` (trees, nodes); ``labels`` (completion tokens,
        row by row), ``nodes`` (which of the kept logits predicts each), and ``weights`` a label.
    """
    rows = [prompt + completion for prompt, completion in pairs]
    read = [row[:-1] for row in rows]  # after a last token nothing is predicted
    parts = groups(read, linear_cost) if linear_cost else [[i] for i in range(len(rows))]
    trees = [grow([read[i] for i in part]) for part in parts]
    batch = stack(trees, pad)
    places: list[tuple[int, int]] = []
    labels: list[int] = []
    counts: list[float] = []
    for number, part in enumerate(parts):
        for i, path in zip(part, trees[number].paths, strict=True):
            start = max(1, len(pairs[i][0]))  # nothing stands before a first token to predict it
            places += [(number, node) for node in path[start - 1 :]]
            labels += rows[i][start:]
            counts += [weights[i]] * len(rows[i][start:])
    keep, nodes = kept(places, tuple(batch.ids.shape))
    return {
        "weights": torch.tensor(counts),
        "input_ids": batch.ids,
        "attention_mask": batch.mask,
        "position_ids": batch.positions,
        "logits_to_keep": keep,
        "nodes": torch.tensor(nodes, dtype=torch.long),
        "labels": torch.tensor(labels, dtype=torch.long),
        # So that Trainer counts all of them: there is nothing to shift.
        "shift_labels": torch.tensor(labels, dtype=torch.long),
    }
