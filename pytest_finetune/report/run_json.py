"""The run as JSON, by `run.schema.json`: from it any report can be drawn again."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pytest_finetune import digest
from pytest_finetune.errors import SuiteError, shortened
from pytest_finetune.records import SCHEMA, RunRecord, from_plain, to_plain
from pytest_finetune.report import file


def write(run: RunRecord, path: Path) -> None:
    """Write a run.

    Raises:
        SuiteError: the file cannot be written.
    """
    file.write(path, json.dumps(to_plain(run), indent=1) + "\n", "--finetune-report")


def read(path: Path) -> RunRecord:
    """Read a run that :func:`write` wrote.

    Raises:
        SuiteError: the file is missing, or not such a run.
    """
    import jsonschema

    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(raw, dict) and raw.get("schema", SCHEMA) != SCHEMA:
            raise SuiteError(
                f"{path}: a run of schema {shortened(str(raw['schema']))}, and this version reads {SCHEMA} only"
            )
        jsonschema.validate(raw, schema())
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"{path}: not JSON: {error}") from error
    except jsonschema.ValidationError as error:
        place = shortened(".".join(map(str, error.absolute_path))) or "top"
        raise SuiteError(f"{path}: not a run of pytest-finetune: at {place}: {shortened(error.message)}") from error
    run: RunRecord = from_plain(RunRecord, raw)
    for one in (measured for suite in run.suites for measured in suite.measurements):
        columns = {len(one.ids), len(one.outputs), len(one.scores), *filter(None, (len(one.clusters), len(one.slices)))}
        if len(columns) > 1:
            raise SuiteError(f"{path}: not a run of pytest-finetune: {shortened(one.on)}: columns of unequal length")
    return run


@cache
def schema() -> dict[str, Any]:
    """Return the JSON Schema of a run."""
    document: dict[str, Any] = json.loads((digest.PACKAGE / "run.schema.json").read_text())
    return document
