"""The prompts that training data and scores share."""

from __future__ import annotations


def metamath_prompt(instruction: str) -> str:
    """MetaMath's training prompt (Alpaca's, without input), up to where the response begins."""
    return (
        "Below is an instruction that describes a task. Write a response that appropriately "
        f"completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:"
    )


def metamath_training_prompt(query: str) -> str:
    """The prompt that MetaMath trains a query with (train_math.py; kongds/MoRA has the same).

    A query with a line break is Alpaca's with an input: its first line is the instruction, the rest
    the input. Scoring never splits a question.
    """
    instruction, broken, rest = query.partition("\n")
    if not broken:
        return metamath_prompt(query)
    return (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{instruction}\n\n### Input:\n{rest}\n\n### Response:"
    )


def metamath_eval_prompt(instruction: str) -> str:
    """The prompt that MetaMath is scored with: its training prompt and a call to reason."""
    return f"{metamath_prompt(instruction)} Let's think step by step."
