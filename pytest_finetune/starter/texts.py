"""The text of a suite's files: suite.toml with comments that teach, its test, and the workflow that calls the gate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import dedent

from pytest_finetune.starter.columns import Answers
from pytest_finetune.suite import EMBEDDED, Fields

REPOSITORY = "pytest-finetune/pytest-finetune"
SCHEMA = f"https://raw.githubusercontent.com/{REPOSITORY}/main/pytest_finetune/suite.schema.json"
ANSWER_SCHEMA = "answer.schema.json"
SHORT_BYTES = 40  # answers up to here are right or wrong; longer ones share more or fewer words with the reference
PROMPTS = {
    "classification": "Classify the text. Reply with the label only.",
    "extraction": "Extract the fields. Reply with the JSON object only.",
    "style": "Rewrite the text in our style. Reply with the rewritten text only.",
    "domain": "Answer in the terms of our domain. Reply with the answer only.",
    "instruction": "Follow the instruction. Reply with the answer only.",
}
EPOCHS = 3
USUAL_ROOM = 64  # new tokens, where a suite says nothing


@dataclass(frozen=True, slots=True)
class General:
    """A general suite: its rows and what is replayed of others, as suite.toml names them."""

    data: str
    replay: str = ""
    fields: Fields = field(default_factory=Fields)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a new suite says. Paths are as suite.toml has them, relative to its folder."""

    task: str
    model: str
    revision: str
    train: str
    heldout: str
    fields: Fields
    answers: Answers
    general: Sequence[General]
    candidates: Sequence[str]
    sample: bool


def suite(plan: Plan) -> str:
    """Return the text of suite.toml."""
    parts = [_head(plan), _data(plan), _answer(plan), _checks(plan), _prompts(plan), _training(plan), _gate(plan)]
    return "\n".join(part for part in (*parts, *map(_general, plan.general)) if part)


def tests(keeps: bool) -> str:
    """Return the text of a suite's tests; ``keeps`` says whether there are general suites to keep."""
    beats = '''\
        """No eval, no training: what the adapter must prove before it ships."""


        def test_beats_the_best_prompt(gate, adapter, baseline, heldout):
            """The adapter beats the best prompt by [gate] margin."""
            gate.beats(adapter, baseline, on=heldout)
        '''
    general = '''

        def test_keeps_general_skills(gate, adapter, base_model, general):
            """The adapter keeps the skills it was not trained on: [gate] max_drop of them all, guard of each."""
            gate.keeps(adapter, base_model, on=general)
        '''
    return dedent(beats) + dedent(general if keeps else "")


def quoted(text: str) -> str:
    """Return a text as a string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _head(plan: Plan) -> str:
    about = " # in the package, 1.5 M weights: to try the gate with" if plan.model == EMBEDDED else ""
    revision = f"revision = {quoted(plan.revision)}\n" if plan.revision else ""
    return (
        f"#:schema {SCHEMA}\n"
        "# What is fine-tuned, on which rows, and what must be proven before it ships.\n"
        f"model = {quoted(plan.model)}{about}\n{revision}"
        f'task = "{plan.task}"\n'
    )


def _data(plan: Plan) -> str:
    names = _fields(plan.fields)
    return (
        "[data]\n"
        f"train = {quoted(plan.train)} # a tenth is set aside to choose the prompt and the checkpoint by\n"
        f"heldout = {quoted(plan.heldout)} # for the gate only: never train on these, nor write prompts by them\n"
        + (f"fields = {names}\n" if names else "")
    )


def _answer(plan: Plan) -> str:
    if plan.answers.labels:
        labels = "".join(f"  {quoted(label)},\n" for label in plan.answers.labels)
        return f"[answer] # prompts are told, and references are checked against it\nlabels = [\n{labels}]\n"
    return f'[answer]\nschema = "{ANSWER_SCHEMA}" # references are checked by it\n' if plan.answers.schema else ""


def _checks(plan: Plan) -> str:
    if not plan.sample:
        return ""
    return (
        "# The sample rows are drawn from a few sentences, so near twins are meant. Delete this with them.\n"
        "[checks]\n"
        + "".join(f'{name} = {{ on_issue = "off" }}\n' for name in ("near_duplicates", "near_leakage", "sizing"))
    )


def _prompts(plan: Plan) -> str:
    candidates = "".join(f"  {quoted(text)},\n" for text in plan.candidates)
    return (
        "[prompts] # the adapter must beat the best of these, so write your very best ones\n"
        f"serve = {quoted(plan.candidates[0])} # what the adapter is trained and served with\n"
        f"candidates = [\n{candidates}]\n" + ("shots = [0]\n" if plan.sample else "")
    )


def _training(plan: Plan) -> str:
    if plan.model != EMBEDDED:
        return '[training]\nmethod = "lora" # or qlora, where memory is short; `pytest-finetune advise` weighs them\n'
    return (
        "[training] # so small a model learns at twenty times the usual rate; leave all of it out with a larger one\n"
        f"learning_rate = 4e-3\nbatch_size = 16\nepochs = {EPOCHS}\n"
        + ("replay = 0.5 # share of general rows in the mix, against forgetting\n" if plan.general else "")
    )


def _gate(plan: Plan) -> str:
    room = 32 * (plan.answers.longest_bytes // 64 + 1)  # two bytes a token are few
    small = plan.model == EMBEDDED
    keeps = (
        "# 1.5 M weights give back some of what they had; 0.02 and 0.05 suit a model of useful size.\n" if small else ""
    )
    keeps += f"max_drop = {'0.05' if small else '0.02'} # of the general suites' mean\n"
    keeps += f"guard = {'0.15' if small else '0.05'} # of each of them\n"
    return (
        "[gate] # differences of mean scores from 0 to 1; who lowers one of these should say why\n"
        f'metric = "{_metric(plan)}" # or your own: "python:FILE.py:FUNCTION"\n'
        f"margin = {'0.10' if plan.sample else '0.05'} # so much better than the best prompt, proven\n"
        + (keeps if plan.general else "")
        + (f"\n[generation]\nmax_new_tokens = {room} # room for the longest reference\n" if room > USUAL_ROOM else "")
    )


def _metric(plan: Plan) -> str:
    if plan.task == "classification":
        return "label_accuracy"
    if plan.answers.schema:
        return "json_fields"
    return "exact_match" if plan.answers.longest_bytes <= SHORT_BYTES else "token_f1"


def _general(general: General) -> str:
    replay = f"replay = {quoted(general.replay)} # others of the same kind, mixed into training\n"
    names = _fields(general.fields)
    return (
        "[[general]] # a skill that must not be forgotten\n"
        f"data = {quoted(general.data)}\n"
        + (replay if general.replay else "")
        + (f"fields = {names}\n" if names else "")
    )


def _fields(fields: Fields) -> str:
    if fields == Fields():
        return ""
    return f"{{ prompt = {quoted(fields.prompt)}, completion = {quoted(fields.completion)} }}"
