"""Export: the pairs of a spool as Parquet, a row each, for whatever reads tables."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from pytest_finetune.errors import SuiteError
from pytest_finetune.records import to_plain
from pytest_finetune.shadow.exchange import Pair
from pytest_finetune.shadow.spool import Spool

ROWS = 1000  # a piece, so that a large spool need not fit in memory twice
TYPES = {"number": "int64", "time": "double", "seconds": "double", "first_seconds": "double"}
TYPES |= dict.fromkeys(("status", "characters", "prompt_tokens", "completion_tokens"), "int64")
TYPES |= dict.fromkeys(("redacted", "valid", "refused"), "bool")


def write(spool: Spool, out: Path) -> int:
    """Write all pairs to a new file, of which nothing is seen before it is whole; return how many.

    Raises:
        SuiteError: there is none.
    """
    import pyarrow  # 0.3 s to import
    import pyarrow.parquet

    rows, written = map(_row, spool.pairs()), 0
    part = list(islice(rows, ROWS))
    if not part:
        raise SuiteError(f"{spool.path}: no pair in it; there is nothing to export yet")
    columns = [(name, pyarrow.type_for_alias(TYPES.get(name.partition(".")[2] or name, "string"))) for name in part[0]]
    half = out.with_name(f".{out.name}.half")
    with pyarrow.parquet.ParquetWriter(half, pyarrow.schema(columns)) as file:
        while part:
            file.write_table(pyarrow.Table.from_pylist(part, file.schema))
            written += len(part)
            part = list(islice(rows, ROWS))
    half.rename(out)
    return written


def _row(pair: Pair) -> dict[str, Any]:
    exchange = to_plain(pair.exchange)
    request = exchange.pop("request")
    row = {**exchange, "request": None if request is None else json.dumps(request)}
    for side in ("primary", "candidate"):
        row |= {f"{side}.{name}": value for name, value in to_plain(getattr(pair, side)).items()}
    return row
