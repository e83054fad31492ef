"""The endpoints that a claim may name: what is compared, as data.

    final                         a metric at the end
    curve                         a metric, mean over the scored steps
    to_target                     log steps (or tokens, or seconds) until a smoothed training loss
                                  falls below a target; who never gets there is censored at the last
                                  step and counts as slower
    bits_per_parameter            a metric in bits for each trained parameter
    good_range                    width of the range of learning rates, in octaves, within which the
                                  metric stays within a share of the best
    forgetting                    mean drop of general ability at the end
    forgetting_at_learned         the same along the run, at a share of what both arms learned
    forgetting_at_equal_learning  the same at the end, between the learning rates of an arm that one
                                  would take: none at which another learned more and forgot less
    lost_by_cut                   share of a metric that is lost when delta W is cut to a rank
    singular_values_above_0.1     of delta W, a layer
    seconds_per_token             training time of a token
    merge_error                   largest change of a logit by merging

In a claim's file an endpoint is one of these words, or a table with these keys:

    kind      one of the above
    metric    for endpoints of a metric: its name, or the beginning of it, or alternatives;
              main (the default) is the one that the report's tables turn on
    targets   to_target: losses in nats a token, all of them shown
    judged    to_target: the one of `targets` that is judged (the first, unless given);
              forgetting_at_learned: the share of `shares` that is judged (0.5)
    loss      to_target: which loss of a training step; value_loss (the default) is the loss on the
              answer's tokens, and the whole loss stands in where a record does not have it
    window    to_target: steps that the loss is averaged over (8)
    counted   to_target: steps (the default), tokens or seconds
    shares    forgetting_at_learned: of what was learned (0.25, 0.5, 0.75), all of them shown
    within    good_range: share of the best that still counts as good (0.9)
    rank      lost_by_cut: the rank that delta W is cut to; own (the default) is the adapter's rank
    floor     share of the way from chance (or the untouched model) to perfect below which an arm
              has learned too little to be compared (0.1; of losses, whose best is not known, 0.02)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COUNTED = ("steps", "tokens", "seconds")
FLOOR = 0.1
FLOOR_OF_LOSSES = 0.02


@dataclass(frozen=True)
class Kind:
    """`higher_is_better` and `unit` are None where the metric says."""

    words: str
    higher_is_better: bool | None = None
    unit: str | None = None
    tuned: bool = True  # whether it depends on the learning rate
    learning: bool = True  # whether it is itself what a learning rate is chosen by
    ratios: bool = True  # whether arms may be compared by them
    keys: tuple[str, ...] = ()  # of the endpoint's table, metric and floor apart


KINDS = {
    "final": Kind("{metric} at the end"),
    "curve": Kind("{metric}, mean over the scored steps", ratios=False),
    "to_target": Kind(
        "{counted} to a {loss} of {judged:g} (mean of {window} steps)", False, "ratio",
        keys=("targets", "judged", "loss", "window", "counted"),
    ),
    "bits_per_parameter": Kind("{metric} a trained parameter", True, "bits"),
    "good_range": Kind(
        "octaves of learning rate within {within:.0%} of the best {metric}", True, "octaves",
        tuned=False, ratios=False, keys=("within",),
    ),
    "forgetting": Kind("mean drop of general ability", False, "fraction", learning=False),
    "forgetting_at_learned": Kind(
        "mean drop where {judged:.0%} of what both learned is learned", False, "fraction",
        learning=False, ratios=False, keys=("shares", "judged"),
    ),
    "forgetting_at_equal_learning": Kind(
        "mean drop, at equal learning", False, "fraction", tuned=False, learning=False, ratios=False
    ),
    "lost_by_cut": Kind(
        "share of {metric} lost when delta W is cut to rank {rank}", True, "fraction",
        learning=False, keys=("rank",),
    ),
    "singular_values_above_0.1": Kind(
        "singular values of delta W above 0.1, a layer", True, "", learning=False
    ),
    "seconds_per_token": Kind("training time of a token", False, "s", tuned=False, learning=False),
    "merge_error": Kind(
        "largest change of a logit by merging", False, "", tuned=False, learning=False
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Endpoint:
    """One endpoint with its settings; see the module's docstring."""

    kind: str
    metrics: tuple[str, ...] = ("main",)
    targets: tuple[float, ...] = ()
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    judged: float = 0.5
    loss: str = "value_loss"
    window: int = 8
    counted: str = "steps"
    within: float = 0.9
    rank: int | None = None
    floor: float | None = None

    @property
    def of(self) -> Kind:
        return KINDS[self.kind]

    @property
    def others(self) -> tuple[float, ...]:
        """Targets or shares that are shown beside the judged one."""
        all_ = {"to_target": self.targets, "forgetting_at_learned": self.shares}.get(self.kind, ())
        return tuple(value for value in all_ if value != self.judged)

    def words(self, metric: str | None, judged: float | None = None) -> str:
        return self.of.words.format(
            metric=(metric or "").replace("_", " "),
            counted=self.counted,
            loss=self.loss.replace("_", " "),
            judged=self.judged if judged is None else judged,
            window=self.window,
            within=self.within,
            rank="of the adapter" if self.rank is None else self.rank,
        )


def read(value: Any) -> Endpoint:
    """From a claim's file: a word or a table. Raises ValueError naming the key."""
    table: Mapping[str, Any] = {"kind": value} if isinstance(value, str) else value
    kind = table.get("kind") if isinstance(table, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"endpoint is {value!r}; its kind must be one of: {', '.join(KINDS)}")
    known = {"kind", "floor", *KINDS[kind].keys} | ({"metric"} if _has_metric(kind) else set())
    if unknown := sorted(map(str, table.keys() - known)):
        raise ValueError(
            f"endpoint {kind} knows no key {unknown[0]}; there are: {', '.join(sorted(known))}"
        )
    counted = table.get("counted", "steps")
    if counted not in COUNTED:
        raise ValueError(f"endpoint counted is {counted!r}; it must be {' or '.join(COUNTED)}")
    targets = _numbers(table, "targets", ())
    if kind == "to_target" and not targets:
        raise ValueError("endpoint to_target needs targets: losses in nats a token")
    shares = _numbers(table, "shares", (0.25, 0.5, 0.75))
    choices = targets if kind == "to_target" else shares
    judged = table.get("judged", targets[0] if kind == "to_target" else 0.5)
    if isinstance(judged, bool) or not isinstance(judged, (int, float)):
        raise ValueError(f"endpoint judged is {judged!r}; it must be a number")
    judged = float(judged)
    if kind in ("to_target", "forgetting_at_learned") and judged not in choices:
        raise ValueError(f"endpoint judged is {judged:g}; it must be one of {list(choices)}")
    window, rank = table.get("window", 8), table.get("rank", "own")
    if not isinstance(window, int) or window < 1:
        raise ValueError(f"endpoint window is {window!r}; it must be a number of steps")
    if rank != "own" and (not isinstance(rank, int) or rank < 1):
        raise ValueError(f"endpoint rank is {rank!r}; it must be own or a whole number")
    return Endpoint(
        kind, names(table.get("metric", "main"), "metric"), targets, shares, judged,
        str(table.get("loss", "value_loss")), window, counted, _share(table, "within", 0.9) or 0.9,
        None if rank == "own" else rank, _share(table, "floor", None),
    )  # fmt: skip


def _has_metric(kind: str) -> bool:
    return "{metric}" in KINDS[kind].words or kind.startswith("forgetting_at")


def names(value: Any, key: str) -> tuple[str, ...]:
    """A name or a list of names."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise ValueError(f"{key} is {value!r}; it must be a name or a list of names")
    return tuple(words)


def _numbers(table: Mapping[str, Any], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    value = table.get(key, default)
    if isinstance(value, (int, float)):
        value = [value]
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in value
    ):
        raise ValueError(f"endpoint {key} is {value!r}; it must be a list of positive numbers")
    return tuple(map(float, value))


def _share(table: Mapping[str, Any], key: str, default: float | None) -> float | None:
    value = table.get(key, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"endpoint {key} is {value!r}; it must be a share, at least 0 and below 1")
    return float(value)
