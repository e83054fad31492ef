"""The ids that training, our own scorers and lm-eval send to a model for one text are the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from bench.errors import UserError
from bench.records import identity
from bench.run import models, tokenizers
from bench.run.batches import Collator
from tasks.generation import evaluating, greedy
from tasks.harness import language_model, quiet
from tasks.likelihood import continuation_losses
from tasks.uuid import UuidTask

CONF = Path(__file__).resolve().parents[3] / "conf" / "model"
PAIRS = 3


def conf(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONF / f"{name}.yaml").read_text()))


def load(name: str, **changes: Any) -> models.LoadedModel:
    settings = conf(name) | changes
    return models.load(settings, dtype=torch.float32, device=torch.device("cpu"), seed=0)


@contextmanager
def sent(model: Any) -> Iterator[list[list[int]]]:
    """The rows of ids that the model is called with inside, padding that a mask hides left out."""
    rows: list[list[int]] = []

    def keep(_: Any, args: Any, kwargs: Any) -> None:
        ids = args[0] if args else kwargs["input_ids"]
        mask = kwargs.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask[:, -ids.shape[1] :]
        rows.extend(i[m.bool()].tolist() for i, m in zip(ids, mask, strict=True))

    handle = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def agree(model: Any, tokenizer: Any, before: list[int]) -> None:
    """Prompts and whole texts, of several lengths in one batch, on all three ways."""
    task = UuidTask(pairs=PAIRS)
    texts = [(f"{key[: 9 + 9 * i]}:", value) for i, (key, value) in enumerate(task.pairs)]
    task.__dict__["pairs"] = [(prompt[:-1], value) for prompt, value in texts]
    batch = Collator(tokenizer.pad_token_id, 8)(list(task.train_dataset(tokenizer)))
    lengths = [len(row["input_ids"]) for row in task.train_dataset(tokenizer)]
    trained = [row[:n].tolist() for row, n in zip(batch["input_ids"], lengths, strict=True)]
    padding = {id for row, n in zip(batch["input_ids"], lengths, strict=True) for id in row[n:]}
    assert {int(id) for id in padding} <= {tokenizer.pad_token_id}
    assert all(row[: len(before)] == before for row in trained)

    (scorer,) = task.scorers()
    with sent(model) as rows:
        scorer.score(model, tokenizer, PAIRS)
    prompts = sorted(rows[:PAIRS])
    assert prompts == sorted(
        row[: len(p)] for row in trained for p in prompts if row[: len(p)] == p
    )
    with sent(model) as rows:
        greedy(model, prompts, 1, batch_size=PAIRS)
    assert sorted(rows) == prompts
    with sent(model) as rows:
        pairs = [(row[:1], row[1:]) for row in trained]
        continuation_losses(model, pairs, PAIRS)
    assert sorted(rows) == sorted(row[:-1] for row in trained)

    with quiet(), evaluating(model):
        lm = language_model(model, tokenizer, PAIRS)
        ask = [(p, {"until": ["\n"], "max_gen_toks": 1, "do_sample": False}) for p, _ in texts]
        with sent(model) as rows:
            lm.generate_until([request("generate_until", a) for a in ask], disable_tqdm=True)
        assert sorted(rows[:PAIRS]) == prompts
        with sent(model) as rows:
            lm.loglikelihood([request("loglikelihood", a) for a in texts], disable_tqdm=True)
    # lm-eval pads on the right, without a mask.
    found = [next(r[:-1] for r in trained if row[: len(r) - 1] == r[:-1]) for row in rows]
    assert sorted(found) == sorted(row[:-1] for row in trained)


def request(kind: Any, arguments: Any) -> Instance:
    return Instance(kind, {}, arguments, 0)


@pytest.mark.parametrize(
    "name",
    ["tiny", "docs_1m", "docs_5m", pytest.param("smollm2_135m_wheel", marks=pytest.mark.model)],
)
def test_three_ways_send_the_same_ids(name: str) -> None:
    loaded = load(name)
    agree(loaded.model, loaded.tokenizer, [])


def llama_like() -> PreTrainedTokenizerFast:
    """Bytes, and like LLaMA-2's tokenizer: BOS, id 1, before every text, and no pad token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {c: i + 3 for i, c in enumerate(letters)}
    made = Tokenizer(kinds.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that is loaded by its folder, whose tokenizer begins every text with BOS."""
    load("tiny").model.save_pretrained(tmp_path)
    llama_like().save_pretrained(tmp_path)
    return tmp_path


def test_bos_goes_all_three_ways(folder: Path) -> None:
    loaded = load("hub", source=str(folder), expects={"before": [1], "after": []}, label="l")
    agree(loaded.model, loaded.tokenizer, [1])
    card = loaded.card["tokenizer"]
    assert (card["before"], card["after"], card["pad_id"], card["pad"]) == ([1], [], 2, "</s>")


@pytest.mark.parametrize(
    ("expects", "words"),
    [
        ({"before": []}, r"puts \[1\] before a text, and conf/model expects \[\]"),
        ({"after": [2]}, r"puts \[\] after a text, and conf/model expects \[2\]"),
        ({"pad_id": 0}, "pads with 2, and conf/model expects 0"),
        ({"bos": 1}, "expects.bos is unknown; choose before, after, pad_id"),
    ],
)
def test_a_tokenizer_that_is_not_as_expected_is_refused(
    folder: Path, expects: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence, before any weights are read."""
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(UserError, match=words):
        load("hub", source=str(folder), expects=expects, label="l")


@pytest.mark.parametrize("name", sorted(file.stem for file in CONF.glob("*.yaml")))
def test_what_is_expected_makes_no_other_cell(name: str) -> None:
    settings = conf(name)
    assert "expects" not in identity.determining(settings)
    assert set(settings.get("expects") or {}) <= {"before", "after", "pad_id"}
    if name.startswith("llama2"):
        assert settings["expects"]["before"] == [1]


def test_ids_around_a_text() -> None:
    assert tokenizers.around(llama_like())["before"] == [1]
    with pytest.raises(UserError, match="is below the 259 entries"):
        settings = {"name": "m", "tokenizer": "t"}
        tokenizers.check_vocabulary(settings, 200, llama_like())
