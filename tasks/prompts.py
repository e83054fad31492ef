"""The prompts that training data and scores share."""

from __future__ import annotations


def metamath_prompt(instruction: str) -> str:
    """MetaMath's training prompt (Alpaca's, without input), up to where the response begins."""
    return (
        "Below is an instruction that describes a task. Write a response that appropriately "
        f"completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:"
    )


def metamath_eval_prompt(instruction: str) -> str:
    """The prompt that MetaMath is scored with: its training prompt and a call to reason."""
    return f"{metamath_prompt(instruction)} Let's think step by step."
