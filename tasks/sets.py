"""The data sets of the benchmark: origin, licence, columns. Data, no code.

Hub ids and column names were written down from the sets' cards; `columns` are checked whenever a
set is loaded, so a card that has changed since shows at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tasks.source import Source

C4_SHARDS = 1024  # training files

# The nine biomedical subjects of MMLU that MEDITRON (arXiv 2311.16079) scores as MMLU-Medical. The
# MoRA paper names its average BioMMLU without listing the subjects.
BIOMEDICAL_SUBJECTS = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "high_school_biology",
    "medical_genetics",
    "nutrition",
    "professional_medicine",
    "virology",
)


def _adaptllm(
    name: str,
    domain: str,
    config: str,
    licence: str,
    *,
    also: tuple[str, ...] = (),
    text: bool = False,
) -> Source:
    """One of AdaptLLM's sets: whole prompts, their examples included (arXiv 2309.09530).

    text: the right answer is text, and there are no options.
    """
    answer = ("label",) if text else ("options", "gold_index")
    return Source(
        name=name,
        hub_id=f"AdaptLLM/{domain}-tasks",
        config=config,
        licence=licence,
        columns=("input", *answer, *also),
        texts=("input", answer[0]),
        files={"test": "test.jsonl"},
        repeats={"test": None},
    )


_ALL = (
    # --- instruction tuning
    Source(
        name="tulu_v2",
        hub_id="allenai/tulu-v2-sft-mixture",
        licence="ODC-BY 1.0 (parts under their own licences)",
        columns=("dataset", "id", "messages"),
        texts=("messages",),
        files={"train": "train.jsonl"},
        instead="task=instruction_standin, on a local stand-in",
    ),
    Source(
        name="tulu_v2_standin",
        licence="CC BY-SA 3.0 (Dolly), Apache-2.0 (FLAN chain of thought)",
        columns=("dataset", "id", "messages"),
        texts=("messages",),
        files={"train": "train.jsonl", "test": "test.jsonl"},
        notes="stands in for the Tulu v2 mixture: Dolly and FLAN chain-of-thought rows",
    ),
    Source(
        name="mmlu",
        hub_id="cais/mmlu",
        config="all",
        licence="MIT",
        columns=("question", "subject", "choices", "answer"),
        texts=("question", "subject", "choices"),
        files={"test": "test.jsonl", "dev": "dev.jsonl"},
        repeats={"test": None},
    ),
    # --- general instructions, mixed with a domain's text
    Source(
        name="wizardlm",
        hub_id="WizardLMTeam/WizardLM_evol_instruct_70k",
        licence="not stated; written by ChatGPT",
        columns=("instruction", "output"),
        texts=("instruction",),
        files={"train": "train.jsonl"},
        repeats={"train": None},
        instead="task.instructions=[], which mixes nothing in",
    ),
    Source(
        name="open_orca",
        hub_id="Open-Orca/OpenOrca",
        licence="MIT; written by GPT-3.5 and GPT-4",
        columns=("system_prompt", "question", "response"),
        texts=("question",),
        files={"train": "train.jsonl"},
        repeats={"train": None},
        instead="task.instructions=[], which mixes nothing in",
    ),
    # --- mathematics
    Source(
        name="metamathqa",
        hub_id="meta-math/MetaMathQA",
        licence="MIT",
        columns=("query", "response"),
        texts=("query", "response"),
        files={"train": "train.jsonl"},
        repeats={"train": None},
        instead="task=math_gsm8k, on GSM8K alone, or task=math_symbolic, which needs no data",
    ),
    Source(
        name="gsm8k",
        hub_id="openai/gsm8k",
        config="main",
        licence="MIT",
        columns=("question", "answer"),
        texts=("question", "answer"),
        files={"train": "train.jsonl", "test": "test.jsonl"},
    ),
    Source(
        name="math",
        hub_id="EleutherAI/hendrycks_math",
        config=(
            "algebra",
            "counting_and_probability",
            "geometry",
            "intermediate_algebra",
            "number_theory",
            "prealgebra",
            "precalculus",
        ),
        licence="MIT",
        columns=("problem", "level", "type", "solution"),
        texts=("problem", "solution"),
        files={"test": "test.jsonl"},
        other_files={"test": "test_1000.jsonl"},
    ),
    # --- biomedicine
    Source(
        name="pubmed_abstracts",
        hub_id="casinca/PUBMED_title_abstracts_2019_baseline",
        licence="publishers' text as found on PubMed",
        columns=("text",),
        texts=("text",),
        files={"train": "train.jsonl"},
        notes="the PubMed abstracts of the Pile",
        instead="task=biomedicine_standin, on a local stand-in, or task=docs, which needs no data",
    ),
    Source(
        name="biomed_abstracts",
        licence="public domain, Apache-2.0 and CC BY-SA 3.0 parts; publishers' text",
        columns=("text", "pmid", "source"),
        texts=("text",),
        files={"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
        notes="stands in for the PubMed abstracts of the Pile",
    ),
    Source(
        name="pubmedqa",
        hub_id="qiaojin/PubMedQA",
        config="pqa_labeled",
        licence="MIT",
        columns=("pubid", "question", "context", "final_decision"),
        texts=("question", "context", "final_decision"),
        files={"test": "test.jsonl", "train": "train.jsonl"},
        splits={"test": "train"},
        notes="the 500 official test questions, chosen by PMID where the source holds all 1,000",
    ),
    Source(
        name="medqa_usmle",
        hub_id="GBaker/MedQA-USMLE-4-options",
        licence="MIT",
        columns=("question", "options", "answer_idx"),
        texts=("question", "options", "answer_idx"),
        files={"test": "test.jsonl"},
    ),
    _adaptllm("adaptllm_pubmedqa", "medicine", "PubMedQA", "MIT"),
    _adaptllm("adaptllm_usmle", "medicine", "USMLE", "MIT"),
    _adaptllm(
        "adaptllm_rct",
        "medicine",
        "RCT",
        "not stated; abstracts are their publishers' text",
    ),
    Source(
        name="pubmed_rct20k",
        hub_id="armanc/pubmed-rct20k",
        licence="not stated; abstracts are their publishers' text",
        columns=("abstract_id", "label", "text", "sentence_id"),
        texts=("label", "text"),
        files={"train": "train.jsonl", "test": "test.jsonl"},
        repeats={"train": None, "test": None},
    ),
    Source(
        name="pubmed_section_roles",
        licence="MIT (annotations); abstracts are their publishers' text",
        columns=("abstract_id", "label", "text", "sentence_id"),
        texts=("label", "text"),
        files={"train": "train.jsonl", "test": "test.jsonl"},
        notes="stands in for PubMed-RCT, made the same way from the PubMedQA abstracts",
    ),
    Source(
        name="biomed_cloze",
        licence="as biomed_abstracts",
        columns=("context", "choices", "answer"),
        texts=("context", "choices"),
        files={"test": "test.jsonl"},
        notes="no published benchmark: entity cloze from held-out abstracts",
    ),
    # --- finance
    Source(
        name="finance_news",
        hub_id="ashraq/financial-news-articles",
        licence="not stated; publishers' text",
        columns=("text",),
        texts=("text",),
        files={"train": "train.jsonl"},
        repeats={"train": None},
        instead="task=finance_standin, on local sentences, or task=docs, which needs no data",
    ),
    Source(
        name="financial_phrasebank",
        hub_id="takala/financial_phrasebank",
        # The main branch is a loading script, no longer run. This one has a folder a configuration
        # and says of none that it is one, so the files are named.
        revision="refs/convert/parquet",
        data_files={"train": ["sentences_50agree/train/*.parquet"]},
        licence="CC BY-NC-SA 3.0 (non-commercial)",
        columns=("sentence", "label"),
        texts=("sentence",),
        files={"train": "train.jsonl"},
        repeats={"train": 6},
    ),
    Source(
        name="fiqa_sa",
        hub_id="TheFinAI/fiqa-sentiment-classification",
        licence="none stated; published for research",
        notes="its owners may have renamed it, and may ask for a form to be filled in",
        columns=("sentence", "target", "score"),
        texts=("sentence", "target"),
        files={"train": "train.jsonl", "test": "test.jsonl"},
    ),
    Source(
        name="fin_ner",
        hub_id="tner/fin",
        revision="refs/convert/parquet",
        data_files={"train": ["*/train/*.parquet"], "test": ["*/test/*.parquet"]},
        licence="CC BY 3.0",
        columns=("tokens", "tags"),
        texts=("tokens", "tags"),
        files={"train": "train.jsonl", "test": "test.jsonl"},
        repeats={"train": 21, "test": 4},
    ),
    _adaptllm("adaptllm_fpb", "finance", "FPB", "CC BY-NC-SA 3.0 (non-commercial)"),
    _adaptllm("adaptllm_fiqa_sa", "finance", "FiQA_SA", "none stated; published for research"),
    _adaptllm(
        "headline",
        "finance",
        "Headline",
        "CC BY-NC-SA 3.0 (gold news headlines, Sinha and Khandait)",
        also=("class_id",),
    ),
    _adaptllm("adaptllm_ner", "finance", "NER", "CC BY 3.0", text=True),
    _adaptllm("convfinqa", "finance", "ConvFinQA", "MIT", text=True),
    # --- pretraining and general text
    Source(
        name="c4",
        hub_id="allenai/c4",
        config="en",
        licence="ODC-BY 1.0 and the terms of Common Crawl",
        columns=("text",),
        texts=("text",),
        files={"train": "train.jsonl", "validation": "validation.jsonl"},
        repeats={"train": None, "validation": None},
        instead="task=pretrain, which needs no data",
    ),
    Source(
        name="c4_sample",
        licence="ODC-BY 1.0 and the terms of Common Crawl",
        columns=("text",),
        texts=("text",),
        files={"train": "train.jsonl"},
        notes="300 documents of C4: enough to try the path, far too few to pretrain on",
    ),
    Source(
        name="wikitext2",
        hub_id="Salesforce/wikitext",
        config="wikitext-2-raw-v1",
        licence="CC BY-SA 3.0",
        columns=("text",),
        texts=(),
        files={"test": "test.jsonl"},
        repeats={"test": None},
    ),
    Source(
        name="wikipedia_sample",
        licence="CC BY-SA",
        columns=("text",),
        texts=("text",),
        files={"train": "train.jsonl"},
    ),
    # --- general ability, for forgetting
    Source(
        name="hellaswag",
        hub_id="Rowan/hellaswag",
        licence="MIT",
        columns=("ctx_a", "ctx_b", "activity_label", "endings", "label"),
        texts=("endings", "label"),
        files={"validation": "validation.jsonl"},
        repeats={"validation": None},
    ),
    Source(
        name="winogrande",
        hub_id="allenai/winogrande",
        config="winogrande_xl",
        licence="Apache-2.0",
        columns=("sentence", "option1", "option2", "answer"),
        texts=("sentence", "option1", "option2", "answer"),
        files={"validation": "validation.jsonl"},
    ),
    Source(
        name="arc_challenge",
        hub_id="allenai/ai2_arc",
        config="ARC-Challenge",
        licence="CC BY-SA 4.0",
        columns=("question", "choices", "answerKey"),
        texts=("question", "choices", "answerKey"),
        files={"test": "test.jsonl"},
    ),
)

SETS = {source.name: source for source in _ALL}


def find(name: str, revisions: Mapping[str, str] | None = None) -> Source:
    """A set by its name, at the revision that `revisions` pins it to, if it does."""
    revision = (revisions or {}).get(name)
    return SETS[name] if revision is None else replace(SETS[name], revision=revision)


def c4_shards(count: int, revisions: Mapping[str, str] | None = None) -> Source:
    """C4 with the first `count` of its C4_SHARDS training files, each of 356,000 documents."""
    files = [f"en/c4-train.{i:05d}-of-{C4_SHARDS:05d}.json.gz" for i in range(count)]
    return replace(
        find("c4", revisions),
        config=None,  # the files are named instead
        data_files={"train": files, "validation": ["en/c4-validation.*.json.gz"]},
        notes=f"{count} of the 1,024 training files",
    )
