"""What names a user's function, so that a score is served again for the same code only."""

import functools
import inspect
import sysconfig
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_finetune import digest
from pytest_finetune.errors import SuiteError

INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def code_of(function: Callable[..., object]) -> str:
    """Return the digest of a function: its code, its defaults, and all of the user's own code that it reaches.

    Raises:
        SuiteError: it holds an object that has no name from one run to the next.
    """
    return digest.of(_named(function, frozenset()))


def _named(value: Any, above: frozenset[int]) -> object:  # noqa: PLR0911  # a case each kind of value
    if id(value) in above:  # a function that calls itself
        return "again"
    above |= {id(value)}

    def named(other: Any) -> object:
        return _named(other, above)

    if isinstance(value, functools.partial):
        return ["partial", named(value.func), named(value.args), named(value.keywords)]
    if isinstance(value, types.MethodType):
        return ["method", named(value.__func__), named(value.__self__)]
    if isinstance(value, types.FunctionType) and _own(value):
        used = {name for code in _codes(value.__code__) for name in code.co_names} & value.__globals__.keys()
        found = {name: value.__globals__[name] for name in sorted(used)}
        # What a run may fill, such as a cache, is named by the file that it begins in.
        filled = digest.of_file(Path(str(_file(value))))
        reached = {name: filled if _grows(held) else named(held) for name, held in found.items()}
        cells = [named(cell.cell_contents) for cell in value.__closure__ or ()]
        code = [_code(value.__code__), named(value.__defaults__), named(value.__kwdefaults__)]
        return ["function", code, cells, reached]
    if isinstance(value, (types.ModuleType, type)) and _own(value):
        return [str(getattr(value, "__qualname__", value.__name__)), digest.of_file(Path(str(_file(value))))]
    if isinstance(value, (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)):
        return [getattr(value, "__module__", ""), getattr(value, "__qualname__", getattr(value, "__name__", ""))]
    if (wrapped := getattr(value, "__wrapped__", None)) is not None:
        return [type(value).__qualname__, named(wrapped)]
    if isinstance(value, (list, tuple)):
        return [named(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(digest.of(named(item)) for item in value)
    if isinstance(value, dict):
        return [[named(key), named(item)] for key, item in value.items()]
    if callable(value) and hasattr(value, "__dict__"):
        return [named(type(value)), named(vars(value))]
    text = repr(value)
    if " at 0x" in text:
        raise SuiteError(
            f"a metric's code holds {text[:60]}, which has another name in every run; give a function of plain values"
        )
    return text


def _grows(value: Any) -> bool:
    return isinstance(value, (dict, list, set)) or (hasattr(value, "__dict__") and _own(type(value)))


def _file(value: Any) -> str | None:
    try:
        return inspect.getsourcefile(value)
    except TypeError:  # built in
        return None


def _own(value: Any) -> bool:
    """Whether something is the user's own code, and neither Python's nor installed."""
    file = _file(value)
    return file is not None and Path(file).is_file() and not file.startswith(INSTALLED)


def _codes(code: types.CodeType) -> list[types.CodeType]:
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return [code, *(deeper for const in inner for deeper in _codes(const))]


def _code(code: types.CodeType) -> object:
    """Return what a code does, without the place where it stands."""
    consts: list[object] = []
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            consts.append(_code(const))
        else:
            consts.append(sorted(map(repr, const)) if isinstance(const, frozenset) else repr(const))
    return [code.co_code.hex(), consts, code.co_names, code.co_varnames, code.co_freevars]
