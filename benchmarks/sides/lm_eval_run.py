"""lm-evaluation-harness's side of a race: the requests of its `hf` model, of the same strings.

    python -m benchmarks.sides.lm_eval_run JOB.json        (in the peers' environment)

A job names a ``task`` of `TASKS`; its result overwrites it.
"""

from __future__ import annotations

from typing import Any

from benchmarks.sides.ruler import Ruler, answer


def evaluate(job: dict[str, Any]) -> dict[str, Any]:
    """Answer or choose, measured after a first call."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    extra = {"peft": job["adapter"]} if job["adapter"] else {}
    model = HFLM(pretrained=job["model"], device="cpu", dtype="float32", batch_size=job["batch_size"], **extra)
    end = model.tokenizer.eos_token

    def text(prompt: list[dict[str, str]]) -> str:
        written: str = model.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        return written

    def ask(prompts: list[list[dict[str, str]]]) -> list[Any]:
        if job["choices"]:
            pairs = [(text(prompt), choice + end) for prompt in prompts for choice in job["choices"]]
            asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
            nats = [found[0] for found in model.loglikelihood(asked, disable_tqdm=True)]
            size = len(job["choices"])
            return [nats[i : i + size] for i in range(0, len(nats), size)]
        settings = {"until": [end], "max_gen_toks": job["max_new_tokens"], "do_sample": False}
        asked = [Instance("generate_until", {}, (text(prompt), settings), i) for i, prompt in enumerate(prompts)]
        return [found.strip() for found in model.generate_until(asked, disable_tqdm=True)]

    ask(job["warm"])
    with Ruler() as ruler:
        found = ask(job["prompts"])
    return {**ruler.taken, "found": found}


TASKS = {"evaluate": evaluate}

if __name__ == "__main__":
    answer(TASKS)
