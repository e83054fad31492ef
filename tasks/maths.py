"""Mathematical reasoning: MetaMathQA, scored by GSM8K and MATH (the paper's section 5.2; Table 4).

Trained as MetaMath does: Alpaca's prompt, the response and EOS, cut to 512 tokens, loss on the
response. Scored as MetaMath scores (`gsm8k_metamath`, `math_metamath`, the paper's numbers) and
also as lm-eval does (`gsm8k`, `math`). Whether an answer was found is scored apart from whether it
was right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from tasks.answers import gsm8k_response, metamath_answer
from tasks.base import Scorer, Shared
from tasks.errors import TaskError
from tasks.examples import Segments
from tasks.own_scores import AnswerScorer
from tasks.prompts import metamath_training_prompt
from tasks.tuning import TuningTask

if TYPE_CHECKING:
    import datasets


def metamath_segments(query: str, response: str, eos: str) -> Segments:
    """MetaMath's training text: nothing stands between prompt and response."""
    return [(metamath_training_prompt(query), False), (f"{response}{eos}", True)]


class MathsTask(TuningTask):
    """train_set: `metamathqa`; `gsm8k`, whose training split rehearses it under its own name; or a
    set of one's own with the columns query and response. Its answers are read where MetaMath or
    GSM8K put them, or from a column answer; its test split is scored by exact match.

    The other arguments are TuningTask's.
    """

    name = "math"
    label = "Mathematics"
    known: ClassVar = {
        "metamathqa": None,
        "gsm8k": ("math_gsm8k_train", "Mathematics (GSM8K train)"),
    }
    forms = (("query", "response"),)
    optional = "answer"

    def __init__(
        self,
        train_set: str | Mapping[str, Any] = "metamathqa",
        max_examples: int | None = None,
        max_tokens: int = 512,
        scores: Sequence[str] = ("gsm8k_metamath", "math_metamath"),
        beside: Sequence[str] = (),
        limit: int | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(train_set, max_examples, max_tokens, scores, beside, limit, **shared)

    def segments(self, row: Mapping[str, Any], eos: str) -> Segments:
        """MetaMath's text of a row; the loss is on the response and EOS."""
        return metamath_segments(self.text(row), self._response(row), eos)

    def text(self, row: Mapping[str, Any]) -> str:
        """The question."""
        if self.own is not None:
            return str(self.own.get(row, "query"))
        return str(row["question" if self.source.name == "gsm8k" else "query"])

    def _response(self, row: Mapping[str, Any]) -> str:
        if self.own is not None:
            return own_response(self.own.get(row, "response"), self.own.get(row, "answer"))[0]
        return gsm8k_response(row["answer"]) if self.source.name == "gsm8k" else row["response"]

    def own_scorer(self, rows: datasets.Dataset) -> Scorer:
        """Exact match of the answers."""
        assert self.own is not None
        items = []
        for row in rows:
            _, answer = own_response(self.own.get(row, "response"), self.own.get(row, "answer"))
            items.append((self.text(row), answer))
        return AnswerScorer(self.source.name, items)


def own_response(response: str, answer: Any = None) -> tuple[str, str]:
    """A response in MetaMath's form, and its answer; the column's, where there is one.

    A response that has no line in that form gets one. Raises TaskError where neither says what the
    answer is.

    >>> own_response("2 + 3 is 5.", 5)
    ('2 + 3 is 5.\\nThe answer is: 5', '5')
    """
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)  # a column of 5 and 0.5 is read as one of 5.0 and 0.5
    stated = None if answer is None else str(answer)
    said = metamath_answer(response, "The answer is:")
    if said is not None:
        return response, stated or said
    if stated is None and "####" in response:
        solution = gsm8k_response(response)
        if (said := metamath_answer(solution, "The answer is:")) is not None:
            return solution, said
    # Prose too may say "The answer is": without the colon it counts where nothing else does.
    stated = stated or metamath_answer(response)
    if stated is None:
        raise TaskError(
            "task.train_set: a response says its answer neither after 'The answer is:' nor after "
            f"'####', and columns states no answer: {response[:60]!r}"
        )
    return f"{response.strip()}\nThe answer is: {stated}", stated
