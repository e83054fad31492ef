"""Models small enough to build in every test: random, oracle, constant; byte tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

from tests.tasks.rows import COUNT, ROWS


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """One token a byte; no BOS; appends EOS unless told not to."""
    return ByT5Tokenizer()


@pytest.fixture
def tiny() -> LlamaForCausalLM:
    """A random LLaMA of under 100,000 parameters over the byte vocabulary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


class Recall(nn.Module):
    """Says what `answers` holds for the prompt it has read; `otherwise` anywhere else.

    Its cache is the sequence read so far, so it works token by token like a real model.
    """

    def __init__(self, answers: Mapping[tuple[int, ...], list[int]], otherwise: int) -> None:
        super().__init__()
        self.answers = answers
        self.otherwise = otherwise

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: list[list[int]] | None = None,
        use_cache: bool = True,
    ) -> SimpleNamespace:
        read = past_key_values or [[] for _ in input_ids]
        offset = attention_mask.shape[1] - input_ids.shape[1]
        rows = []
        for before, ids, mask in zip(read, input_ids, attention_mask, strict=True):
            kept = [int(t) for t, m in zip(ids, mask[offset:], strict=True) if m]
            rows.append(before + kept)
        logits = torch.zeros(len(rows), 1, 384)
        for i, row in enumerate(rows):
            logits[i, 0, self._next(row)] = 1.0
        return SimpleNamespace(logits=logits, past_key_values=rows)

    def _next(self, row: list[int]) -> int:
        for cut in range(len(row), 0, -1):
            answer = self.answers.get(tuple(row[:cut]))
            if answer is not None and len(row) - cut < len(answer):
                return answer[len(row) - cut]
        return self.otherwise


@pytest.fixture
def recall(tokenizer: Any) -> Callable[..., Recall]:
    """recall({prompt text: answer text}, otherwise="x") -> a model that answers so."""

    def build(answers: Mapping[str, str], otherwise: str = "x") -> Recall:
        def encode(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        return Recall(
            {tuple(encode(k)): encode(v) for k, v in answers.items()}, encode(otherwise)[0]
        )

    return build


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data_dir with thirty rows of every set that is scored."""
    from tasks.sets import SETS

    root = tmp_path_factory.mktemp("data")
    for name, make in ROWS.items():
        (root / name).mkdir()
        for start, file in enumerate(SETS[name].files.values()):
            rows = [make(i) for i in range(start * COUNT, (start + 1) * COUNT)]
            (root / name / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root)
