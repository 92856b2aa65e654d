"""The methods: what each trains, how good it can get, and the settings it starts from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Method:
    """One way to fine-tune.

    ``learning_rate`` is the default where a suite names none. Sources: LoRA and QLoRA, Hu 2021
    (arXiv 2106.09685) and Dettmers 2023 (2305.14314), table 9; prompt tuning, Lester 2021
    (2104.08691), section 3; full fine-tuning, the usual 1e-5 to 5e-5. ``ceiling`` is the quality
    it can reach, as docs/methods.md explains.
    """

    name: str
    summary: str
    learning_rate: float
    ceiling: str
    quantised: bool = False
    ships: str = "an adapter folder"


LORA_CEILING = "full fine-tuning's, up to tens of thousands of rows"
SOFT_CEILING = "below LoRA under about 10 B weights, near it above"
METHODS = {
    method.name: method
    for method in (
        Method("lora", "low-rank adapters on all linear layers", 2e-4, LORA_CEILING),
        Method("qlora", "LoRA over a base model held in 4 bits (NF4)", 2e-4, "LoRA's", quantised=True),
        Method("soft_prompt", "soft prompt: trained vectors before the text", 3e-2, SOFT_CEILING),
        Method(
            "full", "every weight", 2e-5, "the highest, given many rows; forgets most", ships="a whole model folder"
        ),
    )
}

AUTO = "auto"  # as the advisor says
PROMPT = "prompt"  # no gradients: the best prompt ships
PROMPT_CEILING = "what the base model can already do"
CHOICES = (AUTO, *METHODS, PROMPT)
