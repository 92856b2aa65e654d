"""Vetting: models as they are published pass."""

import json
from pathlib import Path
from typing import Any

import adapters
import pytest

from pytest_finetune.engine import vetting
from pytest_finetune.errors import SuiteError
from pytest_finetune.records import Model

KINDS = (
    *("bloom", "deepseek_v3", "falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox"),
    *("granite", "llama", "mamba", "mistral", "mixtral", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3"),
    *("qwen3_moe", "smollm3", "stablelm", "starcoder2"),
)
# What published configurations hold beside the keys of their classes, now and from earlier versions.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen2.5": {"model_type": "qwen2", "use_mrope": False, "torch_dtype": "bfloat16", "max_window_layers": 21},
    "SmolLM2": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "is_llama_config": True,
        "rope_interleaved": False,
        "rope_scaling": None,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}, "device": "webgpu"},
        "transformers_version": "4.42.3",
    },
    "Llama-3.2": {
        "model_type": "llama",
        "eos_token_id": [128001, 128008, 128009],
        "rope_scaling": {"factor": 32.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "_name_or_path": "meta-llama/Llama-3.2-1B",
        "unsloth_fixed": True,
    },
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_ctx": 1024,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "prefix": "</s>"}},
    },
    "in NF4": {
        "model_type": "llama",
        "quantization_config": {
            "_load_in_4bit": True,
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_quant_type": "nf4",
            "llm_int8_skip_modules": ["lm_head", "model.layers.0"],
            "quant_method": "bitsandbytes",
        },
    },
    "gpt-oss": {
        "model_type": "gpt_oss",
        "quantization_config": {
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
            "quant_method": "mxfp4",
        },
    },
    "by GPTQModel": {
        "model_type": "llama",
        "quantization_config": {
            "bits": 4,
            "dynamic": None,
            "meta": {"quantizer": ["gptqmodel:1.4.2"], "uri": "https://github.com/modelcloud/gptqmodel"},
            "quant_method": "gptq",
        },
    },
    "by LLM Compressor": {
        "model_type": "llama",
        "quantization_config": {
            "config_groups": {
                "group_0": {"targets": ["Linear", r"re:.*self_attn\.q_proj$"], "weights": {"num_bits": 8}}
            },
            "ignore": ["re:.*lm_head", "re:^visual.*", "re:.*router", "re:.*mlp.gate$"],
            "quant_method": "compressed-tensors",
        },
    },
    "Qwen2.5-1M": {
        "model_type": "qwen2",
        "dual_chunk_attention_config": {"chunk_size": 262144, "local_size": 8192},
    },
}


def config(kind: str) -> dict[str, Any]:
    """Return a configuration as transformers saves it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found: dict[str, Any] = json.loads(CONFIG_MAPPING[kind]().to_json_string(use_diff=False))
    return found


@pytest.mark.slow
@pytest.mark.attack(8)
@pytest.mark.parametrize("kind", KINDS)
def test_usual_architectures_pass(kind: str, tmp_path: Path) -> None:
    """A configuration that transformers itself saved is refused for nothing."""
    (tmp_path / "config.json").write_text(json.dumps(config(kind)))
    vetting.vet(Model(kind, "", str(tmp_path)))


@pytest.mark.slow
@pytest.mark.attack(8)
@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_published_configurations_pass(published: dict[str, Any], tmp_path: Path) -> None:
    """Nor is one for what others wrote into it."""
    (tmp_path / "config.json").write_text(json.dumps({**config(published["model_type"]), **published}))
    vetting.vet(Model("published", "", str(tmp_path)))


@pytest.mark.slow
@pytest.mark.attack(8)
@pytest.mark.parametrize("name", ["a.*.*.*.b", ".*", "a.*", "(a.*.b)*x", "a.*b.c", "re:.*.*.*.*x", "re:(a+)+b"])
def test_spared_modules_are_no_expressions(name: str, tmp_path: Path) -> None:
    """Modules that stay as they are may leave a layer's number open, and are matched by nothing else."""
    quantised = {"quant_method": "mxfp4", "modules_to_not_convert": [name]}
    (tmp_path / "config.json").write_text(json.dumps({**config("gpt_oss"), "quantization_config": quantised}))
    with pytest.raises(SuiteError, match=r"quantization_config: .* neither paths nor expressions"):
        vetting.vet(Model("gpt-oss", "", str(tmp_path)))


@pytest.mark.slow
@pytest.mark.attack(8)
def test_parts_are_vetted_like_the_whole(tmp_path: Path) -> None:
    """A part of a model, such as its text decoder, may ask for no more than a whole one."""
    for change in ({"vision_config": {"model_type": "evil"}}, {"text_config": {"attn_implementation": "org/kernel"}}):
        (tmp_path / "config.json").write_text(json.dumps({**config("gemma3"), **change}))
        with pytest.raises(SuiteError, match=r"config\.json"):
            vetting.vet(Model("gemma3", "", str(tmp_path)))
    opened = '{"model_type": "gemma3", "vision_config": ' * 700
    (tmp_path / "config.json").write_text(f"{opened}{{}}{'}' * 700}")
    with pytest.raises(SuiteError, match=r"config\.json: "):
        vetting.vet(Model("gemma3", "", str(tmp_path)))


@pytest.mark.slow
@pytest.mark.attack(9, 10, 13)
def test_what_peft_sees_of_an_adapter(tmp_path: Path) -> None:
    """Nothing of a configuration that fetches, imports or renders anything reaches peft, and nothing of no kind's."""
    evil: dict[str, Any] = {
        "base_model_name_or_path": "org/evil",
        "revision": "evil",
        "auto_mapping": {"parent_library": "evil"},
        "tokenizer_name_or_path": "org/evil",
        "tokenizer_kwargs": {"trust_remote_code": True},
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "x",
        "megatron_config": {"a": 1},
        "megatron_core": "evil",
        "runtime_config": {},
        "unheard_of": "x",
    }
    adapters.lora(tmp_path / "lora", 1)
    adapters.soft_prompt(tmp_path / "soft", 1)
    for folder in (tmp_path / "lora", tmp_path / "soft"):
        file = folder / vetting.ADAPTER_CONFIG
        plain = vetting.adapter_settings(folder)
        file.write_text(json.dumps({**json.loads(file.read_text()), **evil}))
        assert vetting.adapter_settings(folder) == plain
        assert not evil.keys() & plain.keys()


@pytest.mark.attack(15)
@pytest.mark.parametrize("folder", ["snapshots/1a2b", "snapshots/1a2b/adapters/first"])
def test_links_of_the_hubs_cache(folder: str, tmp_path: Path) -> None:
    """An adapter may lie in the hub's cache, also in a folder of its repository, and link to the blobs; no further."""
    adapter = tmp_path / "models--org--name" / folder
    adapter.mkdir(parents=True)
    (tmp_path / "models--org--name" / "blobs").mkdir()
    (tmp_path / "models--org--name" / "blobs" / "c3d4").write_text("{}")
    link = adapter / vetting.ADAPTER_CONFIG
    link.symlink_to(tmp_path / "models--org--name" / "blobs" / "c3d4")
    vetting.check_links(adapter)
    for elsewhere in (tmp_path / "elsewhere", tmp_path / "models--org--name" / "refs"):
        link.unlink()
        link.symlink_to(elsewhere)
        with pytest.raises(SuiteError, match=r"is a link that leads out of the adapter's folder"):
            vetting.check_links(adapter)
