"""Tasks of lm-evaluation-harness as a project keeps them: YAML files, their code and their data in one folder."""

import json
from pathlib import Path

ROWS = Path(__file__).parents[1] / "eval_suites" / "general"
LONG = "The clerk read the list again. " * 150  # more than the embedded model's context
HEAD = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_target: completion
target_delimiter: " "
"""
TASKS = {
    "ranked": """output_type: multiple_choice
doc_to_choice: [positive, negative]
fewshot_split: test
num_fewshot: 2
metric_list:
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}
""",
    "said": """output_type: generate_until
generation_kwargs: {until: ["tb", "ere", "o"], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
filter_list:
  - {name: first, filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]}
  - {name: whole, filter: [{function: remove_whitespace}, {function: take_first}]}
""",
    "likely": "output_type: loglikelihood\n",
    "rolling": 'output_type: loglikelihood_rolling\ndoc_to_target: "{{prompt}} {{completion}}"\n',
    "coded": """output_type: multiple_choice
doc_to_choice: [positive, negative]
doc_to_target: !function judged.place
process_results: !function judged.score
metric_list:
  - {metric: odds, aggregation: mean, higher_is_better: true}
  - {metric: doubt, aggregation: mean, higher_is_better: false}
""",
}
CODE = """
import math


def place(doc):
    return ["positive", "negative"].index(doc["completion"])


def score(doc, results):
    odds = [math.exp(nats) for nats, _ in results]
    share = odds[place(doc)] / sum(odds)
    return {"odds": share, "doubt": 1 - share, "greedy": results[place(doc)][1]}
"""


def rows(name: str, count: int) -> list[dict[str, str]]:
    """Return the first rows of one of the repository's general suites."""
    lines = (ROWS / f"{name}.jsonl").read_text().splitlines()[:count]
    return [json.loads(line) for line in lines]


def write(folder: Path, name: str, asked: list[dict[str, str]], more: str = "") -> Path:
    """Write one task with its data; return its YAML file."""
    folder.mkdir(exist_ok=True)
    (folder / "judged.py").write_text(CODE)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    file = folder / f"{name}.yaml"
    file.write_text(HEAD.format(name=name, rows=f"{name}.jsonl") + TASKS[name] + more)
    return file


def write_all(folder: Path, count: int) -> list[str]:
    """Write a task of each kind, each with a document that is longer than the model reads; return their names.

    Beside them lies data for one of lm-eval's own, which from that folder is found under its name on the hub.
    """
    for name in TASKS:
        asked = rows("copy" if name in ("said", "likely") else "sentiment", count)
        write(folder, name, [*asked, {**asked[0], "prompt": LONG + asked[0]["prompt"]}])
    hub = folder / "Rowan" / "hellaswag"
    hub.mkdir(parents=True)
    for split in ("train", "validation"):
        lines = [json.dumps(_ended(row, i)) for i, row in enumerate(rows("reading", count))]
        (hub / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return [*TASKS, "hellaswag"]


def _ended(row: dict[str, str], number: int) -> dict[str, object]:
    """Return a row as hellaswag has it: a context and its endings, one of which is right."""
    endings = ["in the garden", "nobody knows it", "at the market"]
    endings.insert(number % 4, row["completion"])
    context = {"activity_label": "Reading", "ctx_a": row["prompt"], "ctx_b": "the answer is"}
    return {**context, "endings": endings, "label": str(number % 4)}
