"""`pytest-finetune advise`: which method fits, and the memory each one takes."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from pytest_finetune import advisor, curate, data, memory, suite, workload
from pytest_finetune import device as devices
from pytest_finetune.cli.command import Commands
from pytest_finetune.errors import SuiteError
from pytest_finetune.memory import GIB
from pytest_finetune.records import to_plain


def add(commands: Commands) -> None:
    """Add the command."""
    advise = commands.add_parser("advise", help="say which method fits, and the memory each one takes")
    advise.add_argument("about", metavar="SUITE_OR_MODEL", help="a suite's folder, a model's folder, or embedded")
    advise.add_argument("--rows", type=int, help="examples to train on (the suite's; else 1000)")
    advise.add_argument("--task", help=f"{', '.join(advisor.TASKS)} (the suite's; else instruction)")
    advise.add_argument("--device", default="auto", help="auto, cpu or cuda")
    advise.add_argument("--memory-gib", type=float, help="of the device (what it has)")
    advise.add_argument("--rank", type=int, help="of LoRA (the suite's; else 8)")
    advise.add_argument("--tokens", type=int, help="of the longest row (the suite's; else 2048)")
    advise.add_argument("--completion-tokens", type=int, help="of them taught (the suite's; else a quarter)")
    advise.add_argument("--batch-size", type=int, help="rows at once (the suite's; else 8)")
    advise.add_argument("--api", action="store_true", help="the model is only to be had behind an API")
    advise.add_argument("--many-tasks", action="store_true", help="many tasks are to be served on one base model")
    advise.add_argument("--json", action="store_true", help="print the advice as JSON")
    advise.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    advice = advisor.advise(_request(options))
    if options.json:
        print(json.dumps(to_plain(advice), indent=2))
        return 0
    print(f"{'method':<12} {'memory, GiB':<15} fits  {'weights':>8} {'gradients':>9} {'optimiser':>9}", end="")
    print(f" {'activations':>11} {'logits':>6}  ceiling")
    for option in advice.table:
        need = option.memory
        span = f"{need.low / GIB:.2f} to {need.high / GIB:.2f}" if need else "none" if option.fits else "unknown"
        parts = (need.weights, need.gradients, need.optimiser, need.activations, need.logits) if need else ()
        columns = [f"{part / GIB:>{width}.2f}" for part, width in zip(parts, (8, 9, 9, 11, 6), strict=False)]
        fits = "yes" if option.fits else "no"
        print(f"{option.method:<12} {span:<15} {fits:<5} {' '.join(columns):<47}  {option.ceiling}")
    print(f"advice: {advice.method}: {advice.reason}")
    return 0


def _request(options: argparse.Namespace) -> advisor.Request:
    """Build the request from a suite or a model's folder; an option goes before what stands there."""
    device = devices.choose(options.device, "--device")
    folder = Path(options.about)
    spec = suite.load(folder.resolve() / suite.FILE, Path.cwd()) if (folder / suite.FILE).is_file() else None
    name, place = (spec.model, spec.folder) if spec else (options.about, Path.cwd())
    model = suite.model_folder(name, place)
    if model is None and not options.api:
        raise SuiteError(f"{name!r} is no folder here; download the model, name embedded, or give --api")
    rows, load = 1000, memory.Load(device=device.partition(":")[0])
    if spec:
        rows, load = _sizes(spec, device)
    given = {"tokens": options.tokens, "rank": options.rank, "rows": options.batch_size}
    load = replace(load, **{key: value for key, value in given.items() if value is not None})
    taught = options.completion_tokens or load.completion_tokens or load.tokens // 4
    load = replace(load, completion_tokens=min(taught, load.tokens))
    have = devices.memory_bytes(device) if options.memory_gib is None else int(options.memory_gib * GIB)
    return advisor.Request(
        task=options.task or (spec.task if spec else "instruction"),
        train_rows=rows if options.rows is None else options.rows,
        shape=None if options.api or model is None else memory.shape_of(model),
        load=load,
        memory_bytes=have,
        api_only=options.api,
        many_tasks=options.many_tasks,
    )


def _sizes(spec: suite.SuiteSpec, device: str) -> tuple[int, memory.Load]:
    """Count a suite's rows and tokens as they stand in its files; few or bad rows are no error here."""
    train = data.load(spec.train, spec.fields)
    dev = len(data.load(spec.dev, spec.fields)) if spec.dev else curate.dev_rows(len(train), spec.dev_share)
    replay = [e for general in spec.general for e in data.load(general.replay, general.fields)]
    return len(train) - (0 if spec.dev else dev), workload.load_of(spec, [*train, *replay], dev, device)
