"""A GitHub runner in small: runs a workflow's jobs and their shell steps, in order, on this machine.

What it keeps of the real one: expressions and conditions, needs and skipping, the matrix, environment files, the
event's file, a token that may do only what its job's `permissions` say and a fork's that may write nothing,
protected environments, signals to a cancelled step's own process. What stands in: actions are a copy of files,
`python -m pip` and `python -m venv` install nothing, and `gh` keeps comments in a file.
"""

import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from expressions import evaluate, interpolated

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
case "$1 $2 $3" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip install") echo "pip: $*" ;;
    *) exec {python} "$@" ;;
esac
"""
REPOSITORY = "house/models"


@dataclass
class Job:
    """What one job, or one cell of a matrix, came to."""

    name: str
    result: str = "success"
    outputs: dict[str, str] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)  # exit codes by name, of those that ran
    log: str = ""
    summary: str = ""


class Denied(Exception):
    """The token may not do this."""


@dataclass
class Runner:
    """One run of a workflow for one event.

    Args:
        workflow: its file.
        remote: the repository that is checked out.
        work: a folder of this run's own.
        github: the context: event_name, event, sha, ref, ref_name.
        inputs: what the caller gives.
        reviewers: how many the environment for forks requires.
        approved: whether they approved the run.
        lost: suites whose runner dies before its first step.
        cancel: tells of a started step's process, by step name and folder, when to cancel the run.
    """

    workflow: Path
    remote: Path
    work: Path
    github: Mapping[str, Any]
    inputs: Mapping[str, Any]
    reviewers: int = 0
    approved: bool = False
    lost: frozenset[str] = frozenset()
    cancel: Callable[[str, Path], bool] | None = None
    cancelled: bool = False
    jobs: dict[str, list[Job]] = field(default_factory=dict)
    attested: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True)
        self.artifacts = self.work / "artifacts"
        self.artifacts.mkdir()
        self.comments = self.work / "comments.json"
        (self.work / "reviewers").write_text(str(self.reviewers))
        (self.work / "event.json").write_text(json.dumps(self.github["event"]))
        tools = self.work / "bin"
        tools.mkdir()
        (tools / "python").write_text(PYTHON.format(python=sys.executable))
        (tools / "gh").write_text(f"#!{sys.executable}\n" + (ROOT / "tests" / "gh.py").read_text())
        for tool in tools.iterdir():
            tool.chmod(0o755)
        self.path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    @property
    def fork(self) -> bool:
        """Whether the event is a pull request from a fork, whose token can only read."""
        pull: Any = self.github["event"].get("pull_request")
        return bool(pull) and pull["head"]["repo"]["full_name"] != REPOSITORY

    def run(self, until: str = "") -> dict[str, list[Job]]:
        """Run all jobs, or those up to one; return them by key, a job of a matrix as its cells."""
        document = yaml.safe_load(self.workflow.read_text())
        declared = document[True]["workflow_call"]["inputs"]  # YAML 1.1 reads the key `on` as true
        self.inputs = {name: one.get("default") for name, one in declared.items()} | dict(self.inputs)
        for key, spec in document["jobs"].items():
            if until in self.jobs:
                break
            needs = [spec["needs"]] if isinstance(spec.get("needs"), str) else spec.get("needs", [])
            context = self._context(needs)
            good = all(self._result(name) == "success" for name in needs) and not self.cancelled
            if not self._holds(spec.get("if"), context, good):
                self.jobs[key] = [Job(key, "skipped")]
                continue
            cells = evaluate(spec["strategy"]["matrix"], context)["include"] if "strategy" in spec else [{}]
            self.jobs[key] = [
                self._job(key, spec, context | {"matrix": cell, "strategy": {"job-index": index}})
                for index, cell in enumerate(cells)
            ]
        return self.jobs

    def _result(self, key: str) -> str:
        results = {job.result for job in self.jobs[key]}
        return next((r for r in ("failure", "cancelled", "skipped") if r in results), "success")

    def _context(self, needs: list[str]) -> dict[str, Any]:
        of_needs = {name: {"result": self._result(name), "outputs": self.jobs[name][-1].outputs} for name in needs}
        github = {"repository": REPOSITORY, "workflow": "gate", **self.github}
        return {"github": github, "inputs": self.inputs, "needs": of_needs}

    def _holds(self, condition: str | None, context: dict[str, Any], good: bool) -> bool:
        text = condition or "success()"
        asks = any(f"{name}()" in text for name in ("success", "always", "failure", "cancelled"))
        functions = {"success": good, "always": True, "failure": not good, "cancelled": self.cancelled}
        return bool(evaluate(text, context | {"": functions})) and (asks or good)

    def _job(self, key: str, spec: Mapping[str, Any], context: dict[str, Any]) -> Job:
        job = Job(str(interpolated(spec["name"], context)))
        environment = interpolated(spec.get("environment", ""), context)
        if environment == "finetune-fork" and self.reviewers and not self.approved:
            job.result = "failure"  # rejected; until then the run waits
            return job
        if context["matrix"].get("suite") in self.lost:
            job.result = "failure"
            return job
        rights = {name: "read" if self.fork else right for name, right in spec["permissions"].items()}
        folder = self.work / f"{key}-{context['strategy']['job-index']}"
        for name in ("workspace", "temp"):
            (folder / name).mkdir(parents=True)
        context = context | {"steps": {}, "runner": {"temp": str(folder / "temp")}}
        context["github"] = context["github"] | {"token": json.dumps(rights)}
        for number, step in enumerate(spec["steps"]):
            good = job.result == "success"
            if self._holds(step.get("if"), context, good):
                self._step(number, step, context, job, folder)
        for name, value in spec.get("outputs", {}).items():
            job.outputs[name] = str(interpolated(value, context))
        return job

    def _step(self, number: int, step: Mapping[str, Any], context: dict[str, Any], job: Job, folder: Path) -> None:
        before = self.cancelled
        files = {name: folder / f"{number}-{name}" for name in ("output", "env", "path", "summary", "log")}
        for file in files.values():
            file.touch()
        if "uses" in step:
            given = {name: interpolated(value, context) for name, value in step.get("with", {}).items()}
            code = self._action(step["uses"].partition("@")[0], given, context, folder)
        else:
            code = self._shell(step, context, files, folder)
        job.steps[step["name"]] = code
        job.log += files["log"].read_text()
        job.summary += files["summary"].read_text()
        lines = (line.partition("=") for line in files["output"].read_text().splitlines())
        context["steps"][step.get("id", number)] = {"outputs": {name: value for name, _, value in lines}}
        if code and job.result == "success":
            job.result = "cancelled" if self.cancelled and not before else "failure"

    def _shell(self, step: Mapping[str, Any], context: dict[str, Any], files: dict[str, Path], folder: Path) -> int:
        script = folder / "step.sh"
        assert "${{" not in step["run"], "an expression inside a script is code that somebody else wrote"
        script.write_text(step["run"])
        env = {
            **{name: os.environ[name] for name in ("HOME", "LANG", "OMP_NUM_THREADS") if name in os.environ},
            "PATH": self.path,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_NAME": self.github["event_name"],
            "GITHUB_EVENT_PATH": str(self.work / "event.json"),
            "GITHUB_SHA": self.github["sha"],
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_WORKSPACE": str(folder / "workspace"),
            "GITHUB_OUTPUT": str(files["output"]),
            "GITHUB_ENV": str(files["env"]),
            "GITHUB_PATH": str(files["path"]),
            "GITHUB_STEP_SUMMARY": str(files["summary"]),
            "RUNNER_TEMP": str(folder / "temp"),
            "SIMULATED_GITHUB": str(self.work),
            **{name: interpolated(value, context) for name, value in step.get("env", {}).items()},
        }
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        with files["log"].open("w") as log:
            process = subprocess.Popen(
                command,
                cwd=folder / "workspace",
                env=env,
                stdout=log,
                stderr=log,
                preexec_fn=_heed_interrupts,  # noqa: PLW1509  # no thread of ours runs meanwhile
            )
            while self.cancel and process.poll() is None and not self.cancelled:
                if self.cancel(step["name"], folder):
                    self.cancelled = True
                    process.send_signal(signal.SIGINT)  # to this process alone, as the runner does
                time.sleep(0.02)
            return process.wait(300)

    def _action(self, name: str, given: Mapping[str, Any], context: dict[str, Any], folder: Path) -> int:
        rights = json.loads(context["github"]["token"])
        if name == "actions/checkout":
            assert rights.get("contents") == "read"
            assert given["persist-credentials"] == "false"
            git = ["git", "-C", str(folder / "workspace"), "-c", "init.defaultBranch=main"]
            subprocess.run([*git, "init", "-q"], check=True)
            fetch = ["fetch", "-q", f"--depth={given.get('fetch-depth', 1)}", f"file://{self.remote}"]
            subprocess.run([*git, *fetch, self.github["sha"]], check=True)
            return subprocess.run([*git, "checkout", "-q", "FETCH_HEAD"], check=True).returncode
        if name == "actions/upload-artifact":
            target = self.artifacts / given["name"]
            if Path(given["path"]).is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(given["path"], target)
            return 0
        if name == "actions/download-artifact":
            found = fnmatch.filter(
                (path.name for path in self.artifacts.iterdir()), given.get("pattern", given.get("name"))
            )
            for artifact in found:
                shutil.copytree(self.artifacts / artifact, given["path"], dirs_exist_ok=True)
            return 0 if found or "pattern" in given else 1
        if name == "actions/attest-build-provenance":
            assert rights == {"id-token": "write", "attestations": "write"}
            self.attested += Path(given["subject-checksums"]).read_text().splitlines()
            return 0
        assert name == "actions/setup-python", f"{name} is not simulated"
        return 0


def _heed_interrupts() -> None:
    """Heed SIGINT, which a shell lets what it puts in the background ignore; the runner's steps heed it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
