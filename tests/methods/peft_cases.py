"""peft's own test cases for tuners, with MoraConfig in the place of peft's tuners.

Not collected here: test_peft_own_cases.py puts it into the tests of peft's source distribution,
whose lists of cases it replaces, and runs it there.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from transformers import (
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from methods.peft_tuner import MoraConfig

if "diffusers" not in sys.modules:  # peft's tests import it for image models alone
    stub: Any = ModuleType("diffusers")
    stub.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
    sys.modules["diffusers"] = stub

from . import test_custom_models as custom
from . import test_decoder_models as decoder

MODELS = Path(__file__).parent / "models"

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "MLP 1": ("MLP", {"target_modules": "lin0"}),
    "MLP 2": ("MLP", {"target_modules": ["lin0"], "r": 4, "operator": "sharing"}),
    "MLP 3": ("MLP", {"target_modules": ["lin1"], "r": 2}),
    "MLP 4": ("MLP", {"target_modules": ["lin0", "lin1"], "r": 2, "operator": "decoupling"}),
    "MLP 5": ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    "MLP 6": ("MLP", {"target_modules": ["lin0"], "mora_dropout": 0.1, "operator": "truncation"}),
    "MLP 7": ("MLP", {"target_modules": ["lin0"], "compat": "published"}),
    "Conv1D": ("EmbConv1D", {"target_modules": ["conv1d"], "r": 1}),
    "Embedding": ("EmbConv1D", {"target_modules": ["lin0"], "modules_to_save": ["emb"], "r": 2}),
}
custom.TEST_CASES[:] = [(f"{k} MoRA", model, MoraConfig, v) for k, (model, v) in CASES.items()]
custom.ALL_PEFT_CONFIG_CLASSES[:] = [MoraConfig]
custom.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES[:] = [
    (
        f"MoRA {name}",
        "mora",
        MoraConfig,
        {"target_modules": ["lin0"], "r": 2, "init_weights": False},
        {"target_modules": [target], "r": 2, "init_weights": False, "operator": "sharing"},
    )
    for name, target in (("Same", "lin0"), ("Different", "lin1"))
]
# Random models in the place of those on the hub. The second adapter has a rank of at most 9.
NAMES = ("tiny-random-llama", "tiny-random-gpt2", "tiny-random-OPT")
decoder.PEFT_DECODER_MODELS_TO_TEST[:] = [str(MODELS / name) for name in NAMES]
decoder.ALL_CONFIGS[:] = [
    (MoraConfig, {"task_type": "CAUSAL_LM", "target_modules": None, "r": 4}),
    (
        MoraConfig,
        {"task_type": "CAUSAL_LM", "target_modules": None, "r": 1, "operator": "truncation"},
    ),
]

TestPeftCustomModel = custom.TestPeftCustomModel
TestMultipleActiveAdapters = custom.TestMultipleActiveAdapters
TestRequiresGrad = custom.TestRequiresGrad
TestDecoderModels = decoder.TestDecoderModels


def make() -> None:
    """Write the random models, each with a byte tokenizer."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 1024}
    llama = LlamaConfig(**size, intermediate_size=64, num_key_value_heads=2)
    gpt2 = GPT2Config(n_embd=32, n_head=4, n_layer=2, vocab_size=1024)
    opt = OPTConfig(**size, ffn_dim=64, word_embed_proj_dim=32)
    models = (LlamaForCausalLM(llama), GPT2LMHeadModel(gpt2), OPTForCausalLM(opt))
    for name, model in zip(NAMES, models, strict=True):
        model.save_pretrained(MODELS / name)
        ByT5Tokenizer().save_pretrained(MODELS / name)


if not MODELS.exists():
    make()
