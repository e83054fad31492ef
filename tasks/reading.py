"""Raw text made into reading comprehension: a passage, then questions mined from it with answers.

After AdaptLLM (arXiv 2309.09530, sec. 3), with patterns and wording of our own, which are data in
reading.yaml: connectives show inference, cause, effect and paraphrase; a title, a summary; long
words, a sentence to write; a cut, a completion. AdaptLLM's own domain words come from a vocabulary
trained on the corpus; here their length tells them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).with_name("reading.yaml")


@dataclass(frozen=True)
class Question:
    """Something to ask of a text: its kind, and what fills the kind's wordings."""

    kind: str
    fields: Mapping[str, str]

    def text(self, wording: Sequence[str]) -> str:
        """Question and answer, joined by a blank."""
        question, answer = (part.format_map(self.fields) for part in wording)
        return f"{question} {answer}"


@cache
def patterns() -> dict[str, Any]:
    """The data of reading.yaml."""
    return yaml.safe_load(DATA.read_text(encoding="utf-8"))


def reading_comprehension(text: str) -> str:
    """The text and what is asked of it, the same every time; the text alone where nothing is.

    Some texts are cut, and their end is an answer itself: nothing is said twice.
    """
    data = patterns()
    rng = random.Random(text)
    asked: list[str] = []
    by_kind: dict[str, list[Question]] = {}
    for question in mined(text):
        by_kind.setdefault(question.kind, []).append(question)
    for kind, questions in by_kind.items():
        chosen = rng.sample(questions, min(len(questions), data["at_most"]))
        asked += [question.text(rng.choice(data["questions"][kind])) for question in chosen]
    rng.shuffle(asked)
    sentences = _sentences(text)
    if rng.random() < data["completed"] and len(sentences) > 1:
        begin = text[: sentences[rng.randrange(1, len(sentences))].start()]
        parts = {"begin": begin.rstrip(), "end": text[len(begin) :]}
        wording = rng.choice(data["questions"]["completion"])
        text = Question("completion", parts).text(wording)
    introduction = [rng.choice(data["introductions"])] if asked else []
    return "\n\n".join([text.strip(), *introduction, *asked])


def mined(text: str) -> Iterator[Question]:
    """All that can be asked of a text, but for its completion."""
    data = patterns()
    title, _, rest = text.strip().partition("\n")
    if rest.strip() and len(title) <= data["longest_title"]:
        yield Question("summary", {"title": title.strip()})
    sentences = [match[0] for match in _sentences(text)]
    long = [len(sentence) >= data["shortest_sentence"] for sentence in sentences]
    for index, sentence in enumerate(sentences):
        if not long[index]:
            continue
        words = list(dict.fromkeys(re.findall(rf"\b{data['domain_word']}\b", sentence)))
        if len(words) >= data["domain_words"]:
            shown = ", ".join(words[: data["domain_words"]])
            yield Question("words", {"words": shown, "sentence": sentence})
        for entry, between, inside in _connectives():
            fields = {"answer": entry.get("answer", "")}
            if inside:
                found = between.search(sentence)
                if found:
                    first = sentence[: found.start()].strip(" ,")
                    second = sentence[found.end() :].strip()
                    yield Question(entry["kind"], {**fields, "first": first, "second": second})
            elif index and long[index - 1] and (found := between.match(sentence)):
                second = sentence[found.end() :]
                second = second[:1].upper() + second[1:]
                fields |= {"first": sentences[index - 1], "second": second}
                yield Question(entry["kind"], fields)


def _sentences(text: str) -> list[re.Match[str]]:
    """Sentences of one line each, with their places."""
    return list(re.finditer(r"[^\s].*?(?:[.!?]+(?=\s|$)|$)", text, re.MULTILINE))


@cache
def _connectives() -> list[tuple[Mapping[str, Any], re.Pattern[str], bool]]:
    """(entry of `mined`, its pattern, whether it stands inside a sentence)."""
    found = []
    for entry in patterns()["mined"]:
        words = "|".join(map(re.escape, entry["connectives"]))
        inside = entry.get("inside", False)
        pattern = rf"\s(?:{words})\s+(?=\S)" if inside else rf"(?:{words}),\s+(?=\S)"
        found.append((entry, re.compile(pattern), inside))
    return found
