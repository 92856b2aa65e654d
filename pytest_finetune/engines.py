"""Engines: what runs the models of a suite, and what one can and cannot do."""

from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import urlsplit

from pytest_finetune import digest
from pytest_finetune.errors import SuiteError, named_choice

Name = Literal["local", "endpoint", "vllm"]
NAMES: tuple[Name, ...] = ("local", "endpoint", "vllm")
LOCAL_CODE = ("batches", "cache", "generate", "kinds", "local", "models", "score", "template", "tree", "vetting")
# By engine, the modules that an answer depends on.
CODE: dict[Name, tuple[str, ...]] = {
    "local": LOCAL_CODE,
    "endpoint": ("endpoint", "kinds", "requests", "served", "template"),
    "vllm": ("kinds", "served", "template", "vetting", "vllm"),
}
LIKELIHOODS, ADAPTERS, TRAINING, TEXTS = "log-likelihoods", "adapters", "training", "prompts without a chat template"
HARNESS = "tasks of lm-eval"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which engine answers for a suite.

    Args:
        name: ``local`` computes in a process of its own, ``vllm`` in one by vLLM, ``endpoint`` asks a server.
        url: the server, with or without ``/v1``.
        model: how the server calls the base model; as the suite does if empty.
        adapter: how it calls the adapter; empty to have it load each under its digest.
        revision: of what the server runs; whoever changes that changes this, and all is asked anew.
        api_key_env: the environment variable with the key that it wants, if it does.
        concurrency: requests at once.
        timeout_seconds: of one request.
        retries: of a request that failed in a way that may pass.
    """

    name: Name = "local"
    url: str = ""
    model: str = ""
    adapter: str = ""
    revision: str = ""
    api_key_env: str = ""
    concurrency: int = 16
    timeout_seconds: float = 300.0
    retries: int = 6

    @property
    def code(self) -> str:
        """The digest of the modules that an answer depends on."""
        return digest.of_code(*(f"engine/{module}.py" for module in CODE[self.name]))

    def place(self, device: str) -> object:
        """Return where answers are computed, as far as it may change them: a device, or a server."""
        if self.name == "endpoint":
            return [self.url, self.model, self.adapter, self.revision]
        return device if self.name == "local" else [self.name, device]

    def __str__(self) -> str:
        return f"endpoint {self.url}" if self.name == "endpoint" else self.name


LOCAL = EngineSpec()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine cannot do, and why, by one of the names above; what is absent, it can."""

    lacks: dict[str, str] = field(default_factory=dict)


def chosen(given: str, own: EngineSpec, place: str = "--finetune-engine") -> EngineSpec:
    """Return the engine that the command line names, or the suite's own.

    Args:
        given: a name, or the URL of an endpoint; empty for the suite's own.
        own: the suite's.
        place: what is to blame.

    Raises:
        SuiteError: no such engine; no address of a server; an endpoint without one.
    """
    if "://" in given:
        return replace(own, name="endpoint", url=api(given, place))
    if not given or given == own.name:
        return own
    name = next((name for name in NAMES if name == given), None)
    if name is None:
        raise SuiteError(f"{place}: {named_choice(given, (*NAMES, 'http://HOST:PORT/v1'))}")
    if name == "endpoint":
        raise SuiteError(f"{place}={given}: which one? give its URL, or name it in [engine] url of suite.toml")
    return EngineSpec(name)


def api(url: str, place: str) -> str:
    """Return the address of a server's API.

    Raises:
        SuiteError: it is none of HTTP, or holds a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # half an IPv6 address
        parts = urlsplit("")
    wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment
    if wrong or "@" in parts.netloc:
        shown = url.rpartition("@")[2].partition("?")[0]  # before the one may be a password, after the other a key
        raise SuiteError(f"{place}={shown}: no address of a server; give one such as http://127.0.0.1:8000/v1")
    return url.rstrip("/").removesuffix("/v1").rstrip("/") + "/v1"
