"""``python -m pytest_finetune.cli``."""

from pytest_finetune.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
