"""A report's file, written at once: readers never see half of it."""

import os
from pathlib import Path

from pytest_finetune.errors import SuiteError


def check(path: Path, option: str) -> Path:
    """Return the file of a report that is to be written later, after hours of work maybe.

    Raises:
        SuiteError: it could not be written, naming the option.
    """
    if not path.parent.is_dir():
        raise SuiteError(f"{option}={path}: no such folder {path.parent}; make it first")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise SuiteError(f"{option}={path}: cannot be written; name a file in a folder that can be")
    return path


def write(path: Path, text: str, option: str) -> None:
    """Write a report in place of an older one.

    Args:
        path: the file.
        text: what it holds.
        option: what named the file, for the error.

    Raises:
        SuiteError: the file cannot be written.
    """
    half = path.parent / f".{path.name}.half"
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise SuiteError(f"{option}={path}: cannot be written: {error.strerror}") from error
