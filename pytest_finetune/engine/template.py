"""Conversations as tokens, the same way for training and for asking."""

from collections.abc import Sequence
from typing import Any

from pytest_finetune.engine.cage import caged
from pytest_finetune.errors import PromptTooLong
from pytest_finetune.protocol import Turns
from pytest_finetune.records import PLAIN, Conversation

BLANK_LINE = "\n\n"  # ends an answer where no chat template marks its end


def prompt_text(tokenizer: Any, messages: Turns) -> str:
    """Return the text up to where the answer begins, by the model's chat template.

    A plain text stays as it is; a model without a template gets the turns as paragraphs.
    """
    if messages[0].role == PLAIN:
        return messages[0].content
    turns = [{"role": m.role, "content": m.content} for m in messages]
    if not tokenizer.chat_template:
        return "".join(f"{turn['content']}\n\n" for turn in turns)
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text


def uses_chat(tokenizer: Any, messages: Turns) -> bool:
    """Whether the model's chat template writes the prompt."""
    return bool(tokenizer.chat_template) and messages[0].role != PLAIN


def prompt_tokens(tokenizer: Any, messages: Turns) -> list[int]:
    """Return the token ids of a prompt; a chat template has written the special tokens itself."""
    with caged(tokenizer.name_or_path):
        text = prompt_text(tokenizer, messages)
        ids: list[int] = tokenizer(text, add_special_tokens=not uses_chat(tokenizer, messages))["input_ids"]
    return ids


def training_tokens(tokenizer: Any, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Return the token ids of the prompt, and of the completion with its end mark.

    The two are tokenised apart, as they are when the model answers.
    """
    (completion,) = completions(tokenizer, conversation.messages, [conversation.completion])
    return prompt_tokens(tokenizer, conversation.messages), tokens_of(tokenizer, completion)


def completions(tokenizer: Any, messages: Turns, answers: Sequence[str]) -> list[str]:
    """Return the text of each answer to one prompt, with its end mark."""
    plain = [answer + (tokenizer.eos_token or "") for answer in answers]
    if not uses_chat(tokenizer, messages):
        return plain
    turns = [{"role": m.role, "content": m.content} for m in messages]
    with caged(tokenizer.name_or_path):
        prompt = prompt_text(tokenizer, messages)
        wholes = [
            tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=False)
            for answer in answers
        ]
    return [
        whole[len(prompt) :] if whole.startswith(prompt) else text for whole, text in zip(wholes, plain, strict=True)
    ]


def tokens_of(tokenizer: Any, completion: str) -> list[int]:
    """Return the token ids of a completion's text."""
    with caged(tokenizer.name_or_path):
        ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return ids


def end_marks(tokenizer: Any, messages: Turns) -> set[int]:
    """Return the special tokens that the model's chat template ends an answer with; nothing for a plain text."""
    if not uses_chat(tokenizer, messages):
        return set()
    (text,) = completions(tokenizer, messages, ["x"])
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return set([token for token in tokens_of(tokenizer, text) if token in special][:1])


def answer_in(text: str, chat: bool) -> str:
    """Return the answer in what a model wrote; without a chat template it ends at its first blank line."""
    return text.strip() if chat else text.lstrip().split(BLANK_LINE)[0].strip()


def check_room(prompt: int, new: int, context: int) -> None:
    """Raise PromptTooLong where a prompt leaves no room for ``new`` tokens; all are numbers of tokens."""
    if prompt + new > context:
        raise PromptTooLong(
            f"a prompt of {prompt} tokens and {new} new ones exceed the model's context of {context}. "
            "Shorten the prompt, take fewer shots, or lower max_new_tokens."
        )


def check_choice(tokens: int, context: int) -> None:
    """Raise PromptTooLong where a prompt and a choice have more tokens than the model's context."""
    if tokens > context:
        raise PromptTooLong(
            f"a prompt and its answer have {tokens} tokens, more than the model's context of {context}. "
            "Shorten the prompt, or take fewer shots."
        )
