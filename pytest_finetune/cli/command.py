"""A command of `pytest-finetune`: one module each, with `add` and `run`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_finetune.errors import SuiteError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Say of what cannot be imported inside which extra brings it.

    Raises:
        SuiteError: a library is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise SuiteError(f"{error.name} is not installed; pip install 'pytest-finetune[{extra}]'") from None
