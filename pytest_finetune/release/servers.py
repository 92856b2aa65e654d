"""Servers that load a release while they run: vLLM, and `pytest-finetune serve`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2

from pytest_finetune.engines import api
from pytest_finetune.errors import SuiteError

SECONDS = httpx2.Timeout(300.0, connect=10.0)  # an adapter is read from a disk that may be far away
HELP = {
    401: "it wants a key; name the environment variable that holds it with --load-key-env",
    403: "it lets nobody load adapters; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True (vLLM), or with "
    "--adapters-from DIR (pytest-finetune serve), where DIR holds the releases",
}
HELP[404] = HELP[405] = HELP[403]
LOADED = "already been loaded"  # as vLLM says it, with status 400


def load(urls: Sequence[str], digest: str, folder: Path, key_env: str = "") -> None:
    """Have servers load a release, called by its digest: vLLM keeps prefixes of a name that is used again.

    Args:
        urls: the servers, with or without ``/v1``.
        digest: of the adapter.
        folder: the release, which the servers see under the same path.
        key_env: environment variable with the key that they want, if they do.

    Raises:
        SuiteError: one of them does not serve it.
    """
    if not urls:
        return
    if not (folder / "adapter_config.json").is_file():
        raise SuiteError(
            f"--load: {folder} holds no adapter for a base model, which is what servers load; restart them"
        )
    if key_env and not os.environ.get(key_env):
        raise SuiteError(f"--load-key-env={key_env}: the environment has no such variable")
    if key_env and not (os.environ[key_env].isascii() and os.environ[key_env].isprintable()):
        raise SuiteError(f"--load-key-env={key_env}: no key for HTTP, which takes printable ASCII; export it again")
    headers = {"authorization": f"Bearer {os.environ[key_env]}"} if key_env else {}
    # No proxy of the environment's, and no redirect: the path of a release and the key go to this server only.
    with httpx2.Client(timeout=SECONDS, headers=headers, trust_env=False, follow_redirects=False) as client:
        for url in urls:
            _load(client, api(url, "--load"), digest, folder.resolve())


def _load(client: httpx2.Client, api: str, digest: str, folder: Path) -> None:
    if digest in _served(client, api):
        return
    asked = {"lora_name": digest, "lora_path": str(folder)}
    answer = _ask(client, "POST", f"{api}/load_lora_adapter", json=asked)
    if answer.status_code != httpx2.codes.OK and LOADED not in answer.text:
        raise _refusal(f"{api}/load_lora_adapter", answer)
    if digest not in _served(client, api):
        raise SuiteError(
            f"--load={api}: said that it loaded {digest}, and does not list it in /models; look at its log"
        )


def _served(client: httpx2.Client, api: str) -> set[str]:
    answer = _ask(client, "GET", f"{api}/models")
    if answer.status_code != httpx2.codes.OK:
        raise _refusal(f"{api}/models", answer)
    try:
        return {str(model["id"]) for model in answer.json()["data"]}
    except (ValueError, KeyError, TypeError):
        raise SuiteError(
            f"--load={api}/models: answered what is no list of models; name an OpenAI-compatible server"
        ) from None


def _ask(client: httpx2.Client, method: str, url: str, **more: Any) -> httpx2.Response:
    try:
        return client.request(method, url, **more)
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:  # the last of names of hosts
        raise SuiteError(f"--load={url}: no answer: {str(error) or type(error).__name__}") from None


def _refusal(url: str, answer: httpx2.Response) -> SuiteError:
    try:
        error = answer.json()["error"]
        said = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        said = ""
    # vLLM says 404 of a path without an adapter, too, and then says so.
    reasons = [said[:300], HELP.get(answer.status_code, "") if not said or answer.status_code != 404 else ""]
    return SuiteError(
        f"--load={url}: status {answer.status_code}: {'; '.join(filter(None, reasons)) or 'no reason given'}"
    )
