"""Stands in for `gh api` in the simulated runner: comments in a file, and what the token's rights allow."""

import json
import os
import subprocess
import sys
from pathlib import Path

WORK = Path(os.environ["SIMULATED_GITHUB"])
RIGHTS = json.loads(os.environ["GH_TOKEN"])


def options(arguments: list[str]) -> tuple[str, dict[str, str]]:
    """Return the path that is asked for, and the options by name."""
    assert arguments.pop(0) == "api"
    path, found = "", {"--method": "GET"}
    while arguments:
        name = arguments.pop(0)
        if name in ("--paginate", "--silent"):
            continue
        if name.startswith("--"):
            found[name] = arguments.pop(0)
        else:
            path = name
    return path, found


def need(right: str, level: str) -> None:
    """End as a refused request does."""
    if RIGHTS.get(right) not in (level, "write"):
        sys.exit("HTTP 403: Resource not accessible by integration")


def main() -> None:
    """Answer one request."""
    path, given = options(sys.argv[1:])
    file = WORK / "comments.json"
    comments = json.loads(file.read_text()) if file.exists() else []
    answer: object = comments
    if "/environments/" in path:
        need("actions", "read")
        count = int((WORK / "reviewers").read_text())
        if not count:
            sys.exit("HTTP 404: Not Found")
        answer = {"protection_rules": [{"type": "required_reviewers", "reviewers": [{}] * count}]}
    elif given["--method"] == "GET":
        need("pull-requests", "read")
    else:
        need("pull-requests", "write")
        body = Path(given["--field"].removeprefix("body=@")).read_text()
        if given["--method"] == "PATCH":
            next(c for c in comments if c["id"] == int(path.rsplit("/", 1)[1]))["body"] = body
        else:
            comments.append({"id": len(comments) + 1, "user": {"login": "github-actions[bot]"}, "body": body})
        file.write_text(json.dumps(comments))
        return
    query = given.get("--jq", ".")
    subprocess.run(["jq", "--raw-output", query], input=json.dumps(answer), text=True, check=True)


if __name__ == "__main__":
    main()
