"""What all tests share."""

import os

pytest_plugins = ["pytester"]

# One core a process is faster than two that wait for each other, and xdist tests start several.
os.environ.setdefault("OMP_NUM_THREADS", "2")
