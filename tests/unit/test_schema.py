"""The published schema of a run is the one that the records have."""

import json

from pytest_finetune.report import schema


def test_schema_is_that_of_the_records() -> None:
    """The file in the package equals what the records say; remake it where this fails."""
    remake = "python -m pytest_finetune.report.schema"
    assert json.loads(schema.FILE.read_text()) == schema.document(), f"run: {remake}"
