"""The gate of the instruction suite."""


def test_beats_the_best_prompt(gate, adapter, baseline, heldout):
    """The adapter beats the best prompt, by the suite's margin."""
    gate.beats(adapter, baseline, on=heldout)


def test_keeps_general_skills(gate, adapter, base_model, general):
    """The adapter keeps the skills it was not trained on."""
    gate.keeps(adapter, base_model, on=general)
