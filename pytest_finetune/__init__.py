"""pytest-finetune: a pytest plugin and CI gate for fine-tuned language models."""

__all__ = ["ClaimNotProven", "Inconclusive", "__version__"]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used: importing the package must cost nothing."""
    if name == "__version__":
        from importlib.metadata import version

        return version("pytest-finetune")
    if name in __all__:
        from pytest_finetune import claims

        return getattr(claims, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
