"""Where a release is pushed: a folder, or a repository of the Hugging Face hub."""

import os
from pathlib import Path

from pytest_finetune import hub
from pytest_finetune.digest import SHIPPED
from pytest_finetune.errors import SuiteError
from pytest_finetune.pipeline import PROMPT_FILE
from pytest_finetune.records import Adapter
from pytest_finetune.release import folder

HUB = "hub:"
TOKEN = "HF_TOKEN"  # the variable's name
REASONS = {
    401: f"the hub does not know this token; set {TOKEN} to one that may write",
    403: f"the token in {TOKEN} may not write there",
    404: "no such repository, or the token may not see it",
}


def push(release: Path, target: str, adapter: Adapter) -> None:
    """Copy a release to its target, where it may be already.

    Args:
        release: its folder.
        target: ``hub:ORG/NAME``, or a folder.
        adapter: what it releases; commit and tag are called by its digest.

    Raises:
        SuiteError: it cannot be written there; the line never holds the token.
    """
    if target.startswith(HUB):
        folder.check(release)
        _upload(release, target.removeprefix(HUB), adapter.digest)
    else:
        folder.copy(release, Path(target), adapter)


def _upload(release: Path, repository: str, digest: str) -> None:
    token = os.environ.get(TOKEN, "")
    option = f"--push={HUB}{repository}"
    if hub.offline():
        raise SuiteError(f"{option}: HF_HUB_OFFLINE forbids asking the hub; unset it, or push to a folder")
    if not token:
        raise SuiteError(f"{option}: {TOKEN} is not set; set it to a token that may write")
    from huggingface_hub import HfApi  # 0.3 s to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        made = api.upload_folder(
            repo_id=repository,
            folder_path=release,
            commit_message=f"Release {digest}",
            delete_patterns=[*SHIPPED, PROMPT_FILE],  # an older release's: the digest is that of all weights
        )
        api.create_tag(repository, tag=digest, revision=made.oid, exist_ok=True)
    except HFValidationError:
        raise SuiteError(f"{option}: no name of a repository; give {HUB}ORG/NAME") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise SuiteError(f"{option}: status {status}: {REASONS.get(status, 'the hub refused it')}") from None
    except Exception as error:  # its clients raise errors of several libraries where there is no network
        raise SuiteError(
            f"{option}: no answer from the hub ({type(error).__name__}); push again, or to a folder"
        ) from None
