"""Mimetic initialisation: attention starts out able to copy; everything is then trained.

Layer 0 gets two previous-token heads (one and two back), layers 1 to 3 two induction heads each,
which find an earlier occurrence of the current token and attend to what followed it. Without this
the model shows no copying at all within a million tokens.

Source: Trockman and Kolter 2023 (arXiv 2305.09828) for the idea, Olsson et al. 2022
(arXiv 2209.11895) for the induction circuit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_EMBEDDING_STD = 0.1
_CONSTANT = 0.3  # value of embedding dimension 0, the same for every token
_FAST_SHARE = 0.45  # share of rotary frequencies that carry position; the rest carry content
_POSITION_LOGIT = 12.0
_OUTPUT_GAIN = 0.2
_INDUCTION_LAYERS = (1, 2, 3)


def _orthonormal(rows: int, columns: int) -> torch.Tensor:
    basis: torch.Tensor = torch.linalg.qr(torch.randn(columns, rows))[0]
    return basis.T  # (rows, columns)


@torch.no_grad()
def initialise(model: LlamaForCausalLM) -> None:
    """Overwrite all weights of `model`, from torch's global random state.

    Args:
        model: hidden size d, heads of h dimensions, at least two heads and four layers.

    """
    config = model.config
    d, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    layers = model.model.layers
    embedding = model.model.embed_tokens.weight
    embedding.normal_(std=_EMBEDDING_STD)
    embedding[:, 0] = _CONSTANT
    for layer in layers:
        attention, mlp = layer.self_attn, layer.mlp
        readers_of_stream = attention.q_proj, attention.k_proj, attention.v_proj
        for projection in (*readers_of_stream, mlp.gate_proj, mlp.up_proj):
            projection.weight.normal_(std=0.8 / math.sqrt(d))
        attention.o_proj.weight.zero_()
        mlp.down_proj.weight.zero_()

    frequencies = model.model.rotary_emb.inv_freq  # (head / 2,)
    half = head // 2
    fast = int(half * _FAST_SHARE)
    root_mean_square = math.sqrt((_CONSTANT**2 + (d - 1) * _EMBEDDING_STD**2) / d)
    constant = _CONSTANT / root_mean_square  # what RMSNorm makes of it
    amplitude = math.sqrt(_POSITION_LOGIT * math.sqrt(head)) / constant
    readers, writers = [], []
    first = layers[0].self_attn
    for number, back in enumerate((1, 2)):
        at = slice(number * head, (number + 1) * head)
        # a constant query turned `back` steps: its product with a constant key peaks `back` behind
        query, key = torch.zeros(head), torch.zeros(head)
        query[:fast] = torch.cos(-back * frequencies[:fast])
        query[half : half + fast] = torch.sin(-back * frequencies[:fast])
        key[:fast] = 1
        first.q_proj.weight[at] = 0
        first.k_proj.weight[at] = 0
        first.q_proj.weight[at, 0] = amplitude * query
        first.k_proj.weight[at, 0] = amplitude * key
        reader, writer = _orthonormal(head, d), _orthonormal(head, d)
        reader[:, 0] = writer[:, 0] = 0
        first.v_proj.weight[at] = reader
        first.o_proj.weight[:, at] = _OUTPUT_GAIN * writer.T
        readers.append(reader)
        writers.append(writer)

    slow = half - fast
    norm = math.sqrt(_EMBEDDING_STD**2 + 0.9 * _OUTPUT_GAIN**2 * 2 * head / d)
    gain = math.sqrt(math.sqrt(head) * norm / _OUTPUT_GAIN)
    for index in _INDUCTION_LAYERS:
        attention = layers[index].self_attn
        for number in range(2):
            back = 1 if index == 2 and number == 1 else 0
            at = slice(number * head, (number + 1) * head)
            # content must not turn with position: slow rotary frequencies only
            mixer, basis = torch.zeros(head, head), _orthonormal(2 * slow, head)
            mixer[fast:half], mixer[half + fast :] = basis[:slow], basis[slow:]
            attention.q_proj.weight[at] = gain * mixer @ readers[back]  # the token here
            attention.k_proj.weight[at] = gain * mixer @ writers[back]  # the token before there
            copier = _orthonormal(head, d)
            copier[:, 0] = 0
            attention.v_proj.weight[at] = copier
            attention.o_proj.weight[:, at] = _OUTPUT_GAIN * copier.T
