"""The recipe of the embedded base model: data, tokenizer, initialisation, pretraining."""
