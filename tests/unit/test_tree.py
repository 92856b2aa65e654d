"""Token trees, and passes over them: what is shared gives the numbers of what is not."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_finetune import digest
from pytest_finetune.engine.adapters import prepare
from pytest_finetune.engine.batches import alike, parts
from pytest_finetune.engine.generate import generate
from pytest_finetune.engine.models import Loaded, Models, context_tokens, load_base, load_tokenizer
from pytest_finetune.engine.score import score
from pytest_finetune.engine.template import prompt_tokens
from pytest_finetune.engine.tree import collate, common, groups, grow, stack
from pytest_finetune.records import PLAIN, Generation, Message, Model, Training

EMBEDDED = Model("embedded", "", str(digest.PACKAGE / "embedded"))
CPU = torch.device("cpu")
ROWS = st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=12), min_size=1, max_size=8)
SYSTEM = Message("system", "Name the intent. " * 8)
TEXTS = ["Wake me.", "Bake a cake, please.", "A cab to the airport", "Wake me.", "Lend me some", "yoga"] * 2
SHARED = tuple((SYSTEM, Message("user", text)) for text in TEXTS)
APART = tuple((Message("user", f"{number} {text}"),) for number, text in enumerate(TEXTS))


class Plain(Loaded):
    """The same model, of which no rows share anything."""

    shares = False


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """The embedded model."""
    return Models(CPU).get(EMBEDDED)


@given(ROWS)
def test_paths_are_the_rows(rows: list[list[int]]) -> None:
    """A row's path through the tree spells the row, and no two nodes stand for the same beginning."""
    tree = grow(rows)
    assert [[tree.ids[node] for node in path] for path in tree.paths] == rows
    assert all([tree.depths[node] for node in path] == list(range(len(path))) for path in tree.paths)
    assert len(tree.ids) == len({tuple(row[: end + 1]) for row in rows for end in range(len(row))})


@given(ROWS, st.integers(0, 3))
def test_nodes_attend_to_their_own_way(rows: list[list[int]], past: int) -> None:
    """The mask lets a node see what is in the cache, its own way from the root, and nothing else of its tree."""
    tree = grow(rows)
    mask = stack([tree, grow([[3, 4], [3, 5]])], 0, past).mask
    if mask.dim() == 2:
        return
    for path in tree.paths:
        for place, node in enumerate(path):
            seen = set(mask[0, 0, node].nonzero().flatten().tolist())
            assert seen == {*range(past), *(past + above for above in path[: place + 1])}


@given(ROWS, st.floats(1, 1e4), st.integers(0, 9))
def test_groups_are_all_rows(rows: list[list[int]], weight: float, steps: int) -> None:
    """However rows are grouped, each is in one group."""
    assert sorted(i for group in groups(rows, weight, 3, steps) for i in group) == list(range(len(rows)))


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common(one: list[int], other: list[int]) -> None:
    """What two rows have in common is their longest common beginning."""
    expected = next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
    assert common(one, other) == expected


@given(ROWS)
def test_parts_begin_alike(rows: list[list[int]]) -> None:
    """Every row is in one part, begins with its prefix, and has a token left whose logits are wanted."""
    long = [[9] * (17 * (len(row) % 2)) + row for row in rows] * 3
    found = parts(long, 0)
    assert sorted(i for part in found for i in part.rows) == list(range(len(long)))
    for part in found:
        assert all(long[i][: len(part.prefix)] == part.prefix and len(long[i]) > len(part.prefix) for i in part.rows)


def test_few_rows_alike_are_no_kind() -> None:
    """A beginning that only a few rows have does not get a batch of its own."""
    assert alike([[1] * 20] * 8 + [[2] * 20] * 2) == [1] * 8 + [0] * 2


@pytest.mark.parametrize("method", ["lora", "full", "soft_prompt"])
def test_shared_training_is_exact(method: str, tmp_path: Path) -> None:
    """Loss and gradients of a batch that shares its prompt are those of its rows apart."""
    tuned = prepare(load_base(EMBEDDED, CPU, method), EMBEDDED, Training(method=method), tmp_path)
    virtual = 20 if method == "soft_prompt" else 0
    start = [0] * virtual + list(range(5, 65))
    pairs = [(start + [7] * row, [8, 9 + row, 4]) for row in range(1, 6)] + [([0] * virtual + [11, 12], [13, 4])]

    def step(weight: float) -> tuple[Any, list[torch.Tensor], int]:
        inputs = collate(pairs, [1.0, 2.0, 1.0, 1.0, 1.0, 0.5], 0, weight)
        weights, nodes, labels = (inputs.pop(name) for name in ("weights", "nodes", "labels"))
        tuned.zero_grad()
        logits = tuned(**inputs, use_cache=False).logits[nodes]
        loss = (F.cross_entropy(logits, labels, reduction="none") * weights).sum()
        loss.backward()
        grads = [p.grad.clone() for p in tuned.parameters() if p.grad is not None]
        return loss.item(), grads, inputs["input_ids"].numel()

    shared, apart = step(1000.0), step(0.0)
    assert shared[2] < apart[2] / 3
    assert shared[0] == pytest.approx(apart[0], rel=1e-5)
    assert shared[1]
    for one, other in zip(shared[1], apart[1], strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("prompts", [SHARED, APART, SHARED + APART, tuple((Message(PLAIN, t),) for t in TEXTS)])
def test_shared_answers_are_exact(prompts: Any, loaded: Loaded) -> None:
    """Answers read and written as trees are those of transformers' own generation, token for token."""
    plain = Plain(loaded.model, loaded.tokenizer, loaded.context_tokens, 0)
    for size in (1, 4, 64):
        shared, apart = (generate(one, prompts, Generation(12, size), lambda n, m: None) for one in (loaded, plain))
        assert shared.texts == apart.texts
        if prompts[0][0].role != PLAIN:  # there answers end at a blank line, and transformers goes on
            assert shared.new_tokens == apart.new_tokens


@pytest.mark.parametrize("prompts", [SHARED, APART, SHARED + APART])
def test_shared_likelihoods_are_exact(prompts: Any, loaded: Loaded) -> None:
    """Choices scored as one tree have the likelihoods of each choice by itself."""
    plain = Plain(loaded.model, loaded.tokenizer, loaded.context_tokens, 0)
    choices = ("alarm", "alarm clock", "recipe", "taxi", "al", "alarm")
    shared, apart = (score(one, prompts, choices, lambda n, m: None) for one in (loaded, plain))
    for one, other in zip(shared, apart, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
        assert one[0] == one[5]


@settings(max_examples=10)
@given(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=6), st.integers(1, 5))
def test_answers_do_not_depend_on_company(chosen: list[int], size: int) -> None:
    """An answer is the same whatever is asked with it, and however many at once."""
    loaded = _held()
    alone = {i: generate(loaded, [SHARED[i]], Generation(8, 1), lambda n, m: None).texts[0] for i in set(chosen)}
    together = generate(loaded, [SHARED[i] for i in chosen], Generation(8, size), lambda n, m: None)
    assert together.texts == tuple(alone[i] for i in chosen)


def _held(held: list[Loaded] = []) -> Loaded:  # noqa: B006  # Hypothesis takes no fixture of a narrower scope
    if not held:
        held.append(Models(CPU).get(EMBEDDED))
    return held[0]


ARCHITECTURES = {  # whether tree masks are read: those without are asked row by row
    "qwen2": True,
    "gpt2": True,
    "gpt_neox": True,
    "bloom": False,  # its bias goes by the mask of padding
    "mamba": False,  # no attention at all
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_architectures(kind: str) -> None:
    """Answers and likelihoods are those of transformers' own way, also where a model cannot read a tree."""
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 1536, "hidden_size": 32, "intermediate_size": 64}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.AutoConfig.for_model(kind, **sizes, bos_token_id=None, eos_token_id=4, pad_token_id=0)
    network = transformers.AutoModelForCausalLM.from_config(config).eval()
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.3)  # such that what is wrong shows
    own, plain = (part(network, load_tokenizer(EMBEDDED), 512, 0) for part in (Loaded, Plain))
    assert own.shares == ARCHITECTURES[kind]
    shared, apart = (generate(one, SHARED, Generation(8, 64), lambda n, m: None) for one in (own, plain))
    assert shared.texts == apart.texts
    nats = [score(one, SHARED, ("alarm", "taxi"), lambda n, m: None) for one in (own, plain)]
    for one, other in zip(*nats, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_window_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows longer than a window of attention are asked plainly: a tree would let them see too far."""
    loaded = Models(CPU).get(EMBEDDED)
    assert loaded.spans(700)
    monkeypatch.setattr(loaded.network.config, "sliding_window", 64, raising=False)
    assert loaded.spans(64)
    assert not loaded.spans(65)


def test_adapters_share_one_base(tmp_path: Path) -> None:
    """Base model and several LoRAs are asked in turn on one load, each as if it were alone."""
    import peft

    from pytest_finetune.records import Adapter

    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        tuned = peft.get_peft_model(
            load_base(EMBEDDED, CPU), peft.LoraConfig(r=4 + seed, target_modules="all-linear", init_lora_weights=False)
        )
        tuned.save_pretrained(tmp_path / str(seed))
        folders.append(Adapter(str(tmp_path / str(seed)), f"digest{seed}", "lora"))

    def answers(models: Models, adapter: Adapter | None) -> tuple[tuple[float, ...], ...]:
        return tuple(score(models.get(EMBEDDED, adapter), SHARED[:2], ("alarm", "taxi"), lambda n, m: None))

    alone = [answers(Models(CPU), adapter) for adapter in (None, *folders)]
    together = Models(CPU)
    base = together.get(EMBEDDED).network
    for _ in range(2):
        assert [answers(together, adapter) for adapter in (None, *folders)] == alone
    assert together.get(EMBEDDED, folders[1]).network is base
    assert len(set(alone)) == 3


def test_virtual_tokens_count_as_positions() -> None:
    """A soft prompt stands before the text as peft puts it there: the same answers as by peft's own passes."""
    import peft

    torch.manual_seed(0)
    tuned = peft.get_peft_model(
        load_base(EMBEDDED, CPU), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    ).eval()
    tokenizer = load_tokenizer(EMBEDDED)
    own, plain = (kind(tuned, tokenizer, context_tokens(tuned) - 5, 5) for kind in (Loaded, Plain))
    for prompts in (SHARED, APART):
        shared, apart = (generate(kind, prompts, Generation(8, 5), lambda n, m: None) for kind in (own, plain))
        assert shared.texts == apart.texts
        for prompt, text in zip(prompts, apart.texts, strict=True):
            start = ids = torch.tensor([prompt_tokens(tokenizer, prompt)])
            # Without a cache, and one at a time: peft 0.21 counts the tokens that fill up a row as positions.
            while ids.shape[1] < start.shape[1] + 8 and ids[0, -1] != tokenizer.eos_token_id:
                ids = torch.cat([ids, tuned(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
            assert tokenizer.decode(ids[0, start.shape[1] :], skip_special_tokens=True).strip() == text


@pytest.mark.parametrize("kind", ["lora", "broken", "bias", "pissa", "ia3"])
def test_base_is_what_it_was(kind: str, tmp_path: Path) -> None:
    """Whatever adapter was asked before, or could not be loaded, the base model and other adapters answer as alone."""
    import peft
    import safetensors.torch

    from pytest_finetune.errors import SuiteError
    from pytest_finetune.records import Adapter

    def save(name: str, config: Any) -> Adapter:
        torch.manual_seed(1)
        tuned = peft.get_peft_model(load_base(EMBEDDED, CPU), config)
        for weights in (p for p in tuned.parameters() if p.requires_grad):
            torch.nn.init.normal_(weights, std=0.5)
        tuned.save_pretrained(tmp_path / name)
        return Adapter(str(tmp_path / name), name, "external")

    lora = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    config = {
        "bias": lambda: peft.LoraConfig(bias="all", **lora),
        "pissa": lambda: peft.LoraConfig(init_lora_weights="pissa", **lora),
        "ia3": lambda: peft.IA3Config(
            task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
        ),
    }.get(kind, lambda: peft.LoraConfig(**lora))()
    plain, adapter = save("plain", peft.LoraConfig(r=4, **lora)), save(kind, config)
    models = Models(CPU)

    def nats(asked: Adapter | None) -> tuple[float, ...]:
        return score(models.get(EMBEDDED, asked), SHARED[:1], ("alarm", "taxi"), lambda n, m: None)[0]

    before, other = nats(None), nats(plain)
    if kind == "broken":
        file = tmp_path / kind / "adapter_model.safetensors"
        tensors = safetensors.torch.load_file(file)
        safetensors.torch.save_file({**tensors, sorted(tensors)[-1]: torch.zeros(3, 3)}, file)
        with pytest.raises(SuiteError, match="does not fit"):
            nats(adapter)
    else:
        assert nats(adapter) != before
    assert (nats(None), nats(plain), nats(None)) == (before, other, before)


def test_answers_end_at_the_templates_mark(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark that a chat template writes after an answer ends it, also where the model's own end mark is another."""
    before = generate(loaded, SHARED, Generation(12, 64), lambda n, m: None)
    monkeypatch.setattr(loaded.network.generation_config, "eos_token_id", 3)
    assert generate(loaded, SHARED, Generation(12, 64), lambda n, m: None).new_tokens == before.new_tokens


def test_too_long_to_score_is_refused(loaded: Loaded) -> None:
    """A prompt beyond the context is one line, and not a likelihood of anything."""
    from pytest_finetune.errors import PromptTooLong

    with pytest.raises(PromptTooLong, match="more than the model's context of 768"):
        score(loaded, [(Message("user", "alarm " * 800),)], ("taxi",), lambda n, m: None)


def test_penalties_of_the_model_are_not_taken(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are greedy either way, whatever the model's own generation config says for chatting."""
    before = generate(loaded, SHARED, Generation(12, 64), lambda n, m: None)
    monkeypatch.setattr(loaded.network.generation_config, "repetition_penalty", 3.0)
    monkeypatch.setattr(loaded.network.generation_config, "no_repeat_ngram_size", 1)
    plain = Plain(loaded.model, loaded.tokenizer, loaded.context_tokens, 0)
    assert all(
        generate(one, SHARED, Generation(12, 64), lambda n, m: None).texts == before.texts for one in (loaded, plain)
    )
