"""The workflow of a repository: when the gate is called on GitHub, with which rights, on which runner."""

import json
from importlib.metadata import version

from pytest_finetune.starter.texts import REPOSITORY

FILE = ".github/workflows/finetune.yml"


def text(path: str, gpu: bool) -> str:
    """Return the text of the workflow.

    Args:
        path: the folder of all suites.
        gpu: whether they need a runner with a GPU.
    """
    runner, about = '["ubuntu-latest"]', "the embedded model needs no GPU"
    if gpu:
        runner, about = '["self-hosted", "gpu"]', "the labels of your runner"
    release = version("pytest-finetune")
    return f"""\
# Merges pass this gate once the check "finetune / verdict" is required (Settings, Rules).
name: finetune
on:
  pull_request:
    types: [opened, synchronize, reopened, labeled]
  merge_group:
  push:
    branches: [main, master]
permissions: {{}}
jobs:
  finetune:
    # Of all labels only this one, which accepts a lowered bar, has the commit judged again.
    if: github.event.action != 'labeled' || github.event.label.name == 'finetune-accept-policy-change'
    uses: {REPOSITORY}/.github/workflows/finetune.yml@v{release} # better: the commit of this tag
    permissions:
      actions: read # whether forks need an approval
      contents: read # the checkout
      pull-requests: write # the one comment
      id-token: write # signs what is promoted
      attestations: write # keeps that signature
    with:
      path: {json.dumps(path)}
      runs-on: '{runner}' # {about}
      install: pytest-finetune=={release}
"""
