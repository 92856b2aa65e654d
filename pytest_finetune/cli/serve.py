"""`pytest-finetune serve`: an OpenAI-compatible server over a base model and its adapters."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from pytest_finetune import hub, suite
from pytest_finetune.cli.command import Commands, needs
from pytest_finetune.errors import SuiteError
from pytest_finetune.records import Model


def add(commands: Commands) -> None:
    """Add the command."""
    serve = commands.add_parser("serve", help="serve a base model and its adapters as OpenAI's API does")
    serve.add_argument("model", metavar="MODEL", help="embedded, a model's folder, or a Hugging Face id")
    serve.add_argument("--revision", default="", help="of a Hugging Face id")
    serve.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="an adapter, asked for by its digest and by NAME; may be given several times",
    )
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1)")
    serve.add_argument("--port", type=int, default=8000, help="(8000; 0: one that is free)")
    serve.add_argument("--device", default="auto", help="auto, cpu or cuda")
    serve.add_argument("--batch-size", type=int, default=32, help="answers made at once (32)")
    serve.add_argument("--queue", type=int, default=256, help="answers that may wait; beyond, 503 (256)")
    serve.add_argument(
        "--api-key-env", default="", metavar="VARIABLE", help="environment variable of the key to ask for"
    )
    serve.add_argument(
        "--adapters-from",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="adapters below it may be loaded and unloaded while the server runs; may be given several times",
    )
    serve.add_argument(
        "--trust-remote-code", action="store_true", help="run the code that the model brings along (auto_map)"
    )
    serve.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    for name in ("batch_size", "queue"):
        if getattr(options, name) < 1:
            raise SuiteError(f"--{name.replace('_', '-')}={getattr(options, name)}: less than 1; give 1 or more")
    model, key = _model(options.model, options.revision), _key(options.api_key_env)
    model = replace(model, remote_code=options.trust_remote_code)
    for folder in options.adapters_from:
        if not folder.is_dir():
            raise SuiteError(f"--adapters-from={folder}: no such folder")
    with needs("shadow"):
        from pytest_finetune.serve import server
        from pytest_finetune.serve.access import Access
        from pytest_finetune.serve.catalogue import Served, adapter_of
    adapters = []
    for given in options.adapter:
        name, named, folder = ("", "", given) if Path(given).is_dir() else given.partition("=")
        if named and not name:
            raise SuiteError(f"--adapter={given}: the name is empty; give NAME=FOLDER, or FOLDER alone")
        adapters.append(Served(name if named else "", adapter_of(Path(folder if named else given).resolve())))
    access = Access(key, options.host, tuple(folder.resolve() for folder in options.adapters_from))
    capacity = server.Capacity(options.device, options.batch_size, options.queue)
    server.run(model, adapters, access, options.port, capacity)
    return 0


def _model(name: str, revision: str) -> Model:
    folder = suite.model_folder(name, Path.cwd())
    if folder is None:
        revision = revision or "main"
        if not hub.reachable(name, revision):
            raise SuiteError(f"{name!r} is no folder here, and not in the local cache; download it, or name embedded")
        return Model(name, "", revision=revision)
    if not (folder / "config.json").is_file():
        raise SuiteError(f"model {folder}: no config.json in it; name a model's folder, or embedded")
    if revision:
        raise SuiteError(f"--revision={revision}: {name} is a folder, which has none; leave it out")
    return Model(name, "", str(folder))


def _key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "")
    if not key:
        raise SuiteError(f"--api-key-env={variable}: no such variable, or an empty one; export the key in it")
    return key
