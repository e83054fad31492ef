"""AdaptLLM's measures (arXiv 2309.09530; microsoft/LMOps, adaptllm): functions of answers alone.

Sentiments and headlines are judged by weighted F1, ConvFinQA by any number that is near enough,
named entities by text and type apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

NEAR = 1e-2  # of ConvFinQA's numbers

Entity = tuple[str, str]  # name, type


def first_line(text: str) -> str:
    """Up to the first line break, blanks around it left out."""
    return text.split("\n", 1)[0].strip()


def weighted_f1(pairs: Iterable[tuple[Any, Any]]) -> float:
    """F1 of each gold class, weighted by its share of the (gold, predicted) pairs."""
    items = list(pairs)
    total = 0.0
    for label in {gold for gold, _ in items}:
        gold = sum(g == label for g, _ in items)
        predicted = sum(p == label for _, p in items)
        both = sum(g == p == label for g, p in items)
        total += gold * 2 * both / (gold + predicted)
    return total / len(items)


def mean_weighted_f1(items: Iterable[tuple[Any, Any, Any]]) -> float:
    """The mean of the weighted F1 over the kinds of question of Headline (nine in all).

    items: (kind, gold, predicted). Where a limit leaves a kind out, the mean is over the others.
    """
    kinds: dict[Any, list[tuple[Any, Any]]] = {}
    for kind, gold, predicted in items:
        kinds.setdefault(kind, []).append((gold, predicted))
    return sum(map(weighted_f1, kinds.values())) / len(kinds)


def numbers(text: str) -> list[float]:
    """The numbers on the first line of an answer; a per cent is a hundredth.

    >>> numbers("about -1,234.5 or 12%\\n7")
    [-1234.5, 0.12]
    """
    found = re.findall(r"([-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(%?)", first_line(text))
    return [float(n.replace(",", "")) / (100 if percent else 1) for n, percent in found]


def near_number(label: str, answer: str) -> bool:
    """ConvFinQA's exact match: any number of the answer within 0.01 of the label's first.

    >>> near_number("14.1%", "3 or 0.15"), near_number("14.1%", "14.1")
    (True, False)
    """
    wanted = numbers(label)[:1]
    return any(math.isclose(n, w, abs_tol=NEAR) for w in wanted for n in numbers(answer))


def last_word_entities(text: str) -> list[Entity]:
    """(name, type) pairs as AdaptLLM reads them: of a name the last word before "(type)" alone.

    >>> last_word_entities("Ann Lee (person), Acme Inc. (organization)")
    [('Lee', 'person'), ('Inc.', 'organization')]
    """
    return list(dict.fromkeys(re.findall(r"(\S+)\s+\((\S+)\)", first_line(text))))


def whole_entities(text: str) -> list[Entity]:
    """(name, type) pairs with whole names, types in lower case.

    >>> whole_entities(" Ann Lee (person), Rome (Location)\\nmore (person)")
    [('Ann Lee', 'person'), ('Rome', 'location')]
    """
    found = re.findall(r"([^(),]+?)\s*\(\s*([^()]+?)\s*\)", first_line(text))
    return list(dict.fromkeys((name.strip(), kind.lower()) for name, kind in found))


def entity_f1(predicted: Sequence[Entity], gold: Sequence[Entity]) -> float:
    """F1 over whole entities: name and type must both be right."""
    if not predicted and not gold:
        return 1.0
    both = len(set(predicted) & set(gold))
    return 2 * both / (len(set(predicted)) + len(set(gold)))


def half_credit_f1(predicted: Sequence[Entity], gold: Sequence[Entity]) -> float:
    """F1 that counts name and type apart, so that one of them right is half of an entity.

    As nereval does (github.com/jantrienes/nereval), to which AdaptLLM gives no positions: each gold
    entity is compared with the first predicted one that shares its name or its type. So of two
    persons, both found, the second is compared with the first and gets one half.

    >>> half_credit_f1([("Rome", "person")], [("Rome", "location")])
    0.5
    """
    right = 0
    for name, kind in gold:
        match = next((p for p in predicted if p[0] == name or p[1] == kind), None)
        if match is not None:
            right += (match[0] == name) + (match[1] == kind)
    return right / (len(predicted) + len(gold)) if right else 0.0
