"""The Hugging Face hub: whether a model can be had, found out without the network."""

import os
from functools import cache

from pytest_finetune.errors import EngineError, one_line

SECONDS = 10.0  # for which the hub may think about a question
BUSY = {429, 500, 502, 503, 504}
TRUE = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads its switches


def offline() -> bool:
    """Whether the environment forbids asking the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE


def reachable(model: str, revision: str) -> bool:
    """Whether the hub may be asked, or the model is in the local cache."""
    if not offline():
        return True
    from huggingface_hub import try_to_load_from_cache  # 0.3 s to import; only suites that need the hub ask

    return isinstance(try_to_load_from_cache(model, "config.json", revision=revision), str)


def check(model: str, revision: str) -> None:
    """Have a model's configuration in the local cache, and go by the cache alone where the hub gives nothing.

    Raises:
        EngineError: the hub cannot be reached or asks to wait, and no copy is cached.
    """
    if reason := _reason(model, revision):
        raise EngineError(
            f"model {model!r} is not in the local cache, and the hub gives nothing: {reason}; "
            "run it again later, or name a folder that holds the model"
        )


@cache  # each round of the hub's own retries takes half a minute, and every test that needs the model asks
def _reason(model: str, revision: str) -> str:
    from huggingface_hub import HfApi, constants, errors, hf_hub_download  # 0.3 s; only suites that need the hub ask

    try:
        hf_hub_download(model, "config.json", revision=revision)
    except errors.LocalEntryNotFoundError as error:
        return one_line(error.__cause__ or error, 200)
    except (errors.HfHubHTTPError, errors.EntryNotFoundError, ValueError):  # whoever loads the model says so
        return ""
    if offline():
        return ""
    try:
        HfApi().model_info(model, revision=revision, timeout=SECONDS)
    except errors.HfHubHTTPError as error:
        constants.HF_HUB_OFFLINE = error.response.status_code in BUSY
    except Exception:  # of whatever the hub's client speaks HTTP with
        constants.HF_HUB_OFFLINE = True  # or each file that the cache lacks would be asked for again and again
    return ""
