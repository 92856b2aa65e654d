"""The Hugging Face hub: whether a model can be had, found out without the network."""

import os

TRUE = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads its switches


def reachable(model: str, revision: str) -> bool:
    """Whether the hub may be asked, or the model is in the local cache."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() not in TRUE:
        return True
    from huggingface_hub import try_to_load_from_cache  # 0.3 s to import; only suites that need the hub ask

    return isinstance(try_to_load_from_cache(model, "config.json", revision=revision), str)
