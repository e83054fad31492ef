"""Reading comprehension: what is mined from a text, and a corpus mixed with instructions."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from tasks.mixing import Mixed, instruction_text
from tasks.reading import mined, patterns, reading_comprehension

FIRST = "The new compound blocks the receptor in every cell that we looked at."
SECOND = "it may lower the pressure of blood in older patients."
TITLE = "A compound and its receptor"


def asked(text: str) -> list[tuple[str, dict[str, str]]]:
    return [(question.kind, dict(question.fields)) for question in mined(text)]


@pytest.mark.parametrize(
    ("connective", "kinds"),
    [
        ("Therefore", {("inference", "Yes"), ("effect", "")}),
        ("However", {("inference", "No"), ("paraphrase", "something different")}),
        ("Moreover", {("inference", "Maybe")}),
        ("In other words", {("paraphrase", "the same")}),
        ("Perhaps", set()),
    ],
)
def test_a_connective_between_sentences_tells_how_they_stand(
    connective: str, kinds: set[tuple[str, str]]
) -> None:
    found = asked(f"{FIRST} {connective}, {SECOND}")
    assert {(kind, fields["answer"]) for kind, fields in found} == kinds
    for _, fields in found:
        assert fields["first"] == FIRST
        assert fields["second"] == SECOND[0].upper() + SECOND[1:]


def test_a_connective_within_a_sentence_tells_the_cause() -> None:
    ((kind, fields),) = asked("The patients slept badly all night owing to the pain in their legs.")
    assert kind == "cause"
    assert fields["first"] == "The patients slept badly all night"
    assert fields["second"] == "the pain in their legs."


def test_a_title_and_long_words_are_asked_about() -> None:
    words = "hypertension, immunodeficiency, neurodegeneration"
    sentence = f"In old age {words.replace(', ', ' and ')} are seen together."
    found = dict(asked(f"{TITLE}\n{sentence}"))
    assert found == {"summary": {"title": TITLE}, "words": {"words": words, "sentence": sentence}}


def test_short_sentences_are_not_asked_about() -> None:
    assert asked("It is so. Therefore, it is.") == []


def test_the_text_comes_first_and_is_said_once() -> None:
    texts = [
        f"{TITLE} {i}\n{FIRST} Therefore, {SECOND} It ends here, number {i}." for i in range(40)
    ]
    made = [reading_comprehension(text) for text in texts]
    assert made == [reading_comprehension(text) for text in texts]
    completed = 0
    wordings = [q.removeprefix("{begin}").strip() for q, _ in patterns()["questions"]["completion"]]
    for i, (text, out) in enumerate(zip(texts, made, strict=True)):
        assert out.count(f"number {i}.") == 1
        assert "Therefore" not in out.split("\n\n", 1)[1]  # the connective is not given away
        cut = not out.startswith(text)
        completed += cut
        assert cut == any(w.split("\n")[0] in out for w in wordings)
        parts = out.split("\n\n")
        assert len(parts) == 2 + 3  # the passage, the introduction; inference, effect, summary
    assert 10 < completed < 30


def test_a_text_without_anything_to_ask_stays_as_it_is() -> None:
    assert reading_comprehension("Hm") == "Hm"
    assert reading_comprehension("Braces {first} stay {0}.") == "Braces {first} stay {0}."


def test_every_kind_has_questions_that_name_only_its_fields() -> None:
    data = patterns()
    assert {entry["kind"] for entry in data["mined"]} < set(data["questions"])
    related = ("first", "second", "answer")
    named = dict.fromkeys(("inference", "effect", "cause", "paraphrase"), related)
    named |= {"words": ("words", "sentence"), "summary": ("title",), "completion": ("begin", "end")}
    assert named.keys() == data["questions"].keys()
    for kind, wordings in data["questions"].items():
        fields = dict.fromkeys(named[kind], "-")
        for question, answer in wordings:
            assert "-" in question.format_map(fields) or "{" not in question
            assert answer.format_map(fields) == "-"


# --- mixing --------------------------------------------------------------------------------------


def rows(*texts: str) -> datasets.Dataset:
    return datasets.Dataset.from_list([{"instruction": t, "output": t.lower()} for t in texts])


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.5, 3), (1.0, 6), (2.0, 12), (0.3, 1)])
def test_so_many_instructions_come_between_the_documents(ratio: float, count: int) -> None:
    documents = [f"d{i}" for i in range(6)]
    mixed = Mixed(documents, str.upper, [rows("A", "B"), rows("C")], ratio)
    assert len(mixed) == 6 + count
    texts = list(mixed)
    assert [t for t in texts if t.startswith("D")] == [d.upper() for d in documents]
    others = [t for t in texts if not t.startswith("D")]
    assert len(others) == count
    assert len(set(others[:3])) == min(3, count)  # each once before any comes again
    assert mixed[2:5] == texts[2:5]
    assert mixed[-1] == texts[-1]
    with pytest.raises(IndexError):
        mixed[len(mixed)]


def test_without_instructions_the_ratio_is_of_no_matter() -> None:
    assert list(Mixed(["a"], str.upper, [], 2.0)) == ["A"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"instruction": "Do. ", "output": "Done."}, "Do.\nDone."),
        ({"system_prompt": "Be.", "question": "Q?", "response": "R"}, "Be.\nQ?\nR"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"content": "Ho"}]}, "Hi\nHo"),
    ],
)
def test_an_instruction_is_text(row: dict[str, Any], text: str) -> None:
    assert instruction_text(row) == text
