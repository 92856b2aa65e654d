"""`pytest-finetune promote` and `rollback`: only what passed is released, as it was judged, and the way back stays."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import runs
import yaml

from pytest_finetune import cli, digest
from pytest_finetune.digest import SHIPPED
from pytest_finetune.errors import SuiteError
from pytest_finetune.ledger import Attempt, Ledger
from pytest_finetune.records import Adapter, RunRecord
from pytest_finetune.release import folder
from pytest_finetune.report import run_json

ROWS = ("a", "b")


class Project:
    """A place with a store, runs and releases."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root, root / "releases"

    def adapter(self, weights: str, **files: str) -> Adapter:
        """Make an adapter beside what training leaves there."""
        place = self.root / "store" / weights
        place.mkdir(parents=True)
        config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
        for name, text in {"adapter_config.json": json.dumps(config), "curve.json": "{}", **files}.items():
            (place / name).write_text(text)
        (place / "adapter_model.safetensors").write_text(weights)
        return Adapter(str(place), digest.of_files(place, SHIPPED), "lora")

    def run(self, adapter: Adapter, name: str = "colours") -> RunRecord:
        """Return a run that judged an adapter, and passed."""
        [suite] = runs.run(suites=2).suites[1:]
        verdict = replace(suite.verdicts[0], test="test_it", digests={"adapter": adapter.digest, "rows": "r" * 64})
        claims = tuple(replace(claim, name="beats", on="held-out") for claim in verdict.claims)
        assert suite.adapter
        adapter = replace(adapter, curve=suite.adapter.curve)
        suite = replace(suite, name=name, adapter=adapter, verdicts=(replace(verdict, claims=claims),))
        suite = replace(suite, model="some/base", model_digest="some/base@main-1")
        return replace(runs.run(), suites=(suite,), outcome="PASS", tests=(), policy=())

    def judge(self, adapter: Adapter, outcome: str = "PASS", question: str = "superiority exact_match") -> None:
        """Note in the ledger what an adapter came to."""
        attempt = Attempt("colours", "held-out", question, ROWS, adapter.digest + question, adapter.digest)
        ledger = Ledger(self.root / "store")
        ledger.number(attempt)
        ledger.decided(attempt, outcome)

    def passed(self, weights: str) -> RunRecord:
        """Return a run that passed, also by the ledger."""
        adapter = self.adapter(weights)
        self.judge(adapter)
        return self.run(adapter)

    def promote(self, run: RunRecord, *options: str) -> int:
        """Run the command; return its exit code."""
        run_json.write(run, self.root / "run.json")
        command = ["promote", str(self.root / "run.json"), f"--out={self.out}", f"--store={self.root / 'store'}"]
        return cli.main([*command, *options])

    def rollback(self) -> int:
        """Run the command; return its exit code."""
        return cli.main(["rollback", str(self.out / "colours")])

    def release(self, run: RunRecord) -> Path:
        """Return the release of a run."""
        adapter = run.suites[0].adapter
        assert adapter
        return self.out / "colours" / adapter.digest

    def links(self) -> dict[str, str]:
        """Return where the pointers lead."""
        place = self.out / "colours"
        return {name: str((place / name).readlink()) for name in ("current", "previous") if (place / name).is_symlink()}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project of its own."""
    (tmp_path / "store").mkdir()
    return Project(tmp_path)


def test_releases_what_ships(project: Project) -> None:
    """A release holds the weights and their configuration, the card, the run and sums of all, and nothing else."""
    run = project.passed("one")
    assert project.promote(run) == 0
    release = project.release(run)
    names = sorted(path.name for path in release.iterdir())
    assert names == ["README.md", "SHA256SUMS", "adapter_config.json", "adapter_model.safetensors", "run.json"]
    assert digest.of_files(release, SHIPPED) == release.name
    sums = (release / "SHA256SUMS").read_text().splitlines()
    assert sums == [f"{digest.of_file(release / name)}  {name}" for name in names if name != "SHA256SUMS"]
    assert project.links() == {"current": release.name}
    assert not [path for path in (project.out / "colours").iterdir() if path.name.endswith(".half")]


def test_card(project: Project) -> None:
    """The card's front matter is YAML that the hub knows; claims, data, base and licences stand below it."""
    run = project.passed("one")
    assert project.promote(run) == 0
    card = (project.release(run) / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["base_model"] == "some/base"
    assert (head["library_name"], head["license"], head["pipeline_tag"]) == ("peft", "other", "text-generation")
    for said in (
        "main&#45;1",
        "attempt 2",
        "+30.0",
        "r" * 64,
        "unknown: no file of it here says",
        "LORA",
        "40, of which 20",
    ):
        assert said in card, said
    assert "Forced" not in card


def test_no_row_leaves(project: Project) -> None:
    """The released run has every claim and not the text of a row, nor a path; it can be drawn again."""
    run = project.passed("one")
    assert project.promote(run) == 0
    release = project.release(run)
    text = (release / "run.json").read_text()
    assert "the box" not in text
    assert str(project.root) not in text
    assert cli.main(["report", str(release / "run.json")]) == 0
    assert run_json.read(release / "run.json").suites[0].verdicts[0].claims == run.suites[0].verdicts[0].claims


def test_base_licence_is_read(project: Project, tmp_path: Path) -> None:
    """The base model's licence is the one that its own card names."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\nlicense: no\n")
    run = project.passed("one")
    suite = replace(run.suites[0], model="./base", model_digest="d" * 64, file=str(tmp_path / "suite.toml"))
    run = replace(run, suites=(suite,))
    assert project.promote(run) == 0
    assert "apache&#45;2&#46;0</code>, as its README.md says" in (project.release(run) / "README.md").read_text()


@pytest.mark.parametrize("outcome", ["FAIL", "INCONCLUSIVE", "ERROR", "SKIPPED"])
def test_only_a_run_that_passed(project: Project, outcome: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing leaves a run that did not pass, and the line says what it came to."""
    assert project.promote(replace(project.passed("one"), outcome=outcome)) == 4
    assert f"came to {outcome}" in capsys.readouterr().err
    assert not project.out.exists()


def _no_ledger(project: Project) -> None:
    shutil.rmtree(project.root / "store" / "ledger")


def _refuted_later(project: Project) -> None:
    project.judge(
        Adapter("", digest.of_files(project.root / "store" / "one", SHIPPED), ""), "FAIL", "level exact_match"
    )


def _never_judged(project: Project) -> None:
    _no_ledger(project)
    project.judge(Adapter("", "f" * 64, ""))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_no_ledger, "no ledger in"),
        (_refuted_later, "says of held-out, level exact_match: FAIL"),
        (_never_judged, "never judged the adapter"),
    ],
)
def test_only_what_the_ledger_knows(
    project: Project, change: Callable[[Project], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that says PASS is not enough: the ledger must hold a PASS of every question that was asked."""
    run = project.passed("one")
    change(project)
    assert project.promote(run) == 4
    assert said in capsys.readouterr().err
    assert not project.out.exists()


def test_last_outcome_counts(project: Project) -> None:
    """A question that was lost once and won at the last look is won."""
    run = project.passed("one")
    adapter = run.suites[0].adapter
    assert adapter
    ledger = Ledger(project.root / "store")
    earlier = Attempt("colours", "held-out", "level m", ROWS, "s", adapter.digest)
    later = replace(earlier, rows=(*ROWS, "c"))
    for attempt, outcome in ((earlier, "FAIL"), (later, "PASS")):
        ledger.number(attempt)
        ledger.decided(attempt, outcome)
    assert project.promote(run) == 0


def test_evidence_has_a_ledger_a_suite(project: Project) -> None:
    """`--store` may be the folder of evidence, in which each suite has a folder."""
    run = project.passed("one")
    (project.root / "evidence").mkdir()
    (project.root / "store").rename(project.root / "evidence" / "colours")
    (project.root / "store").symlink_to(project.root / "evidence" / "colours")  # where the run found its adapter
    assert project.promote(run, f"--store={project.root / 'evidence'}") == 0


def test_verdict_of_another_adapter(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A run whose verdict is of other bytes than its adapter's is no pass of it."""
    run = project.passed("one")
    verdict = replace(run.suites[0].verdicts[0], digests={"adapter": "e" * 64})
    assert project.promote(replace(run, suites=(replace(run.suites[0], verdicts=(verdict,)),))) == 4
    assert "no verdict in it is of the adapter" in capsys.readouterr().err


def test_only_what_was_judged(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """An adapter that changed since is refused, also by force, and nothing is written."""
    run = project.passed("one")
    (project.root / "store" / "one" / "adapter_model.safetensors").write_text("others")
    assert project.promote(run, "--force=now") == 4
    assert "does not hold the adapter that was judged" in capsys.readouterr().err
    assert not project.out.exists()


def test_force_leaves_a_mark(project: Project) -> None:
    """What did not pass is released for a reason only, which stands in card and history with what spoke against it."""
    run = replace(project.passed("one"), outcome="FAIL")
    assert project.promote(run, "--force= ") == 4
    assert project.promote(run, "--force=the <b>boss</b> said so") == 0
    card = (project.release(run) / "README.md").read_text()
    assert "**Forced.**" in card
    assert "came to FAIL" in card
    assert "<b>" not in card
    assert "forced" in yaml.safe_load(card.split("---\n")[1])["tags"]
    history = json.loads((project.out / "colours" / "history.jsonl").read_text())
    assert "boss" in history["forced"]
    assert history["by"]


def test_no_unmarked_release_is_forced(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """What was released without force and fails since cannot be promoted again under its unmarked card."""
    run = project.passed("one")
    assert project.promote(run) == 0
    assert project.promote(project.passed("two")) == 0
    assert project.promote(replace(run, outcome="FAIL"), "--force=now") == 4
    assert "was promoted without force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ({"outcome": "HOLD", "claims": []}, "the shadow's verdict is HOLD"),
        ({"outcome": "PROMOTE", "candidate": "another"}, "is of the candidate 'another'"),
        ({"claims": []}, "no verdict of a shadow"),
    ],
)
def test_shadow_must_say_promote(
    project: Project, verdict: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shadow's verdict that is given must be PROMOTE, and of this adapter."""
    run = project.passed("one")
    given = {"candidate": project.release(run).name, **verdict}
    (project.root / "verdict.json").write_text(json.dumps(given))
    assert project.promote(run, f"--shadow={project.root / 'verdict.json'}") == 4
    assert said in capsys.readouterr().err


def test_shadow_in_the_card(project: Project) -> None:
    """The card shows the shadow's claims as its file has them."""
    run = project.passed("one")
    claims = [{"name": "latency", "estimate": 1.125, "outcome": "PROVEN"}]
    given = {"candidate": project.release(run).name, "outcome": "PROMOTE", "claims": claims, "pairs": 900}
    (project.root / "verdict.json").write_text(json.dumps(given))
    assert project.promote(run, f"--shadow={project.root / 'verdict.json'}") == 0
    card = (project.release(run) / "README.md").read_text()
    assert all(said in card for said in ("latency", "1&#46;125", "PROVEN", "900"))


def test_promote_and_back(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A promotion keeps the one before, a rollback swaps them, and the history tells each move once."""
    runs_of = [project.passed(name) for name in ("one", "two")]
    one, two = (project.release(run).name for run in runs_of)
    for run in runs_of:
        assert project.promote(run) == 0
    before = (project.out / "colours" / one / "README.md").read_bytes()
    assert project.links() == {"current": two, "previous": one}
    assert project.rollback() == 0
    assert project.links() == {"current": one, "previous": two}
    assert project.promote(runs_of[0]) == 0  # it serves already
    assert (project.out / "colours" / one / "README.md").read_bytes() == before
    told = [json.loads(line) for line in (project.out / "colours" / "history.jsonl").read_text().splitlines()]
    assert [(move["why"], move["before"], move["after"]) for move in told] == [
        ("promote", "", one), ("promote", one, two), ("rollback", two, one),
    ]  # fmt: skip
    assert (project.out / "colours" / two / "adapter_model.safetensors").read_text() == "two"
    assert "is current again" in capsys.readouterr().out


def test_nothing_to_go_back_to(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A first release has none before it, and a folder without releases has none at all."""
    assert project.rollback() == 4
    assert "nothing was promoted there" in capsys.readouterr().err
    assert project.promote(project.passed("one")) == 0
    assert project.rollback() == 4
    assert "no release before" in capsys.readouterr().err


def test_never_back_to_a_damaged_one(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A release whose files changed is neither gone back to nor promoted again."""
    run = project.passed("one")
    assert project.promote(run) == 0
    assert project.promote(project.passed("two")) == 0
    (project.release(run) / "adapter_model.safetensors").write_text("others")
    links = project.links()
    assert project.rollback() == 4
    assert project.promote(run) == 4
    assert capsys.readouterr().err.count("is damaged: adapter_model.safetensors") == 2
    assert project.links() == links


def test_a_suites_name_is_no_way_out(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that a run was given cannot lead out of the folder of releases."""
    run = project.run(project.adapter("one"), name="../elsewhere")
    assert project.promote(run, "--force=x") == 4
    assert "cannot name a folder" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


def test_a_release_is_promoted_elsewhere(project: Project) -> None:
    """From a release alone, with the ledger, another machine makes the same release."""
    run = project.passed("one")
    assert project.promote(run) == 0
    release = project.release(run)
    (project.root / "store" / "one").rename(project.root / "gone")
    out = project.root / "serving"
    assert cli.main(["promote", str(release / "run.json"), f"--out={out}", f"--store={project.root / 'store'}"]) == 0
    folder.check(out / "colours" / release.name)
    assert digest.of_files(out / "colours" / "current", SHIPPED) == release.name
    copied = out / "colours" / release.name
    assert all((copied / path.name).read_bytes() == path.read_bytes() for path in release.iterdir())


def test_a_forced_mark_stays(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """What was forced once is not taken from its release as if it had passed, whatever was wrong with it."""
    run = project.passed("one")
    (project.root / "verdict.json").write_text(json.dumps({"outcome": "HOLD", "candidate": project.release(run).name}))
    assert project.promote(run, f"--shadow={project.root / 'verdict.json'}", "--force=hurry") == 0
    again = ["promote", str(project.release(run) / "run.json"), f"--store={project.root / 'store'}"]
    assert cli.main([*again, f"--out={project.root / 'serving'}"]) == 4
    assert "was forced, as its card says" in capsys.readouterr().err
    assert cli.main([*again, f"--out={project.root / 'serving'}", "--force=hurry again"]) == 0
    assert "hurry again" in (project.root / "serving" / "colours" / "current" / "README.md").read_text()


def test_only_a_release_of_the_digest_is_reused(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that only bears the digest's name, with sums of its own, does not serve."""
    run, other = project.passed("one"), project.passed("two")
    assert project.promote(other) == 0
    project.release(other).rename(project.release(run))
    assert project.promote(run) == 4
    assert "does not hold the adapter that was judged" in capsys.readouterr().err


def test_push_to_a_folder(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder gets the release once, and keeps whatever else it held."""
    run = project.passed("one")
    target = project.root / "shared" / "colours"
    assert project.promote(run, f"--push={target}") == 0
    assert project.promote(run, f"--push={target}") == 0
    folder.check(target)
    assert project.promote(project.passed("two"), f"--push={target}") == 4
    assert "there is something else already" in capsys.readouterr().err
    assert (target / "adapter_model.safetensors").read_text() == "one"
    assert project.links() == {"current": project.release(run).name}  # what could not be pushed does not serve


def test_nothing_to_release(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A run without an adapter has nothing to release, and --suite names one that has."""
    run = project.passed("one")
    assert project.promote(run, "--suite=other") == 4
    assert "there are colours" in capsys.readouterr().err
    assert project.promote(replace(run, suites=(replace(run.suites[0], adapter=None),))) == 0
    assert not project.out.exists()


def test_current_waits_for_the_servers(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that cannot load a release keeps `current` where it was, forth and back; the release stays."""
    nobody = "--load=http://127.0.0.1:1"  # where only the system may listen, and does not
    first, second = project.passed("one"), project.passed("two")
    assert project.promote(first) == 0
    assert project.promote(second, nobody) == 4
    assert project.links() == {"current": project.release(first).name}
    assert project.release(second).is_dir()
    assert project.promote(second) == 0
    assert cli.main(["rollback", str(project.out / "colours"), nobody]) == 4
    assert project.links()["current"] == project.release(second).name
    assert capsys.readouterr().err.count("no answer") == 2


def test_the_copy_is_checked(project: Project) -> None:
    """What was copied must be what was judged, whatever became of the source meanwhile; else nothing appears."""
    adapter = project.adapter("one")
    source = Path(adapter.path)
    (source / "adapter_model.safetensors").write_text("others")
    with pytest.raises(SuiteError, match="does not hold the adapter that was judged"):
        folder.write(project.out / adapter.digest, adapter, source, {})
    assert not list(project.out.iterdir())


def test_a_release_whose_card_is_damaged(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A release's card that is no text any more is damage, in one line, where a release is taken from it."""
    release = project.release(run := project.passed("one"))
    assert project.promote(run) == 0
    (release / "README.md").write_bytes(b"\xff")
    again = ["promote", str(release / "run.json"), f"--store={project.root / 'store'}"]
    assert cli.main([*again, f"--out={project.root / 'serving'}"]) == 4
    said = capsys.readouterr().err
    assert "is damaged: README.md is not as in SHA256SUMS" in said
    assert said.count("\n") == 1
