"""Conversations as tokens, the same way for training and for asking."""

from typing import Any

from pytest_finetune.protocol import Turns
from pytest_finetune.records import Conversation


def prompt_text(tokenizer: Any, messages: Turns) -> str:
    """Return the text up to where the answer begins, by the model's chat template.

    A model without a template gets the turns as paragraphs.
    """
    turns = [{"role": m.role, "content": m.content} for m in messages]
    if not tokenizer.chat_template:
        return "".join(f"{turn['content']}\n\n" for turn in turns)
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text


def tokens(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a prompt; a chat template has written the special tokens itself."""
    ids: list[int] = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    return ids


def training_tokens(tokenizer: Any, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Return the token ids of the prompt, and of the completion with its end mark.

    The two are tokenised apart, as they are when the model answers.
    """
    prompt = prompt_text(tokenizer, conversation.messages)
    completion = conversation.completion + (tokenizer.eos_token or "")
    if tokenizer.chat_template:
        turns = [{"role": m.role, "content": m.content} for m in conversation.messages]
        turns.append({"role": "assistant", "content": conversation.completion})
        whole: str = tokenizer.apply_chat_template(turns, tokenize=False)
        if whole.startswith(prompt):
            completion = whole[len(prompt) :]
    answer: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return tokens(tokenizer, prompt), answer
