"""Repositories laid out as the public ones are, with made-up rows; and a tiny model."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.hub.server import Files, Repository
from tests.tasks.rows import ROWS

COUNT = 40
Row = dict[str, Any]
SCRIPT = b"raise RuntimeError('this code must not run')\n"


def parquet(rows: Sequence[Row]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file.getvalue()


def lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def array(rows: Sequence[Row]) -> bytes:
    return json.dumps(list(rows)).encode()


def made(make: Callable[[int], Row], first: int = 0, count: int = COUNT) -> list[Row]:
    return [make(i) for i in range(first, first + count)]


def readme(
    configs: Mapping[str, Mapping[str, str]],
    licence: str | None = None,
    rows: Mapping[str, Mapping[str, Sequence[Row]]] | None = None,
) -> bytes:
    """A card. configs: config -> split -> pattern; rows: of each split, to count them there."""
    text = ["---", "language: en"]
    text += [f"license: {licence}"] if licence else []
    if configs:
        text += ["configs:"]
        for config, splits in configs.items():
            text += [f"- config_name: {config}", "  data_files:"]
            for split, pattern in splits.items():
                text += [f"  - split: {split}", f"    path: {pattern}"]
    if rows is not None:
        text += ["dataset_info:"]
        for config, splits in configs.items():
            text += [f"- config_name: {config}", "  splits:"]
            for split in splits:
                text += [f"  - name: {split}", f"    num_examples: {len(rows[config][split])}"]
                text += ["    num_bytes: 1000"]
    return "\n".join([*text, "---", "# A set", ""]).encode()


def in_parquet(
    name: str,
    configs: Mapping[str, Mapping[str, Sequence[Row]]],
    *,
    licence: str | None = None,
    folders: Mapping[str, str] | None = None,
) -> Repository:
    """As push_to_hub lays a set out: a folder a config, a parquet file a split, a card."""
    files: dict[str, bytes] = {}
    patterns: dict[str, dict[str, str]] = {}
    for config, splits in configs.items():
        folder = (folders or {}).get(config, config)
        patterns[config] = {split: f"{folder}/{split}-*" for split in splits}
        for split, rows in splits.items():
            files[f"{folder}/{split}-00000-of-00001.parquet"] = parquet(rows)
    return Repository(
        name, revisions={"main": {"README.md": readme(patterns, licence, configs), **files}},
        licence=licence,
    )  # fmt: skip


def plain(
    name: str, files: Files, licence: str | None = None, card: bytes | None = None
) -> Repository:
    """Data files without configs, from whose names `datasets` infers the splits."""
    card = readme({}, licence) if card is None else card
    return Repository(name, revisions={"main": {"README.md": card, **files}}, licence=licence)


def scripted(name: str, files: Files) -> Repository:
    """A loading script on main, and the parquet files that the hub made of it on a branch."""
    script = {"README.md": readme({}), f"{name.rpartition('/')[2]}.py": SCRIPT}
    return Repository(name, revisions={"main": script, "refs/convert/parquet": dict(files)})


def adaptllm(name: str, configs: Mapping[str, Callable[[int], Row]]) -> Repository:
    files = {f"{config.lower()}/test.json": lines(made(make)) for config, make in configs.items()}
    patterns = {config: {"test": f"{config.lower()}/test.json"} for config in configs}
    return Repository(name, revisions={"main": {"README.md": readme(patterns), **files}})


def _options(i: int) -> Row:
    return {
        "id": i,
        "input": f"Text {i}. Question: is it?\nAnswer:",
        "options": ["yes", "no", "maybe"],
        "gold_index": i % 3,
        "class_id": i % 9,
    }


def _entities(i: int) -> Row:
    return {"id": i, "input": f"Acme {i} in Rome\nExtract named entity:",
            "label": "Acme (organization), Rome (location)"}  # fmt: skip


def _number(i: int) -> Row:
    return {"id": i, "input": f"Sales rose by {i}.\nQuestion: by how much?\nAnswer:",
            "label": f"{i}.0"}  # fmt: skip


def _prose(i: int) -> str:
    return f"Report {i}. Aspirin reduces pain, for example in the back. " * 4


SUBJECTS = ("abstract_algebra", "anatomy", "virology")


def _mmlu(i: int) -> Row:
    return ROWS["mmlu"](i) | {"subject": SUBJECTS[i % 3]}


@cache
def repositories() -> dict[str, Repository]:
    """All that the tasks take from the hub, and the paper's model."""
    maths = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra",
             "number_theory", "prealgebra", "precalculus")  # fmt: skip
    bank = parquet(made(ROWS["financial_phrasebank"]))
    wiki = [{"text": " = A title = "}, *({"text": _prose(i)} for i in range(8)), {"text": ""}]
    found = [
        in_parquet("allenai/tulu-v2-sft-mixture", {"default": {"train": made(_conversation)}},
                   licence="odc-by", folders={"default": "data"}),
        in_parquet("cais/mmlu", {"all": {s: made(_mmlu) for s in ("test", "validation", "dev")},
                                 "anatomy": {"test": made(_mmlu)}}, licence="mit"),
        plain("WizardLMTeam/WizardLM_evol_instruct_70k",
              {"alpaca_evol_instruct_70k.json": array(made(_evolved))}),
        plain("Open-Orca/OpenOrca",
              {"1M-GPT4-Augmented.parquet": parquet(made(_orca)),
               "3_5M-GPT3_5-Augmented.parquet": parquet(made(_orca, COUNT))}, "mit"),
        plain("meta-math/MetaMathQA", {"MetaMathQA-395K.json": array(made(_metamath))}, "mit"),
        in_parquet("openai/gsm8k", {
            config: {"train": made(ROWS["gsm8k"], COUNT), "test": made(ROWS["gsm8k"])}
            for config in ("main", "socratic")}, licence="mit"),
        in_parquet("EleutherAI/hendrycks_math",
                   {config: {"test": made(ROWS["math"], count=6)} for config in maths},
                   licence="mit"),
        plain("casinca/PUBMED_title_abstracts_2019_baseline",
              {"PUBMED_title_abstracts_2019_baseline.jsonl.zst": zstandard.compress(
                  lines([{"meta": {"pmid": i}, "text": _prose(i)} for i in range(COUNT)]))}),
        in_parquet("qiaojin/PubMedQA", {
            config: {"train": made(ROWS["pubmedqa"])}
            for config in ("pqa_artificial", "pqa_labeled", "pqa_unlabeled")}, licence="mit"),
        plain("GBaker/MedQA-USMLE-4-options", {
            f"phrases_no_exclude_{split}.jsonl": lines(made(ROWS["medqa_usmle"]))
            for split in ("train", "test")}),
        adaptllm("AdaptLLM/medicine-tasks",
                 dict.fromkeys(("ChemProt", "MQP", "PubMedQA", "RCT", "USMLE"), _options)),
        adaptllm("AdaptLLM/finance-tasks",
                 {"ConvFinQA": _number, "FiQA_SA": _options, "FPB": _options,
                  "Headline": _options, "NER": _entities}),
        plain("armanc/pubmed-rct20k", {f"{split}.jsonl": lines(made(ROWS["pubmed_rct20k"]))
                                       for split in ("train", "dev", "test")}),
        in_parquet("ashraq/financial-news-articles", {"default": {"train": [
            {"title": f"Title {i}", "text": _prose(i), "url": f"https://x/{i}"}
            for i in range(COUNT)]}}, folders={"default": "data"}),
        scripted("takala/financial_phrasebank", {
            f"sentences_{share}/train/0000.parquet": bank
            for share in ("50agree", "66agree", "75agree", "allagree")}),
        in_parquet("TheFinAI/fiqa-sentiment-classification",
                   {"default": {s: made(ROWS["fiqa_sa"]) for s in ("train", "test")}},
                   folders={"default": "data"}),
        scripted("tner/fin", {f"fin/{split}/0000.parquet": parquet(made(ROWS["fin_ner"]))
                              for split in ("train", "validation", "test")}),
        plain("allenai/c4", {f"en/c4-{split}.{i:05d}-of-{n:05d}.json.gz": gzip.compress(
            lines([{"text": _prose(i), "url": "https://x"} for _ in range(COUNT)]))
            for split, n, count in (("train", 1024, 36), ("validation", 8, 8))
            for i in range(count)},
            card=readme({"en": {"train": "en/c4-train.*.json.gz",
                                "validation": "en/c4-validation.*.json.gz"}}, "odc-by")),
        in_parquet("Salesforce/wikitext",
                   {c: {"test": wiki} for c in ("wikitext-2-raw-v1", "wikitext-103-v1")},
                   licence="cc-by-sa-3.0"),
        in_parquet("Rowan/hellaswag", {"default": {"validation": made(ROWS["hellaswag"])}},
                   folders={"default": "data"}),
        in_parquet("allenai/winogrande", {"winogrande_xl": {
            "validation": made(ROWS["winogrande"])}}),
        in_parquet("allenai/ai2_arc", {
            c: {"test": made(ROWS["arc_challenge"])} for c in ("ARC-Easy", "ARC-Challenge")},
            licence="cc-by-sa-4.0"),
    ]  # fmt: skip
    return {repository.name: repository for repository in found}


def _conversation(i: int) -> Row:
    turns = [{"role": "user", "content": f"What is {i}?"},
             {"role": "assistant", "content": f"It is {i}."}]  # fmt: skip
    return {"dataset": "flan_v2", "id": f"flan_{i}", "messages": turns}


def _evolved(i: int) -> Row:
    return {"instruction": f"Explain {i}.", "output": f"It is {i}."}


def _orca(i: int) -> Row:
    return {"id": f"flan.{i}", "system_prompt": "Be kind.", "question": f"Why {i}?",
            "response": "So."}  # fmt: skip


def _metamath(i: int) -> Row:
    return {"type": "GSM_Rephrased", "query": f"What is {i}+1?", "original_question": f"{i}+1?",
            "response": f"It is {i + 1}.\nThe answer is: {i + 1}"}  # fmt: skip


def model(
    folder: Path, name: str, *, gated: bool = False, seeds: Sequence[int] = (0,)
) -> Repository:
    """A random LLaMA of a few thousand parameters over bytes; seed 0 is main, the others v1, ..."""
    import torch
    from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=384, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048,
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    revisions: dict[str, Files] = {}
    for seed in seeds:
        torch.manual_seed(seed)
        place = folder / str(seed)
        LlamaForCausalLM(config).save_pretrained(place)
        ByT5Tokenizer().save_pretrained(place)
        files = {path.name: path.read_bytes() for path in place.iterdir()}
        # Code that runs when it is read: whoever fetches it has lost.
        files |= {"pytorch_model.bin": b"pickle", "modeling_llama.py": SCRIPT}
        revisions["main" if seed == 0 else f"v{seed}"] = files
    return Repository(name, "model", revisions, gated=gated)
