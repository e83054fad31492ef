"""Batched cached greedy generation equals the slow way: one prompt, no cache, one token a pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tasks import TaskError
from tasks.facts import value_logits
from tasks.generation import evaluating, greedy
from tasks.likelihood import continuation_losses

PROMPTS = [[10, 20, 30], [40], [7, 8, 9, 10, 11, 12, 13], [99, 98], [10, 20, 31]]


def slow(model: Any, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_equals_one_by_one_without_cache_in_the_order_given(tiny: Any, batch_size: int) -> None:
    wanted = [slow(tiny, p, 9) for p in PROMPTS]
    assert len({tuple(w) for w in wanted}) == len(PROMPTS)  # the order can show
    assert greedy(tiny, PROMPTS, 9, batch_size=batch_size) == wanted


def test_equals_generate_of_transformers(tiny: Any) -> None:
    out = tiny.generate(
        torch.tensor([PROMPTS[2]]), max_new_tokens=9, do_sample=False, eos_token_id=None
    )
    assert greedy(tiny, [PROMPTS[2]], 9, batch_size=1) == [out[0, len(PROMPTS[2]) :].tolist()]


def test_the_heads_input_lies_in_one_piece(tiny: Any) -> None:
    """Of a slice torch's CPU product would copy the head's weight for each text."""
    seen: list[bool] = []
    head = tiny.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
    with hook:
        greedy(tiny, PROMPTS, 2, batch_size=5)
        continuation_losses(tiny, [(p, [1, 2]) for p in PROMPTS], 5)
        list(value_logits(tiny, torch.tensor([[1, 2, 3], [4, 5, 6]]), 2))
    assert len(seen) == 4 and all(seen)


def test_ends_before_a_stop_token(tiny: Any) -> None:
    free = greedy(tiny, PROMPTS, 9, batch_size=5)
    stop = free[0][3]
    cut = greedy(tiny, PROMPTS, 9, batch_size=5, stop_ids=[stop])
    assert cut == [row[: row.index(stop)] if stop in row else row for row in free]


def test_all_modes_and_gradients_are_as_before(tiny: Any) -> None:
    tiny.train()
    tiny.model.layers[0].eval()
    modes = [m.training for m in tiny.modules()]
    with evaluating(tiny):
        assert not any(m.training for m in tiny.modules())
        assert not torch.is_grad_enabled()
    assert [m.training for m in tiny.modules()] == modes
    assert torch.is_grad_enabled()


def test_draws_no_random_numbers(tiny: Any) -> None:
    state = torch.get_rng_state()
    greedy(tiny, PROMPTS, 3, batch_size=2)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("prompts", "count", "batch_size", "words"),
    [
        ([[1]], 0, 1, "max_new_tokens is 0"),
        ([[1]], 1, 0, "batch size is 0"),
        ([[1], []], 1, 1, "prompt to generate from is empty"),
    ],
)
def test_refuses_what_cannot_be_generated(
    tiny: Any, prompts: list[list[int]], count: int, batch_size: int, words: str
) -> None:
    with pytest.raises(TaskError, match=words):
        greedy(tiny, prompts, count, batch_size=batch_size)
