"""Instruction tuning on Tulu v2, scored by MMLU (the paper's section 5.2), with and without the
chat form that it is trained in (`mmlu_chat`).

The text is open-instruct's: each turn begins with `<|system|>`, `<|user|>` or `<|assistant|>` on a
line of its own, an assistant's turn ends with EOS, and only assistants' turns carry the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from tasks.base import Scorer, Shared
from tasks.checks import shown
from tasks.errors import TaskError
from tasks.examples import Segments, row_by_row
from tasks.own_scores import ResponseScorer
from tasks.tuning import TuningTask

if TYPE_CHECKING:
    import datasets

ROLES = ("system", "user", "assistant")
Messages = Sequence[Mapping[str, str]]  # of a conversation, each with role and content


def chat_segments(messages: Messages, eos: str) -> Segments:
    """open-instruct's text of a conversation, in parts with and without loss.

    >>> chat_segments([{"role": "user", "content": "Hi"},
    ...                {"role": "assistant", "content": "Hello"}], "</s>")
    [('<|user|>\\nHi\\n<|assistant|>\\n', False), ('Hello</s>', True)]
    """
    parts: list[tuple[str, bool]] = []

    def add(text: str, learnt: bool) -> None:
        if parts and parts[-1][1] == learnt:
            parts[-1] = (parts[-1][0] + text, learnt)
        else:
            parts.append((text, learnt))

    for number, message in enumerate(messages, start=1):
        role, content = (_said(message, key, number) for key in ("role", "content"))
        if role not in ROLES:
            raise TaskError(f"a message has the role {role!r}; known roles: {', '.join(ROLES)}")
        if role == "assistant":
            add("<|assistant|>\n", False)
            add(f"{content.strip()}{eos}\n", True)
        else:
            add(f"<|{role}|>\n{content.strip()}\n", False)
    if parts:
        parts[-1] = (parts[-1][0].rstrip(), parts[-1][1])
    return parts


def _said(message: Mapping[str, str], key: str, number: int) -> str:
    value = message.get(key) if isinstance(message, Mapping) else None
    if not isinstance(value, str):
        raise TaskError(
            f"message {number} of a conversation has no text as its {key!r}: {shown(message)}; "
            "state role and content of each"
        )
    return value


class InstructionTask(TuningTask):
    """train_set: `tulu_v2`; `tulu_v2_standin` (local), which goes by its own name; or a set of
    one's own with the column messages (each with role and content), or prompt and response. Its
    test split is scored by the perplexity of the last responses.

    The other arguments are TuningTask's.
    """

    name = "instruction"
    label = "Instruction tuning"
    known: ClassVar = {
        "tulu_v2": None,
        "tulu_v2_standin": ("instruction_standin", "Instruction tuning (stand-in)"),
    }
    forms = (("messages",), ("prompt", "response"))

    def __init__(
        self,
        train_set: str | Mapping[str, Any] = "tulu_v2",
        max_examples: int | None = None,
        max_tokens: int = 2048,
        scores: Sequence[str] = ("mmlu_0shot", "mmlu_5shot"),
        beside: Sequence[str] = (),
        limit: int | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(train_set, max_examples, max_tokens, scores, beside, limit, **shared)

    def segments(self, row: Mapping[str, Any], eos: str) -> Segments:
        """open-instruct's text of a conversation."""
        return chat_segments(self._messages(row), eos)

    def text(self, row: Mapping[str, Any]) -> str:
        """All turns of the conversation."""
        return "\n".join(message["content"] for message in self._messages(row))

    def _messages(self, row: Mapping[str, Any]) -> Messages:
        if self.own is None:
            return row["messages"]
        if "messages" in self.own.columns:
            return self.own.get(row, "messages")
        return [
            {"role": "user", "content": self.own.get(row, "prompt")},
            {"role": "assistant", "content": self.own.get(row, "response")},
        ]

    def own_scorer(self, rows: datasets.Dataset) -> Scorer:
        """Perplexity of the last response of each conversation that has one."""
        where = f"set {self.source.name}, split test"
        talks = [talk for talk in row_by_row(rows, self._answered, where) if talk is not None]
        if not talks:
            raise TaskError(
                f"set {self.source.name}: no conversation of its test split has an assistant's "
                "turn to score"
            )
        return ResponseScorer(self.source.name, talks, last_response)

    def _answered(self, row: Mapping[str, Any]) -> Messages | None:
        messages = self._messages(row)
        return None if last_response(messages, "") is None else messages


def last_response(messages: Messages, eos: str) -> tuple[str, str] | None:
    """(text before, last assistant's turn) of a conversation; None where nothing is said.

    The text before is that of training, eos after each of the assistant's turns.

    >>> last_response([{"role": "user", "content": "Hi"},
    ...                {"role": "assistant", "content": "Hello"}], "</s>")
    ('<|user|>\\nHi\\n<|assistant|>\\n', 'Hello')
    """
    parts = list(chat_segments(messages, eos))
    while parts:
        text, learnt = parts.pop()
        response = text.rstrip().removesuffix(eos)
        if learnt and response:
            return "".join(before for before, _ in parts), response
    return None
