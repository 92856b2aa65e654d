"""The reusable workflow, run by a small runner for every event that a repository can have."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters
import pytest
import yaml
from colours import SUITE, TEST, rows
from expressions import evaluate
from runner import REPOSITORY, ROOT, Job, Runner

from pytest_finetune import digest
from pytest_finetune.digest import SHIPPED
from pytest_finetune.ledger import Ledger
from pytest_finetune.release import folder
from pytest_finetune.remote import MANIFEST
from pytest_finetune.starter import workflow as starter
from pytest_finetune.store import Store

WORKFLOW = ROOT / ".github" / "workflows" / "finetune.yml"
MARKER = "<!-- pytest-finetune -->"

pytestmark = pytest.mark.skipif(
    not (shutil.which("git") and shutil.which("jq")), reason="needs git and jq, as GitHub's runners have them"
)


class Repository:
    """A git repository with a suite, and the events that GitHub would send about it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        suite = folder / "suites" / "colours"
        suite.mkdir(parents=True)
        (suite / "suite.toml").write_text(SUITE)
        (suite / "train.jsonl").write_text(rows(0, 150))
        (suite / "heldout.jsonl").write_text(rows(1000, 150))
        (suite / "test_colours.py").write_text(TEST)
        self.git("init", "-q", "-b", "main")
        self.git("config", "uploadpack.allowAnySHA1InWant", "true")
        self.base = self.commit("base")

    def git(self, *arguments: str) -> str:
        """Run git here."""
        who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        command = ["git", "-C", str(self.folder), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, subject: str) -> str:
        """Commit all there is; return the commit."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")

    def push(self) -> dict[str, Any]:
        """What GitHub tells of a push to the default branch."""
        event = {"repository": {"default_branch": "main"}}
        return {"event_name": "push", "sha": self.base, "ref": "refs/heads/main", "ref_name": "main", "event": event}

    def pull_request(
        self, whose: str = REPOSITORY, change: Callable[[Path], None] | None = None, **more: Any
    ) -> dict[str, Any]:
        """What GitHub tells of a pull request, whose merge commit it makes."""
        self.git("checkout", "-q", "-B", "change", self.base)
        if change:
            change(self.folder / "suites" / "colours")
        head = self.commit("change")
        self.git("checkout", "-q", "--detach", self.base)
        self.git("merge", "-q", "--no-ff", "-m", "merge", head)
        merged = self.git("rev-parse", "HEAD")
        pull = {"number": 7, "head": {"sha": head, "repo": {"full_name": whose}}}
        event = {"action": "synchronize", "pull_request": pull, **more}
        return {
            "event_name": "pull_request",
            "sha": merged,
            "ref": "refs/pull/7/merge",
            "ref_name": "7/merge",
            "event": event,
        }

    def queued(self) -> dict[str, Any]:
        """What GitHub tells of a group in the merge queue."""
        ref = f"gh-readonly-queue/main/pr-7-{self.base}"
        sha = self.pull_request()["sha"]
        event = {"action": "checks_requested", "merge_group": {"base_sha": self.base}}
        return {"event_name": "merge_group", "sha": sha, "ref": f"refs/heads/{ref}", "ref_name": ref, "event": event}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GPU runner's disk, which outlives jobs."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository of its own."""
    return Repository(tmp_path / "remote")


@pytest.fixture
def runner(tmp_path: Path, repository: Repository, store: Path) -> Callable[..., Runner]:
    """Make a runner for an event."""

    def make(github: dict[str, Any], **more: Any) -> Runner:
        inputs = {"path": "suites", "store": str(store)} | more.pop("inputs", {})
        work = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        return Runner(more.pop("workflow", WORKFLOW), repository.folder, work, github, inputs, **more)

    return make


def results(jobs: dict[str, list[Job]]) -> dict[str, str]:
    """Return the result of each job, of several cells the set."""
    return {key: ",".join(sorted({job.result for job in cells})) for key, cells in jobs.items()}


@pytest.mark.slow
def test_push_promotes(runner: Callable[..., Runner], repository: Repository) -> None:
    """A push to the default branch that passes is attested, file by file, and needs no comment."""
    run = runner(repository.push())
    jobs = run.run()
    assert results(jobs) == dict.fromkeys(("admit", "plan", "cells", "verdict", "promote"), "success") | {
        "comment": "skipped"
    }, jobs
    assert jobs["admit"][0].outputs == {"gpu": "yes", "fork": "no", "release": "yes", "namespace": ""}
    assert jobs["verdict"][0].outputs["exit-code"] == "0"
    assert [cell.name for cell in jobs["cells"]] == ["cell colours"]
    [release] = (run.artifacts / "finetune-adapters" / "colours").iterdir()
    assert digest.of_files(release, SHIPPED) == release.name
    folder.check(release)
    assert {line.rpartition("  ")[2] for line in run.attested} == {
        f"colours/{release.name}/{path.name}" for path in release.iterdir()
    }


@pytest.mark.slow
def test_pull_request_comments_once(runner: Callable[..., Runner], repository: Repository) -> None:
    """A pull request of this repository is judged and gets one comment of ours, which a later run writes anew."""
    github = repository.pull_request()
    run = runner(github)
    other = {"id": 1, "user": {"login": "somebody"}, "body": f"{MARKER} not ours"}
    run.comments.write_text(json.dumps([other]))
    jobs = run.run()
    passed = dict.fromkeys(("admit", "plan", "cells", "verdict", "comment"), "success")
    assert results(jobs) == passed | {"promote": "skipped"}, jobs
    comments = json.loads(run.comments.read_text())
    assert comments[0] == other
    assert comments[1]["body"].startswith(MARKER)
    assert "PASS" in comments[1]["body"]
    assert "PASS" in jobs["verdict"][0].summary

    again = runner(github, lost=frozenset({"colours"}))
    again.comments.write_text(json.dumps(comments))
    jobs = again.run()
    assert jobs["verdict"][0].outputs["exit-code"] == "11"
    anew = json.loads(again.comments.read_text())
    assert [comment["id"] for comment in anew] == [1, 2]
    assert anew[0] == other
    assert "ERROR" in anew[1]["body"]


@pytest.mark.slow
@pytest.mark.attack(1)
def test_fork_waits_for_approval(runner: Callable[..., Runner], repository: Repository) -> None:
    """A fork gets the plan on a hosted machine, and no pass: neither unasked, nor refused, nor unprotected."""
    github = repository.pull_request(whose="stranger/models")
    unprotected = runner(github).run()
    assert results(unprotected)["plan"] == "success"
    assert results(unprotected)["cells"] == results(unprotected)["comment"] == "skipped"
    assert results(unprotected)["verdict"] == "failure"
    assert "gets the plan only" in unprotected["admit"][0].log
    assert "Waiting for approval" in unprotected["verdict"][0].log
    assert unprotected["verdict"][0].outputs["exit-code"] == "11"

    refused = runner(github, reviewers=1).run()
    assert not refused["cells"][0].steps
    assert refused["verdict"][0].result == "failure"


@pytest.mark.slow
@pytest.mark.attack(1, 4)
def test_fork_approved(runner: Callable[..., Runner], repository: Repository, store: Path) -> None:
    """An approved fork is judged away from the store that others' runs trust, and its token writes nothing."""
    before = sorted(store.rglob("*"))
    run = runner(repository.pull_request(whose="stranger/models"), reviewers=1, approved=True)
    jobs = run.run()
    assert jobs["verdict"][0].outputs["exit-code"] == "0", jobs
    assert results(jobs)["comment"] == "skipped"
    assert not run.comments.exists()
    assert sorted(store.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.attack(4)
def test_pull_request_cannot_poison_main(runner: Callable[..., Runner], repository: Repository, tmp_path: Path) -> None:
    """An adapter that a pull request plants under the right name is not what the merged commit is judged by, which in
    turn serves the next pull request.
    """
    store = tmp_path / "disk"
    given = {"store": str(store)}
    assert runner(repository.pull_request(), inputs=given).run(until="cells")["cells"][0].result == "success"
    assert [path.name for path in store.iterdir()] == ["namespaces"]
    [own] = (store / "namespaces").iterdir()
    assert own.name == "refs~pull~7~merge"
    [planted] = (own / "adapter").iterdir()
    shutil.rmtree(planted)
    poison = adapters.lora(planted, seed=1)
    (planted / MANIFEST).write_text(json.dumps({path.name: digest.of_file(path) for path in planted.iterdir()}))
    assert Store(own).has("adapter", planted.name)

    merged = runner(repository.push(), inputs=given)
    assert results(merged.run())["verdict"] == "success"
    good = digest.of_files(store / "adapter" / planted.name, SHIPPED)
    assert good != poison
    assert {path.parent.name for path in (merged.artifacts / "finetune-adapters").glob("*/*/README.md")} == {good}
    before = sorted(store.rglob("*"))

    other = repository.pull_request() | {"ref": "refs/pull/8/merge"}
    assert runner(other, inputs=given).run(until="cells")["cells"][0].result == "success"
    read = store / "namespaces" / "refs~pull~8~merge"
    assert digest.of_files(read / "adapter" / planted.name, SHIPPED) == good
    assert [entry.attempt for entry in Ledger(read).entries()] == [1]
    assert [path for path in sorted(store.rglob("*")) if read not in (path, *path.parents)] == before


@pytest.mark.attack(1)
def test_approval_is_for_one_commit(runner: Callable[..., Runner], repository: Repository) -> None:
    """A cell refuses another commit than the one that the pull request's event names."""
    github = repository.pull_request(whose="stranger/models")
    github["event"]["pull_request"]["head"]["sha"] = repository.base
    jobs = runner(github, reviewers=1, approved=True).run()
    assert list(jobs["cells"][0].steps)[-2:] == ["Check that this is the approved commit", "Keep the evidence"]
    assert jobs["verdict"][0].result == "failure"


@pytest.mark.slow
def test_claim_refuted(runner: Callable[..., Runner], repository: Repository) -> None:
    """A claim that is refuted fails the verdict with its own exit code, and the comment says so."""

    def spoil(suite: Path) -> None:
        (suite / "train.jsonl").write_text(rows(0, 150, shuffled=True))
        (suite / "suite.toml").write_text(SUITE + "gate = { margin = 0.9 }\n")

    run = runner(repository.pull_request(change=spoil))
    jobs = run.run()
    assert results(jobs)["cells"] == results(jobs)["verdict"] == "failure"
    assert jobs["verdict"][0].outputs["exit-code"] == "1"
    assert "FAIL" in json.loads(run.comments.read_text())[0]["body"]


@pytest.mark.slow
@pytest.mark.attack(3)
def test_lowered_bar_needs_the_label(runner: Callable[..., Runner], repository: Repository) -> None:
    """A lowered bar fails until the label is set, and counts for the commit that it was set on."""

    def lower(suite: Path) -> None:
        (suite / "suite.toml").write_text(SUITE + "gate = { margin = 0.0 }\n")

    label = {"name": "finetune-accept-policy-change"}
    pushed = runner(repository.pull_request(change=lower)).run()
    assert pushed["cells"][0].result == "success"
    assert pushed["verdict"][0].outputs["exit-code"] == "1"
    accepted = runner(repository.pull_request(change=lower, action="labeled", label=label)).run()
    assert accepted["verdict"][0].outputs["exit-code"] == "0", accepted["verdict"][0].log


@pytest.mark.slow
def test_merge_queue(runner: Callable[..., Runner], repository: Repository) -> None:
    """A group in the merge queue is judged as a pull request is, without comment and promotion."""
    jobs = runner(repository.queued()).run()
    passed = dict.fromkeys(("admit", "plan", "cells", "verdict"), "success")
    assert results(jobs) == passed | {"comment": "skipped", "promote": "skipped"}, jobs


@pytest.mark.slow
def test_cancelled_cell(runner: Callable[..., Runner], repository: Repository, tmp_path: Path) -> None:
    """Cancelling reaches pytest itself, which ends by itself; what it had no time to show is no pass."""
    store = tmp_path / "empty"

    def training(step: str, folder: Path) -> bool:
        return step == "Gate" and any(store.glob("namespaces/*/work-*"))

    jobs = runner(repository.pull_request(), inputs={"store": str(store)}, cancel=training).run()
    cell = jobs["cells"][0]
    assert cell.result == "cancelled"
    assert cell.steps["Gate"] == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in cell.log
    assert jobs["verdict"][0].outputs["exit-code"] not in ("", "0")
    assert results(jobs)["verdict"] == "failure"


def test_plan_refused(runner: Callable[..., Runner], repository: Repository) -> None:
    """Where the plan is refused, nothing is trained, the verdict fails, and the comment says that there is none."""

    def spoil(suite: Path) -> None:
        (suite / "train.jsonl").write_text("no JSON\n")

    run = runner(repository.pull_request(change=spoil))
    jobs = run.run()
    assert results(jobs)["plan"] == results(jobs)["verdict"] == "failure"
    assert results(jobs)["cells"] == "skipped"
    assert "No verdict" in json.loads(run.comments.read_text())[0]["body"]


@pytest.mark.parametrize("ref", ["refs/heads/other", "refs/tags/main"])
def test_other_pushes_promote_nothing(runner: Callable[..., Runner], repository: Repository, ref: str) -> None:
    """Only the default branch is promoted: no other branch, and no tag that is called the same."""
    github = repository.push() | {"ref": ref, "ref_name": ref.rsplit("/", 1)[1]}
    assert runner(github).run(until="admit")["admit"][0].outputs["release"] == "no"


@pytest.mark.attack(1, 2)
def test_no_event_with_rights(runner: Callable[..., Runner], repository: Repository) -> None:
    """An event that hands a fork's code the base branch's rights runs nothing of it."""
    github = repository.pull_request(whose="stranger/models") | {"event_name": "pull_request_target"}
    jobs = runner(github).run()
    assert jobs["admit"][0].result == "failure"
    assert results(jobs)["plan"] == results(jobs)["cells"] == "skipped"
    assert jobs["verdict"][0].result == "failure"


def dangerous(*places: Path) -> set[str]:
    """Return the files in which zizmor finds a trigger with the base branch's rights."""
    zizmor = Path(sys.executable).parent / "zizmor"
    if not zizmor.exists():
        pytest.skip("needs zizmor, of the extra lint")
    command = [
        str(zizmor),
        "--offline",
        "--no-config",
        "--no-exit-codes",
        "--quiet",
        "--format=json",
        *map(str, places),
    ]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    told = [one["locations"] for one in found if one["ident"] == "dangerous-triggers"]
    return {Path(place["symbolic"]["key"]["Local"]["verbatim_path"]).name for places in told for place in places}


@pytest.mark.attack(2)
def test_no_trigger_with_rights(tmp_path: Path) -> None:
    """No workflow of ours, that `init` writes or that a page shows, is started by an event with the base's rights."""
    workflows = tmp_path / ".github" / "workflows"
    workflows.mkdir(parents=True)
    page = (ROOT / "docs" / "runners.md").read_text()
    texts = {
        "shown.yml": page.partition("```yaml\n")[2].partition("```")[0],
        "cpu.yml": starter.text("suites", gpu=False),
        "gpu.yml": starter.text("suites", gpu=True),
        **{path.name: path.read_text() for path in WORKFLOW.parent.iterdir()},
    }
    for name, text in texts.items():
        (workflows / name).write_text(text)
        assert not {"pull_request_target", "workflow_run"} & set(yaml.safe_load(text)[True])
    bad = texts["cpu.yml"].replace("pull_request:", "pull_request_target:")
    (workflows / "bad.yml").write_text(bad)
    assert dangerous(tmp_path) == {"bad.yml"}
    template = (ROOT / "action.yml").read_text() + (ROOT / ".gitlab" / "finetune.gitlab-ci.yml").read_text()
    assert "pull_request_target" not in template


def script(job: str, step: str) -> str:
    """Return the shell lines of one step."""
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"][job]["steps"]
    return str(next(one["run"] for one in steps if one["name"] == step))


@pytest.mark.parametrize("tampered", ["nothing", "weights", "sums", "one more", "other sums"])
def test_promotes_only_what_was_judged(tmp_path: Path, tampered: str) -> None:
    """An artifact that is not byte for byte what the verdict took out is not attested."""
    adapter = tmp_path / "adapters" / "colours" / "adapter_model.safetensors"
    adapter.parent.mkdir(parents=True)
    adapter.write_text("weights")
    sums = tmp_path / "adapters" / "SHA256SUMS"

    def summed() -> None:
        sums.write_text(f"{digest.of_file(adapter)}  colours/{adapter.name}\n")

    summed()
    judged = digest.of_file(sums)
    if tampered in ("weights", "sums"):
        adapter.write_text("others")
    if tampered == "sums":
        summed()
    if tampered == "one more":
        (adapter.parent / "more.safetensors").write_text("others")
    if tampered == "other sums":
        (adapter.parent / "SHA256SUMS").write_text("others")
    env = {"RUNNER_TEMP": str(tmp_path), "SUMS": judged, "PATH": os.environ["PATH"]}
    command = ["bash", "-eo", "pipefail", "-c", script("promote", "Check that they are the verdict's")]
    assert (subprocess.run(command, env=env, check=False).returncode == 0) == (tampered == "nothing")


@pytest.mark.parametrize("event", ["pull_request", "merge_group", "push", "workflow_dispatch", "schedule"])
def test_required_name_is_of_what_compares(event: str) -> None:
    """Nothing that has no base to compare the policy with bears the name of the required check."""
    name = yaml.safe_load(WORKFLOW.read_text())["jobs"]["verdict"]["name"]
    called = evaluate(name.removeprefix("${{").removesuffix("}}"), {"github": {"event_name": event}})
    assert (called == "verdict") == (event in ("pull_request", "merge_group"))


def test_every_script_parses() -> None:
    """Bash reads every script of the workflows, of the action and of the GitLab template."""
    documents = [yaml.safe_load(file.read_text()) for file in WORKFLOW.parent.glob("*.yml")]
    steps = [step for document in documents for job in document["jobs"].values() for step in job["steps"]]
    steps += yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    gitlab = yaml.safe_load((ROOT / ".gitlab" / "finetune.gitlab-ci.yml").read_text())
    scripts = [step["run"] for step in steps if "run" in step]
    scripts += [line for job in gitlab.values() if isinstance(job, dict) for line in job.get("script", [])]
    assert len(scripts) > 20
    for one in scripts:
        subprocess.run(["bash", "-n"], input=one, text=True, check=True)


@pytest.mark.attack(2, 4)
@pytest.mark.parametrize(
    ("event", "ref", "namespace"),
    [
        ("push", "refs/heads/main", ""),
        ("schedule", "refs/heads/main", ""),
        ("push", "refs/heads/other", "refs~heads~other"),
        ("push", "refs/tags/main", "refs~tags~main"),
        ("pull_request", "refs/pull/7/merge", "refs~pull~7~merge"),
        ("pull_request_target", "refs/heads/main", "refs~heads~main"),
        ("workflow_run", "refs/heads/main", "refs~heads~main"),
    ],
)
def test_where_the_action_writes(event: str, ref: str, namespace: str, tmp_path: Path) -> None:
    """Only the default branch writes the store itself: not an event that can bear its name over other code."""
    steps = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    gate = next(one["run"] for one in steps if one["name"] == "Gate")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor one; do echo "$one"; done > "$RUNNER_TEMP/given"\n')
    python.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "output")}
    env |= {"SUITES": ".", "ARGUMENTS": "", "STORE": "/store", "PYTHON": str(python)}
    env |= {"EVENT": event, "REF": ref, "DEFAULT": "refs/heads/main"}
    subprocess.run(["bash", "-eo", "pipefail", "-c", gate], env=env, check=True)
    stores = [one for one in (tmp_path / "given").read_text().splitlines() if one.startswith("--finetune-store")]
    own = [f"--finetune-store=/store/namespaces/{namespace}", "--finetune-store-from=/store"]
    assert stores == (own if namespace else ["--finetune-store=/store"])


@pytest.mark.slow
def test_action(runner: Callable[..., Runner], repository: Repository, tmp_path: Path) -> None:
    """The composite action gates, says in its outputs what that came to, and keeps the evidence."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    checkout = {"name": "Check out", "uses": "actions/checkout@x", "with": {"persist-credentials": "false"}}
    job = {
        "name": "gate",
        "permissions": {"contents": "read"},
        "steps": [checkout, *action["runs"]["steps"]],
        "outputs": {name: output["value"] for name, output in action["outputs"].items()},
    }
    document = {True: {"workflow_call": {"inputs": action["inputs"]}}, "jobs": {"gate": job}}
    (tmp_path / "action.yml").write_text(yaml.safe_dump(document))
    github = repository.push() | {"action_path": str(ROOT)}
    run = runner(github, workflow=tmp_path / "action.yml", inputs={"args": "-k beats -q"})
    gate = run.run()["gate"][0]
    assert gate.outputs == {"exit-code": "0", "outcome": "PASS"}, gate.log
    assert (run.artifacts / "finetune" / "evidence" / "evidence.json").is_file()


@pytest.mark.slow
def test_gitlab(runner: Callable[..., Runner], repository: Repository, tmp_path: Path, store: Path) -> None:
    """On GitLab the same suite is planned, judged in its cell and again without it, and taken out with its sums."""
    document = yaml.safe_load((ROOT / ".gitlab" / "finetune.gitlab-ci.yml").read_text())
    work = tmp_path / "gitlab"
    subprocess.run(["git", "clone", "-q", str(repository.folder), str(work)], check=True)
    env = {"PATH": runner(repository.push()).path, "PYTHONPATH": str(ROOT), "HOME": os.environ["HOME"]}
    env |= document["variables"] | {"FINETUNE_SUITES": "suites", "FINETUNE_STORE": str(store)}
    env |= {"CI_COMMIT_BRANCH": "main", "CI_DEFAULT_BRANCH": "main"}
    for stage in ("plan", "cells", "verdict", "promote"):
        lines = [*document[".finetune"]["before_script"], *document[f"finetune-{stage}"]["script"]]
        subprocess.run(["bash", "-eo", "pipefail", "-c", "\n".join(lines)], cwd=work, env=env, check=True)
    [release] = (work / "adapters" / "colours").iterdir()
    folder.check(release)


@pytest.mark.parametrize("whose", ["docs", "init"])
def test_callers_fit(whose: str) -> None:
    """The workflows that the documentation shows and `init` writes give inputs that exist, and all rights needed."""
    page = (ROOT / "docs" / "runners.md").read_text()
    shown = page.partition("```yaml\n")[2].partition("```")[0]
    caller = yaml.safe_load(shown if whose == "docs" else starter.text("suites", gpu=True))["jobs"]["finetune"]
    document = yaml.safe_load(WORKFLOW.read_text())
    assert set(caller["with"]) <= set(document[True]["workflow_call"]["inputs"])
    rights: dict[str, str] = {}
    for job in document["jobs"].values():
        rights |= job["permissions"]
    assert caller["permissions"] == rights


def test_rights() -> None:
    """Only the comment may write to pull requests, only the promotion may sign, and neither checks anything out."""
    document = yaml.safe_load(WORKFLOW.read_text())
    assert document["permissions"] == {}
    writes = {"comment": {"pull-requests"}, "promote": {"id-token", "attestations"}}
    for name, spec in document["jobs"].items():
        assert {right for right, level in spec["permissions"].items() if level == "write"} == writes.get(name, set())
        checks_out = any("checkout" in step.get("uses", "") for step in spec["steps"])
        assert checks_out == (name in ("plan", "cells", "verdict"))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a.b == 'X' && 'yes' || 'no'", "yes"),
        ("a.none == 'x' || !(a.b != 'x')", True),
        ("!a.none && a.c || ''", ""),
        ("a.list.none", None),
        ("fromJSON('[1]')", [1]),
        ("'it''s'", "it's"),
    ],
)
def test_expressions(expression: str, value: object) -> None:
    """The runner's expressions are GitHub's: text without case, `&&` and `||` give an operand, null is empty."""
    assert evaluate(expression, {"a": {"b": "x", "c": "", "list": []}}) == value
