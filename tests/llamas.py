"""Shapes of published models, from the numbers in their config.json."""

from typing import Any, NamedTuple


class Llama(NamedTuple):
    """The sizes of a decoder of Llama's form, and the parameters that its authors count."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool
    parameters: int

    @property
    def config(self) -> dict[str, Any]:
        """The config.json."""
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
        }

    def tensors(self, biases: bool) -> dict[str, tuple[int, ...]]:
        """The tensors by name; Qwen2 has biases on its queries, keys and values."""
        hidden, inner = self.hidden, self.intermediate
        key_value = hidden // self.heads * self.key_value_heads
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, hidden),
            "model.norm.weight": (hidden,),
        }
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocabulary, hidden)
        layer = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (key_value, hidden),
            "self_attn.v_proj": (key_value, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        for index in range(self.layers):
            for name, shape in layer.items():
                shapes[f"model.layers.{index}.{name}.weight"] = shape
                if biases and name[-6:] in ("q_proj", "k_proj", "v_proj"):
                    shapes[f"model.layers.{index}.{name}.bias"] = shape[:1]
        return shapes


PUBLISHED = {
    "Qwen2.5-0.5B": Llama(24, 896, 4864, 14, 2, 151936, True, 494_032_768),
    "Qwen2.5-1.5B": Llama(28, 1536, 8960, 12, 2, 151936, True, 1_543_714_304),
    "Qwen2.5-7B": Llama(28, 3584, 18944, 28, 4, 152064, False, 7_615_616_512),
    "Llama-2-7B": Llama(32, 4096, 11008, 32, 32, 32000, False, 6_738_415_616),
    "Llama-3.1-8B": Llama(32, 4096, 14336, 32, 8, 128256, False, 8_030_261_248),
    "Llama-3.1-70B": Llama(80, 8192, 28672, 64, 8, 128256, False, 70_553_706_496),
}
