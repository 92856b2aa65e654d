"""The methods of fine-tuning: what each trains, and the settings it starts from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Method:
    """One way to fine-tune.

    ``learning_rate`` is the default where a suite names none. Sources: LoRA and QLoRA, Hu 2021
    (arXiv 2106.09685) and Dettmers 2023 (2305.14314), table 9; prompt tuning, Lester 2021
    (2104.08691), section 3; full fine-tuning, the usual 1e-5 to 5e-5.
    """

    name: str
    summary: str
    learning_rate: float
    quantised: bool = False
    ships: str = "an adapter folder"


METHODS = {
    method.name: method
    for method in (
        Method("lora", "low-rank adapters on all linear layers", 2e-4),
        Method("qlora", "LoRA over a base model held in 4 bits (NF4)", 2e-4, quantised=True),
        Method("soft_prompt", "soft prompt: trained vectors before the text", 3e-2),
        Method("full", "every weight", 2e-5, ships="a whole model folder"),
    )
}

AUTO = "auto"  # as the advisor says
PROMPT = "prompt"  # no gradients: the best prompt ships
CHOICES = (AUTO, *METHODS, PROMPT)
