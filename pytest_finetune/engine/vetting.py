"""Vetting: what the files of a model or an adapter may ask of the libraries that read them.

Whoever made them wrote them, and transformers and peft do as they say: import a module, fetch a kernel from the hub,
compile an expression, make a tensor of any size. So they are read here first, as JSON and no more.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from pytest_finetune import hub
from pytest_finetune.errors import SuiteError, one_line
from pytest_finetune.modelfiles import INDEX, shapes_in, shards, table
from pytest_finetune.records import Model

CONFIG = "config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TRUST = "--finetune-trust-remote-code"
PLAIN = re.compile(r"[\w .-]{0,300}")  # no path, no repository, no expression
MOST_ITEMS = 100_000
MOST = 1 << 40  # of any whole number
# Which numbers say how much is made, before weights are looked at: at most so many modules, and so wide ones.
SIZED, COUNTED = re.compile("size"), re.compile("layer|expert|head|block|depth|label")
MOST_MODULES, MOST_WIDTH = 1 << 16, 1 << 26
PACKED = 8  # weights in one number of a file, at most: eight of 4 bits in an int32
QUANTISED = ("bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors", "mxfp4")
QUANTISATION, SPARED = "quantization_config", "modules_to_not_convert"
# In names of modules, as gpt-oss and compressed-tensors have them: a few cannot take long to match.
ANY_LAYER, ANY, EXPRESSION = re.compile(r"\.\*(?=\.)"), re.compile(r"\.\*"), "re:"
# Tables that were written for others, or before a configuration class had a place for them.
OLD = {
    "dual_chunk_attention_config",
    "rope_parameters",
    "rope_scaling",
    "task_specific_params",
    "transformers.js_config",
}
LAYERS = "per_layer_config"  # a configuration of its own for some layers
TEXTS = {"_name_or_path", "name_or_path", "id2label", "label2id", "task_specific_params"}  # of which nothing is made
# What an adapter's configuration says for whoever trains it, or finds its base model by it: peft never sees it.
UNREAD = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "inference_mode",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "revision",
    "runtime_config",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
}


def vet(model: Model) -> None:
    """Refuse a model whose files ask for code, or for more than a model of their kind can be.

    Raises:
        SuiteError: naming the file, what it asks for and the remedy.
    """
    for name, check in CHECKS.items():
        file = _file(model, name)
        if file is not None:
            try:
                check(file, model)
            except RecursionError:  # parts of parts of parts
                raise SuiteError(f"{file}: is nested too deeply; download the model again") from None


def check_links(folder: Path) -> None:
    """Refuse links that lead out of an adapter's folder, but for those of the hub's cache to its own blobs.

    Raises:
        SuiteError: naming the first.
    """
    home = folder.resolve()
    blobs = [above.parent / "blobs" for above in home.parents if above.name == "snapshots"]
    for path in sorted(folder.iterdir()):
        place = path.resolve()
        if path.is_symlink() and not place.is_relative_to(home) and place.parent not in blobs:
            raise SuiteError(f"{path}: is a link that leads out of the adapter's folder; copy the file into it")


def configuration(model: Model) -> dict[str, Any]:
    """Return a model's configuration as it is written, empty where it has none.

    Raises:
        SuiteError: it cannot be read.
    """
    file = _file(model, CONFIG)
    return table(file) if file else {}


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return what peft may know of an adapter's configuration: values that are plain, of keys that its kind has.

    Raises:
        SuiteError: naming the file, the value and the remedy.
    """
    file = folder / ADAPTER_CONFIG
    found = table(file)
    kind = found.get("peft_type")
    if not isinstance(kind, str):
        raise SuiteError(f"{file}: it names no peft_type; save the adapter again")
    fields = _adapter_fields(kind)
    if fields is None:
        raise SuiteError(f"{file}: peft_type {kind[:50]!r} is not supported; take LORA, PROMPT_TUNING or another")
    kept = {name: value for name, value in found.items() if name in fields - UNREAD}
    for name, value in kept.items():
        _check_plain(file, name, value)
    if (weights := folder / ADAPTER_WEIGHTS).is_file():
        widest = max((size for shape in shapes_in(weights).values() for size in shape), default=0)
        wide = {"r": kept.get("r"), "num_virtual_tokens": kept.get("num_virtual_tokens")}
        if isinstance(ranks := kept.get("rank_pattern"), dict):
            wide |= {f"rank_pattern {key}": rank for key, rank in ranks.items()}
        for name, value in wide.items():
            if isinstance(value, int) and not 0 <= value <= widest:
                raise SuiteError(
                    f"{file}: {name} = {value}, and no tensor of {weights.name} has more than {widest} rows; "
                    "save the adapter again"
                )
    return kept


# --- models ----------------------------------------------------------------------------------


def _file(model: Model, name: str) -> Path | None:
    """Return a model's file of that name, where it has one; of a hub's model it is fetched."""
    if model.path:
        path = Path(model.path, name)
        return path if path.exists() else None
    hub.check(model.name, model.revision)
    try:
        return _fetched(model.name, model.revision, name)
    except OSError as error:
        raise SuiteError(f"model {model.name!r} cannot be loaded: {one_line(error)}") from error


@cache  # a revision stays what it is, and a hub that cannot be reached takes long to say so
def _fetched(model: str, revision: str, name: str) -> Path | None:
    from transformers.utils import cached_file

    found = cached_file(model, name, revision=revision or None, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


def _check_config(file: Path, model: Model) -> None:
    """Refuse a configuration of no causal language model that transformers has, or with values that do more."""
    found = table(file)
    if _runs_code(file, found, model):
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MULTIMODAL,
    )

    kind = found.get("model_type")
    if not isinstance(kind, str) or kind not in CAUSAL:
        raise SuiteError(
            f"{file}: model_type {str(kind)[:50]!r} is no causal language model of transformers'; take one that is"
        )
    known = {name for names in (*CAUSAL.values(), *MULTIMODAL.values()) for name in _listed(names)}
    for name in _listed(found.get("architectures") or ()):
        if name not in known:
            raise SuiteError(
                f"{file}: architectures {str(name)[:50]!r} is no causal language model of transformers'; "
                "take one that is"
            )
    config = CONFIG_MAPPING[kind]
    _check_keys(file, found, config)
    if model.path:
        _check_sizes(file, found, config)


def _check_keys(file: Path, found: dict[str, Any], config: Any) -> None:
    """Refuse what is neither plain nor one of a configuration class's own keys."""
    from dataclasses import fields

    own = {field.name for field in fields(config)} | config.attribute_map.keys()
    standard = {name: key for key, name in config.attribute_map.items()}
    for key, value in found.items():
        part = config.sub_configs.get(key)
        if part is not None and isinstance(value, dict):
            _check_keys(file, value, _part(file, value, part))
        elif key == LAYERS and isinstance(value, dict):
            for layer in value.values():
                _check_keys(file, layer if isinstance(layer, dict) else {key: layer}, config)
        elif key == QUANTISATION and isinstance(value, dict):
            _check_plain(file, key, _quantisation(value))
        elif isinstance(value, dict) and value and key not in own | OLD:
            raise SuiteError(f"{file}: {key} is no key of a {config.model_type} model's; take it out")
        elif key not in TEXTS:
            _check_plain(file, key, value)
            _check_number(file, standard.get(key, key), value)
    quantised = found.get(QUANTISATION) or {}
    if not isinstance(quantised, dict) or quantised.get("quant_method", QUANTISED[0]) not in QUANTISED:
        raise SuiteError(
            f"{file}: {QUANTISATION}: {str(quantised)[:80]!r} is none of {', '.join(QUANTISED)}; take a model "
            "that is, or that is not quantised"
        )


def _quantisation(value: dict[str, Any]) -> dict[str, Any]:
    """Return what of a quantisation must be plain: who made it says an address, and names may leave a layer open."""
    kept: dict[str, Any] = _closed({key: part for key, part in value.items() if key != "meta"})
    if isinstance(names := kept.get(SPARED), list):
        kept[SPARED] = [ANY_LAYER.sub("", name, 2) if isinstance(name, str) else name for name in names]
    return kept


def _closed(value: Any) -> Any:
    """Return plain data without what stands for any characters in expressions of which that is all."""
    if isinstance(value, dict):
        return {key: _closed(part) for key, part in value.items()}
    if isinstance(value, list):
        return list(map(_closed, value))
    if isinstance(value, str) and value.startswith(EXPRESSION):
        name = value.removeprefix(EXPRESSION).removeprefix("^").removesuffix("$").replace(r"\.", ".")
        return ANY.sub("", name, 3)
    return value


def _part(file: Path, value: dict[str, Any], part: Any) -> Any:
    """Return the configuration class of a part of a model, such as its text decoder."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if part is not AutoConfig:
        return part
    kind = value.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise SuiteError(f"{file}: model_type {str(kind)[:50]!r} of a part is not transformers'; take another model")
    return CONFIG_MAPPING[kind]


def _check_number(file: Path, name: str, value: Any) -> None:
    most = MOST_WIDTH if SIZED.search(name) else MOST_MODULES if COUNTED.search(name) else MOST
    if isinstance(value, int) and value > most:
        raise SuiteError(f"{file}: {name} = {str(value)[:40]} is no size of a model; take one of {most} at most")


def _check_sizes(file: Path, found: dict[str, Any], config: Any) -> None:
    """Refuse more layers, or a larger vocabulary, than there are weights for: the rest would be made up."""
    shapes = {name: s for path in file.parent.glob("*.safetensors") for name, s in shapes_in(path).items()}
    most = PACKED * sum(map(prod, shapes.values()))
    text = found.get("text_config")
    if isinstance(text, dict):
        found, config = text, _part(file, text, config.sub_configs["text_config"])
    layers, hidden, vocabulary = (
        value if isinstance(value := found.get(config.attribute_map.get(name, name), found.get(name)), int) else 0
        for name in ("num_hidden_layers", "hidden_size", "vocab_size")
    )
    if shapes and (layers > len(shapes) or hidden * vocabulary > most):
        raise SuiteError(
            f"{file}: {layers} layers and {vocabulary} tokens of {hidden} numbers are more than its weights hold; "
            "download the model again"
        )


def _check_tokenizer(file: Path, model: Model) -> None:
    """Refuse a tokenizer of code of its own, or with arguments that its class would take by their place."""
    found = table(file)
    if not _runs_code(file, found, model) and found.get("init_inputs"):
        raise SuiteError(f"{file}: init_inputs is not taken; save the tokenizer again")


def _check_generation(file: Path, model: Model) -> None:
    found = table(file)
    _runs_code(file, found, model)
    for key, value in found.items():
        if key not in TEXTS:
            _check_plain(file, key, value)


def _check_shards(file: Path, model: Model) -> None:
    shards(file)


def _refuse_adapter(file: Path, model: Model) -> None:
    raise SuiteError(
        f"{file}: an adapter lies in the folder of model {model.name!r}, and transformers would put it on; "
        "name a folder that holds the model alone"
    )


def _runs_code(file: Path, found: dict[str, Any], model: Model) -> bool:
    """Whether the model's own code is to be run, which has its own keys then.

    Raises:
        SuiteError: nobody allowed that, or it is another repository's.
    """
    asked = found.get("auto_map")
    if not asked:
        return False
    if not model.remote_code:
        raise SuiteError(
            f"{file}: auto_map runs the model's own code; take a copy without that key, where transformers has the "
            f"architecture, or read the code and give {TRUST} on the command line"
        )
    if "--" in json.dumps(asked):
        raise SuiteError(
            f"{file}: auto_map runs code of another repository, which is not pinned; copy it beside the model"
        )
    return True


CHECKS: dict[str, Callable[[Path, Model], None]] = {
    ADAPTER_CONFIG: _refuse_adapter,
    CONFIG: _check_config,
    "generation_config.json": _check_generation,
    INDEX: _check_shards,
    "special_tokens_map.json": _check_tokenizer,
    "tokenizer_config.json": _check_tokenizer,
}


# --- adapters --------------------------------------------------------------------------------


def _adapter_fields(kind: str) -> set[str] | None:
    """Return the keys of a kind of adapter's configuration; None of a kind that is not loaded.

    X-LoRA's names other adapters, and the others put more than tokens before a text.
    """
    from dataclasses import fields

    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if kind in ("PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE", "XLORA"):
        return None
    config = PEFT_TYPE_TO_CONFIG_MAPPING.get(kind)
    return None if config is None else {field.name for field in fields(config)}


# --- values ----------------------------------------------------------------------------------


def _check_plain(file: Path, name: str, value: Any) -> None:
    """Refuse a value with a string that could name a file, a repository or an expression, or with a huge number."""
    for number, part in enumerate(_parts(value)):
        if number > MOST_ITEMS:
            raise SuiteError(f"{file}: {name} has more than {MOST_ITEMS} parts; save it again")
        if isinstance(part, str) and not PLAIN.fullmatch(part):
            raise SuiteError(
                f"{file}: {name}: {part[:80]!r} is no plain name; write names, and neither paths nor expressions"
            )
        if isinstance(part, int) and abs(part) > MOST:
            raise SuiteError(f"{file}: {name}: the number {str(part)[:40]} is too large; save it again")


def _parts(value: Any) -> Iterator[Any]:
    """Yield the strings and numbers in a value, keys included, however deep it is."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one
        else:
            yield one


def _listed(names: Any) -> tuple[Any, ...]:
    return tuple(names) if isinstance(names, list | tuple) else (names,)
