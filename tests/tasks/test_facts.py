"""Facts: unique keys, one-token values, and bits that are 0 for a guess and all for an oracle."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from tasks import TaskError
from tasks.facts import MAX_FACTS, FactsTask
from tasks.tokens import IGNORED
from tasks.vocabulary import chosen, ordinary, words

BYTES = ByT5Tokenizer()


class Answers(nn.Module):
    """Says `logits(prompts)` (n, vocabulary) after each prompt, and nothing elsewhere."""

    def __init__(self, logits: Any) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        last = self.logits(input_ids)
        filler = torch.full((*input_ids.shape, last.shape[-1]), 7.0)
        filler[:, -1] = last
        return SimpleNamespace(logits=filler)


def oracle(rows: Tensor, scale: float = 1e4) -> Answers:
    table = {tuple(row[:-1]): row[-1] for row in rows.tolist()}

    def logits(prompts: Tensor) -> Tensor:
        out = torch.zeros(len(prompts), 384)
        for i, prompt in enumerate(prompts.tolist()):
            out[i, table[tuple(prompt)]] = scale
        return out

    return Answers(logits)


def scores(task: FactsTask, model: Any, tokenizer: Any = BYTES) -> dict[str, Any]:
    (scorer,) = task.scorers()
    return scorer.score(model, tokenizer, 5)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    entities, attributes = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return {
        "entities": entities,
        "attributes": attributes,
        "facts": draw(st.integers(1, entities * attributes)),
        "values": draw(st.integers(2, 256)),
        "key_tokens": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


@settings(deadline=None, max_examples=60)
@given(tables())
def test_a_table_has_the_facts_asked_for_each_with_its_own_key_and_one_value(
    asked: dict[str, Any],
) -> None:
    task = FactsTask(**asked)
    rows = task.rows(BYTES)
    assert rows.shape == (asked["facts"], asked["key_tokens"] + 2)
    keys = {tuple(row[:-1]) for row in rows.tolist()}
    assert len(keys) == asked["facts"]
    assert len({key[:-1] for key in keys}) <= asked["entities"]
    assert len({key[-1] for key in keys}) <= asked["attributes"]
    values = set(rows[:, -1].tolist())
    assert len(values) <= asked["values"]
    assert {i for row in rows.tolist() for i in row} <= set(range(3, 259))  # bytes, none special
    data = task.train_dataset(BYTES)
    assert data["input_ids"][:] == rows.tolist()
    for row in data:
        assert row["labels"] == [IGNORED] * (rows.shape[1] - 1) + [row["input_ids"][-1]]
    assert torch.equal(FactsTask(**asked).rows(ByT5Tokenizer()), rows)


@settings(deadline=None, max_examples=30)
@given(tables())
def test_bits_of_a_uniform_guess_are_0_and_of_an_oracle_all(asked: dict[str, Any]) -> None:
    task = FactsTask(**asked)
    rows = task.rows(BYTES)
    count, each = asked["facts"], math.log2(asked["values"])

    guess = torch.full((384,), -1e4)
    guess[_values(asked["values"])] = 0.0
    found = scores(task, Answers(lambda prompts: guess.expand(len(prompts), -1)))
    assert found["bits"].value == pytest.approx(0.0, abs=1e-5 * count)
    assert found["bits_tempered"].value == pytest.approx(0.0, abs=1e-5 * count)
    assert found["nll"].value == pytest.approx(found["nll"].chance, abs=1e-5)

    found = scores(task, oracle(rows))
    for name in ("bits", "bits_tempered", "bits_recalled"):
        assert found[name].value == pytest.approx(count * each)
        assert (found[name].n, found[name].unit) == (count, "bits")
    assert found["accuracy"].value == 1.0
    assert found["accuracy"].chance == 1 / asked["values"]
    assert found["nll"].examples == [0.0] * count


def _values(count: int) -> list[int]:
    """The ids that stand for values."""
    return chosen(ordinary(BYTES), "value", count)


def test_the_same_seed_gives_the_same_facts_and_others_differ() -> None:
    def rows(seed: int) -> list[Any]:
        return FactsTask(facts=50, values=16, seed=seed).rows(BYTES).tolist()

    assert rows(3) == rows(3)
    assert rows(3) != rows(4)
    # What stands for a value is not drawn.
    assert {row[-1] for row in rows(3) + rows(4)} <= set(_values(16))


def test_facts_draw_nothing_from_the_global_generators() -> None:
    states = random.getstate(), torch.get_rng_state()
    FactsTask(facts=5).rows(BYTES)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


def test_values_are_uniform() -> None:
    values = FactsTask(facts=40_000, values=8).rows(BYTES)[:, -1]
    counts = values.unique(return_counts=True)[1]
    assert len(counts) == 8
    assert ((counts - 5000).abs() < 5 * 5000**0.5).all()


@pytest.fixture(scope="module")
def confident() -> tuple[FactsTask, Any]:
    """A table, and noisy logits under which its answers are drawn: a calibrated model."""
    task = FactsTask(facts=3000, values=64)
    rows = task.rows(BYTES)
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(len(rows), 384, generator=generator)
    rows[:, -1] = logits.softmax(-1).multinomial(1, generator=generator)[:, 0]
    places = {tuple(row[:-1]): i for i, row in enumerate(rows.tolist())}

    def scaled(scale: float) -> Answers:
        return Answers(lambda p: scale * logits[[places[tuple(row)] for row in p.tolist()]])

    return task, scaled


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_one_temperature_undoes_a_scale_of_the_logits(confident: Any, scale: float) -> None:
    task, scaled = confident
    calibrated, found = scores(task, scaled(1.0)), scores(task, scaled(scale))
    # A calibrated model has nothing to gain but what the sample's luck gives.
    assert calibrated["bits_tempered"].value - calibrated["bits"].value < 5
    assert found["bits_tempered"].value == pytest.approx(
        calibrated["bits_tempered"].value, abs=1e-2
    )
    assert found["bits_tempered"].value >= found["bits"].value
    if scale != 1.0:
        assert found["bits"].value < found["bits_tempered"].value - 100
    assert found["accuracy"] == calibrated["accuracy"]


def test_wrong_answers_of_great_confidence_cost_bits_without_end(confident: Any) -> None:
    task, scaled = confident
    found = scores(task, scaled(1000.0))
    assert found["bits"].value < -100_000
    assert -task.facts * 3 < found["bits_tempered"].value  # at worst a guess among all tokens


def test_logits_too_many_to_keep_give_the_same_score(
    confident: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, scaled = confident
    kept = scores(task, scaled(5.0))
    monkeypatch.setattr("tasks.facts.KEPT_LOGITS", 0)
    assert scores(task, scaled(5.0)) == kept


def test_losses_are_those_of_a_plain_pass_and_the_model_is_left_alone(tiny: Any) -> None:
    task = FactsTask(facts=1500, values=32)
    rows = task.rows(BYTES)
    with torch.no_grad():
        logs = tiny(input_ids=rows).logits[:, -2].log_softmax(-1)
    losses = -logs.gather(1, rows[:, -1:])[:, 0]
    tiny.train()
    found = scores(task, tiny)
    assert tiny.training
    assert found["nll"].value == pytest.approx(float(losses.mean()), rel=1e-5)
    assert found["bits"].value == pytest.approx(
        float(1500 * 5 - losses.double().sum() / math.log(2)), rel=1e-4
    )
    assert found["nll"].examples == pytest.approx(losses.tolist(), rel=1e-3)
    right = (logs.argmax(-1) == rows[:, -1]).sum()
    assert found["bits_recalled"].value == 5 * int(right)


def test_a_small_table_can_be_memorised(tiny: Any) -> None:
    task = FactsTask(facts=128, values=64)
    data = task.train_dataset(BYTES).with_format("torch")
    ids, labels = data["input_ids"][:], data["labels"][:]
    optimizer = torch.optim.Adam(tiny.parameters(), lr=3e-3)
    for _ in range(150):
        tiny(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = scores(task, tiny)
    assert found["bits"].value > 0.95 * 128 * 6
    assert found["accuracy"].value == 1.0


@pytest.fixture(scope="module")
def bpe() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on English, with more than a thousand whole words."""
    from tokenizers import ByteLevelBPETokenizer

    from tasks.forgetting import pydoc_topics

    trained = ByteLevelBPETokenizer()
    texts = [text for _, text in pydoc_topics()]
    trained.train_from_iterator(texts, vocab_size=3000, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)


def test_sentences_are_what_the_tokenizer_makes_of_their_text(bpe: Any) -> None:
    known = words(bpe)
    assert len(known) > 500
    rows = FactsTask(facts=300, values=400, form="text").rows(bpe)
    texts = bpe.batch_decode(rows)
    assert bpe(texts)["input_ids"] == rows.tolist()
    for text in texts:
        the, attribute, of, entity, verb, value = text.split(" ")
        assert (the, of, verb) == ("The", "of", "is")
        assert {f" {attribute}", f" {entity}", f" {value}"} <= set(known.values())


def test_a_vocabulary_of_words_is_used_for_bare_tokens_too(bpe: Any) -> None:
    rows = FactsTask(facts=300, values=400).rows(bpe)
    assert rows.shape == (300, 3)
    assert set(rows.flatten().tolist()) <= set(words(bpe))


def test_an_entity_may_have_several_tokens(bpe: Any) -> None:
    task = FactsTask(facts=2000, attributes=2, key_tokens=2)
    assert len(set(map(tuple, task.rows(BYTES)[:, :2].tolist()))) > 1800
    rows = FactsTask(facts=9, values=5, form="text", key_tokens=2).rows(bpe)
    assert all(len(text.split(" ")) == 7 for text in bpe.batch_decode(rows))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"facts": 0}, f"task.facts is 0; it must be a whole number from 1 to {MAX_FACTS:,}"),
        ({"facts": 10**30}, "task.facts is 1000000000000000000000000000000; it must be"),
        ({"facts": 2.0}, "task.facts is 2.0"),
        ({"facts": True}, "task.facts is True"),
        ({"values": 1}, "task.values is 1; it must be a whole number from 2 to"),
        ({"values": 10**9}, "task.values is 1000000000"),
        ({"entities": 0}, "task.entities is 0"),
        ({"attributes": -1}, "task.attributes is -1"),
        ({"key_tokens": 0}, "task.key_tokens is 0; it must be a whole number from 1 to 4"),
        ({"form": "prose"}, "'tokens' or 'text'"),
        ({"facts": 7, "entities": 2, "attributes": 3}, "there are 6 keys: take 1 to 6"),
    ],
)
def test_refuses_bad_settings(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError) as caught:
        FactsTask(**asked)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"values": 257}, "it must be a whole number from 2 to 256"),
        ({"attributes": 300}, "it must be a whole number from 1 to 256"),
        ({"entities": 300}, "it must be a whole number from 1 to 256"),
        ({"facts": 65_537}, "there are 65,536 keys"),
        ({"form": "text"}, "needs whole words, and this tokenizer has 0"),
    ],
)
def test_refuses_what_the_vocabulary_does_not_hold(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError) as caught:
        FactsTask(**asked).rows(BYTES)
    assert said in str(caught.value)


def test_the_card_tells_the_bits_and_a_fingerprint_of_the_table() -> None:
    def card(seed: int) -> dict[str, Any]:
        task = FactsTask(facts=32, values=16, seed=seed)
        task.rows(BYTES)
        return task.data_card()[0]

    assert card(0)["rows"] == 32
    assert "128.0 bits" in card(0)["notes"]
    assert card(0)["fingerprint"] == card(0)["fingerprint"] != card(1)["fingerprint"]
